"""The embedded host's CLIP from a text encoder's own file: what ComfyUI's Load CLIP reads, or a transformers folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ...bundles.find import kind_of
from ...bundles.format import load_foreign
from ...checkpoint.parts import text_part
from ...checkpoint.vocabulary import find_tokenizer, read_tokenizer
from ...errors import BundleError
from ...text.model_folder import read_json, read_weights
from . import clip, process
from .checkpoint import text_network
from .clip import Clip
from .sd_clip import SdClip, SdEncoder

QUICK_LAYERS = 12
"""Layers up to which a text encoder is OpenAI's (SD 1.5's `l`), with their activation and padding; larger ones are OpenCLIP's."""
PREFIX, PROJECTION = "text_model.", "text_projection.weight"


def load_clip(path: Path) -> Clip | SdClip:
    """Return the CLIP in a bundle of kind `text`, in a `.safetensors` of one of CLIP's text encoders, or in a transformers folder.

    Raises :class:`BundleError` for anything else, and for one without the projection that puts texts beside pictures."""
    if path.is_file() and kind_of(path) is not None:
        return clip.load(path)
    told: Any = {}
    if path.is_dir():
        config, tensors = read_json(path, "config.json"), read_weights(path)
        told = config.get("text_config", config)
        told = {"hidden_act": "quick_gelu", **told} if isinstance(told, dict) else {}
    elif path.suffix.lower() == ".safetensors" and path.is_file():
        tensors = load_foreign(path)
    else:
        raise BundleError(f"{path}: expected a .safetensors file or a transformers folder of one of CLIP's text encoders")
    kept = {key: tensor for key, tensor in tensors.items() if key.startswith((PREFIX, PROJECTION))}
    if not kept:
        raise BundleError(f"{path.name} is none of CLIP's text encoders alone ({PREFIX}...); give one such as clip_l.safetensors")
    if PROJECTION not in kept:
        raise BundleError(
            f"{path.name} gives texts no vector beside pictures ({PROJECTION} is missing), as a CLIP inside an SD 1.5 checkpoint; give "
            "clip_l.safetensors for ViT-L/14"
        )
    layers = len([key for key in kept if key.startswith(f"{PREFIX}encoder.layers.") and key.endswith(".mlp.fc1.weight")])
    is_openai = layers <= QUICK_LAYERS
    tokenizer = read_tokenizer(path) if path.is_dir() else find_tokenizer(path)
    activation = told.get("hidden_act", "quick_gelu" if is_openai else "gelu")
    part = text_part(kept, tokenizer, path.name, activation, told.get("num_attention_heads"))
    pad = int(tokenizer.eos_token_id) if is_openai else 0
    encoder = SdEncoder(text_network(part, f"{path.name}, text encoder"), tokenizer, process.device(), pad=pad)
    return SdClip({"l" if is_openai else "g": encoder})
