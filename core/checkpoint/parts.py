"""Parts of a checkpoint, however it was stored: networks whose tensors have the names of diffusers and transformers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..bundles.format import LatentSpace, Schedule
from ..errors import BundleError

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Part:
    """One network: the arguments of its class, and its tensors."""

    config: dict[str, Any]
    tensors: dict[str, Tensor]


@dataclass(frozen=True)
class TextPart(Part):
    """A CLIP text transformer (arguments of CLIPTextConfig) with transformers' CLIPTokenizer."""

    tokenizer: Any


@dataclass(frozen=True)
class Checkpoint:
    """`unet` for UNet2DConditionModel, `vae` for AutoencoderKL, `texts` by ComfyUI's keys: `l` (SD 1.5), `l` and `g` (SDXL), `g` (its
    refiner), `h` (SD 2)."""

    name: str
    unet: Part
    vae: Part
    texts: dict[str, TextPart]
    latent: LatentSpace
    schedule: Schedule


def text_part(tensors: Mapping[str, Tensor], tokenizer: Any, name: str, hidden_act: str, heads: int | None = None) -> TextPart:
    """Return a text transformer whose sizes its tensors tell; what they cannot tell is its activation and the number of heads (of 64
    features each unless given).

    A missing projection is the identity: OpenAI's CLIP in SD 1.5 comes without. Raises :class:`BundleError` where parts do not fit.
    """
    import torch

    named = {key if key.startswith("text_") else f"text_model.{key}": tensor for key, tensor in tensors.items()}
    named = {key: tensor for key, tensor in named.items() if not key.endswith("position_ids")}
    layers = len([key for key in named if key.startswith("text_model.encoder.layers.") and key.endswith(".mlp.fc1.weight")])
    try:
        vocabulary, width = named["text_model.embeddings.token_embedding.weight"].shape
        length = named["text_model.embeddings.position_embedding.weight"].shape[0]
        inner = named["text_model.encoder.layers.0.mlp.fc1.weight"].shape[0]
    except (KeyError, ValueError) as error:
        raise BundleError(
            f"{name} lacks parts of its CLIP text encoder ({error}); in ComfyUI it may load with a CLIP of its own"
        ) from error
    whole = isinstance(heads, int) and not isinstance(heads, bool)
    if not isinstance(hidden_act, str) or (heads is not None and (not whole or not 1 <= heads <= width or width % heads)):
        raise BundleError(
            f"{name}: its text encoder has hidden_act = {str(hidden_act)[:40]!r} and num_attention_heads = {str(heads)[:40]}; expected the "
            f"name of a function, and a divisor of {width}"
        )
    if len(tokenizer) > vocabulary:
        raise BundleError(f"{name}: the tokenizer has {len(tokenizer)} tokens, but the text encoder knows {vocabulary}")
    projection = named.setdefault("text_projection.weight", torch.eye(width))
    config = {
        "vocab_size": vocabulary, "hidden_size": width, "intermediate_size": inner, "num_hidden_layers": layers,
        "num_attention_heads": heads or max(width // 64, 1), "max_position_embeddings": length, "projection_dim": projection.shape[0],
        "hidden_act": hidden_act, "layer_norm_eps": 1e-5,
        "bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id, "pad_token_id": 0,
    }  # fmt: skip
    return TextPart(config, named, tokenizer)
