"""LoRA files in ComfyUI's layout: `KEY.lora_up.weight`, `KEY.lora_down.weight` and `KEY.alpha` for each layer.

KEY is `diffusion_model.` and the layer's name in ComfyUI's network, for any family of models; for a text encoder `text_encoders.` and the
layer's name. A U-Net of diffusers has other names for its
layers: :func:`comfy_name` translates them. ComfyUI's Load LoRA reads such a file, and so do programs that read ComfyUI's.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from ..bundles.format import load_foreign
from ..bundles.lora_about import ABOUT
from ..errors import BundleError
from ..files import replacing
from .lora import MAX_RANK, Factors

PREFIX = "diffusion_model."
TEXT_PREFIX = "text_encoders."
"""Beginning of the keys of a text encoder's layers, in ComfyUI's own layout."""
BESIDE = "rapiddraw."
"""Beginning of the names of tensors that a node of this pack keeps beside a LoRA; others pass over them."""
_PARTS = ("lora_up.weight", "lora_down.weight", "alpha")
_RESNET = {"conv1": "in_layers.2", "conv2": "out_layers.3", "time_emb_proj": "emb_layers.1", "conv_shortcut": "skip_connection"}
_BASE = {
    "conv_in": "input_blocks.0.0", "conv_out": "out.2", "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2", "add_embedding.linear_1": "label_emb.0.0", "add_embedding.linear_2": "label_emb.0.2",
}  # fmt: skip


def save_lora(
    path: Path, factors: Mapping[str, Factors], about: Mapping[str, Any], beside: Mapping[str, torch.Tensor] | None = None
) -> Path:
    """Write `factors`, by KEY, in half precision, with `about` (JSON values) in the file's metadata. Returns the path.

    `beside` are further tensors, whose names begin with :data:`BESIDE`; they are written as they are.

    Equal factors and equal `about` make equal files. Raises :class:`BundleError` for values that are not finite,
    :class:`~..errors.WriteError` where the file cannot be written.
    """
    from safetensors.torch import save_file

    tensors = {name: value.detach().cpu().contiguous() for name, value in (beside or {}).items()}
    for key, (up, down, alpha) in sorted(factors.items()):
        for part, value in zip(_PARTS, (up, down, torch.tensor(alpha)), strict=True):
            stored = value.detach().float().half() if part != "alpha" else value
            if not bool(stored.isfinite().all()):
                raise BundleError(f"{path.name}: {key}.{part} holds values that are not finite, or too large for half precision")
            tensors[f"{key}.{part}"] = stored.cpu().contiguous()
    with replacing(path) as temporary:
        save_file(tensors, temporary, metadata={ABOUT: json.dumps(dict(about), ensure_ascii=True, sort_keys=True)})
    return path


def read_lora(path: Path) -> dict[str, Factors]:
    """Return the factors in a file, by KEY, in float32. A file without alphas has alpha = rank, as ComfyUI reads it.

    Raises :class:`BundleError`, which names the tensor, for a damaged file, for half a pair, and for a tensor that is no part of a LoRA.
    """
    found: dict[str, dict[str, torch.Tensor]] = {}
    for name, tensor in load_foreign(path).items():
        if name.startswith(BESIDE):
            continue
        part = next((part for part in _PARTS if name.endswith(f".{part}")), None)
        if part is None:
            raise BundleError(f"{path.name}: {name!r:.120} is no part of a LoRA of {', '.join(_PARTS)}; ComfyUI may read this file")
        found.setdefault(name.removesuffix(f".{part}"), {})[part] = tensor.float()
    if not found:
        raise BundleError(f"{path.name} holds no LoRA")
    return {key: _factors(f"{path.name}: {key:.120}", parts) for key, parts in sorted(found.items())}


def delta_of(factors: Factors) -> torch.Tensor:
    """Return dW = alpha / r U D, in the shape of the layer's weight: (out, in) or (out, in, kh, kw)."""
    up, down, alpha = factors
    product = up.flatten(1) @ down.flatten(1) * (alpha / down.shape[0])
    return product.reshape(up.shape[0], *down.shape[1:])


def comfy_name(name: str, layers: int) -> str:
    """Return ComfyUI's name of the layer `name` of a diffusers U-Net with `layers` resnets a level ("" where it has none).

    Stable Diffusion's blocks are numbered through: those of the way down with the first convolution and the downsamplers between, those of
    the way up with an upsampler at the end of a level.
    """
    if name in _BASE:
        return _BASE[name]
    if match := re.match(r"mid_block\.(resnets|attentions)\.(\d+)\.(.+)$", name):
        return f"middle_block.{2 * int(match[2]) if match[1] == 'resnets' else 1}.{_inner(match[1], match[3])}"
    if match := re.match(r"(down|up)_blocks\.(\d+)\.(resnets|attentions)\.(\d+)\.(.+)$", name):
        level, block, is_attention = int(match[2]), int(match[4]), int(match[3] == "attentions")
        number = 1 + (layers + 1) * level + block
        place = f"input_blocks.{number}" if match[1] == "down" else f"output_blocks.{number - 1}"
        return f"{place}.{is_attention}.{_inner(match[3], match[5])}"
    if match := re.match(r"down_blocks\.(\d+)\.downsamplers\.0\.conv$", name):
        return f"input_blocks.{(layers + 1) * (int(match[1]) + 1)}.0.op"
    return ""


def _inner(kind: str, name: str) -> str:
    return _RESNET[name] if kind == "resnets" and name in _RESNET else name


def _factors(name: str, parts: Mapping[str, torch.Tensor]) -> Factors:
    up, down = parts.get(_PARTS[0]), parts.get(_PARTS[1])
    if up is None or down is None:
        raise BundleError(f"{name} lacks {_PARTS[0] if up is None else _PARTS[1]}")
    alpha = parts.get("alpha")
    shapes_fit = up.dim() == down.dim() in (2, 4) and up.flatten(1).shape[1] == down.shape[0] and 1 <= down.shape[0] <= MAX_RANK
    if not shapes_fit or (alpha is not None and alpha.numel() != 1):
        raise BundleError(f"{name}: U {tuple(up.shape)} and D {tuple(down.shape)} make no LoRA; expected (out, r) and (r, in)")
    return up, down, float(down.shape[0] if alpha is None else alpha)
