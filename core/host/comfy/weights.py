"""Changes of weights as ComfyUI's own patches: they stack with LoRAs, scale with their strength, and are merged where those are."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import comfy.utils
import torch

from ...errors import InputError

_PREFIX = "diffusion_model."


def weight_shapes(model: Any) -> dict[str, torch.Size]:
    """See :meth:`Host.weight_shapes`. Raises :class:`InputError` for a model that is no U-Net."""
    tensors = model.model.state_dict()
    return {name: tensors[key].shape for name, key in _keys(model).items()}


def add_weights(model: Any, deltas: Mapping[str, torch.Tensor], strength: float) -> Any:
    """See :meth:`Host.add_weights`: one `diff` patch a layer."""
    keys, clone = _keys(model), model.clone()
    clone.add_patches({keys[name]: ("diff", (delta,)) for name, delta in deltas.items()}, strength)
    return clone


def _keys(model: Any) -> dict[str, str]:
    """ComfyUI's key of each weight of two dimensions or more, by its layer's name in diffusers' layout."""
    config = model.model.model_config.unet_config
    if "channel_mult" not in config:
        raise InputError(f"this model ({type(model.model).__name__}) is no U-Net; the adapter changes the layers of one")
    tensors = model.model.state_dict()
    names = {name: f"{_PREFIX}{key}" for name, key in comfy.utils.unet_to_diffusers(config).items()}
    return {name.removesuffix(".weight"): key for name, key in names.items()
            if name.endswith(".weight") and key in tensors and tensors[key].dim() >= 2}  # fmt: skip
