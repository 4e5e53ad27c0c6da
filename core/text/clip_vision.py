"""CLIP Vision models from files, without ComfyUI: what reads pictures for the filters of a folder and for picture prompts.

A file is a `.safetensors` with the names of transformers (`vision_model...`, as in ComfyUI's folder `clip_vision`), a transformers folder,
or an image tower of this pack. Every size comes from the tensors; pictures are prepared as ComfyUI prepares them.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional

from ..bundles.find import kind_of
from ..bundles.format import load_foreign
from ..bundles.load import load_bundle
from ..errors import BundleError
from ..networks import build_network
from .image_tower import ImageTower, load_image_tower
from .model_folder import read_json, read_weights

if TYPE_CHECKING:
    from collections.abc import Callable

MEAN, DEVIATION = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
"""Of CLIP's pictures, by channel."""
HEADS, HEAD_WIDTH = 16, 64
"""Heads of a layer are as many as fit at this width, and at most 16: so in ViT-B, L, H, g and bigG."""
QUICK_LAYERS = 24
"""Layers up to which a network is OpenAI's, with their activation; larger ones are OpenCLIP's."""
EMBEDDINGS, FIRST, PROJECTION = "vision_model.embeddings.", "vision_model.encoder.layers.0.", "visual_projection.weight"


class ClipVision:
    """A CLIP Vision model as ComfyUI's socket has it: `encode_image(image)` gives `image_embeds` (B, width) of an IMAGE (B, H, W, 3)."""

    def __init__(self, embed: Callable[[Tensor], Tensor]) -> None:
        self._embed = embed

    @torch.no_grad()
    def encode_image(self, image: Tensor) -> dict[str, Tensor]:
        """Return the embeddings, in float32 on the CPU."""
        return {"image_embeds": self._embed(image[..., :3]).float().cpu()}


def load_clip_vision(path: Path, device: torch.device) -> ClipVision:
    """Return the CLIP Vision model in a file or a folder. Raises :class:`BundleError` for anything else, by its file's name."""
    if path.is_file() and kind_of(path) is not None:
        tower: ImageTower = load_image_tower(load_bundle(path, "image")).to(device).requires_grad_(False)
        return ClipVision(lambda image: tower(image.movedim(-1, 1).to(device).float() * 2 - 1))
    if path.is_dir():
        config, tensors = read_json(path, "config.json"), read_weights(path)
        told = config.get("vision_config", config)
    elif path.suffix.lower() == ".safetensors" and path.is_file():
        told, tensors = {}, load_foreign(path)
    else:
        raise BundleError(f"{path}: expected a .safetensors file or a transformers folder of a CLIP Vision model")
    return ClipVision(_reader(network_of_tensors(tensors, path.name, told if isinstance(told, dict) else {}).to(device), device))


def network_of_tensors(tensors: Mapping[str, Tensor], name: str, told: Mapping[str, Any]) -> Any:
    """Return transformers' CLIPVisionModelWithProjection. `told` may say its `hidden_act` and `num_attention_heads`, which weights do not
    tell. Raises :class:`BundleError` where a part lacks or does not fit."""
    from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

    kept = {key: one for key, one in tensors.items() if key.startswith(("vision_model.", PROJECTION)) and not key.endswith("position_ids")}
    layers = len([key for key in kept if key.startswith("vision_model.encoder.layers.") and key.endswith(".mlp.fc1.weight")])
    try:
        width, colours, patch, _ = kept[f"{EMBEDDINGS}patch_embedding.weight"].shape
        cells = kept[f"{EMBEDDINGS}position_embedding.weight"].shape[0] - 1
        inner, joint = kept[f"{FIRST}mlp.fc1.weight"].shape[0], kept[PROJECTION].shape[0]
    except (KeyError, ValueError) as error:
        raise BundleError(
            f"{name} is no CLIP Vision model with the names of transformers (at {error}); expected one such as ComfyUI's folder "
            "clip_vision holds, with its projection"
        ) from error
    heads = told.get("num_attention_heads", min(HEADS, max(1, width // HEAD_WIDTH)))
    act = told.get("hidden_act", "quick_gelu" if told or layers <= QUICK_LAYERS else "gelu")
    whole = isinstance(heads, int) and not isinstance(heads, bool) and 1 <= heads <= width
    if not whole or not isinstance(act, str):
        raise BundleError(
            f"{name}: hidden_act = {str(act)[:40]!r} and num_attention_heads = {str(heads)[:40]} are expected to be the name of a function "
            f"and a divisor of {width}"
        )
    config = {
        "hidden_size": width, "intermediate_size": inner, "num_hidden_layers": layers, "num_attention_heads": heads,
        "image_size": round(cells**0.5) * patch, "patch_size": patch, "num_channels": colours, "projection_dim": joint,
        "hidden_act": act, "layer_norm_eps": 1e-5,
    }  # fmt: skip

    def clip_vision_model(**given: Any) -> Any:
        return CLIPVisionModelWithProjection(CLIPVisionConfig(**given))

    network = build_network(clip_vision_model, config, kept, f"{name}, CLIP Vision")
    # Not among the file's tensors, so still without memory.
    network.vision_model.embeddings.register_buffer("position_ids", torch.arange(cells + 1)[None], persistent=False)
    return network


def prepared(image: Tensor, side: int) -> Tensor:
    """Return an IMAGE (B, H, W, 3) as CLIP reads pictures, (B, 3, side, side): its shorter side resized, cut to its middle, in 256 steps,
    centred by :data:`MEAN` and :data:`DEVIATION`."""
    pixels = image.movedim(-1, 1).float()
    if tuple(pixels.shape[2:]) != (side, side):
        scale = side / min(pixels.shape[2:])
        size = (round(scale * pixels.shape[2]), round(scale * pixels.shape[3]))
        pixels = functional.interpolate(pixels, size=size, mode="bicubic", antialias=True)
        top, left = (pixels.shape[2] - side) // 2, (pixels.shape[3] - side) // 2
        pixels = pixels[:, :, top : top + side, left : left + side]
    pixels = (pixels * 255).clamp(0, 255).round() / 255
    mean, deviation = (torch.tensor(one, device=pixels.device)[:, None, None] for one in (MEAN, DEVIATION))
    return (pixels - mean) / deviation


def _reader(network: Any, device: torch.device) -> Callable[[Tensor], Tensor]:
    side = int(network.config.image_size)
    return lambda image: network(pixel_values=prepared(image.to(device), side)).image_embeds
