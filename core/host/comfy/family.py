"""Families of ComfyUI's MODELs as a bundle records them: a class of `comfy.supported_models`, and what that class read off a checkpoint."""

from __future__ import annotations

import json
from typing import Any

import comfy.latent_formats
import comfy.model_base
import comfy.supported_models
import comfy.utils
import torch

from ...bundles.format import BundleInfo, LatentSpace, Schedule
from ...errors import BundleError, InputError
from ...lowrank.layers import quantization
from ..fit import name_of

KEY = "comfyui"
_PREDICTIONS = {"EPS": "eps", "V_PREDICTION": "v"}


def describe(inner: Any) -> BundleInfo:
    """Return what a bundle says of a BaseModel. Raises :class:`InputError` for a family that ComfyUI could not find by its name again."""
    config, space = inner.model_config, inner.latent_format
    family, kind = type(config).__name__, inner.model_type.name
    if not hasattr(comfy.supported_models, family):
        raise InputError(f"a model of family {family} ({kind}) cannot be saved as a bundle; save it with ComfyUI's own Save Model")
    scale, factor = getattr(space, "scale_factor", 1.0), getattr(space, "spacial_downscale_ratio", 8)
    shift = getattr(space, "shift_factor", 0.0) or 0.0
    latent = LatentSpace(
        space.latent_channels, factor if isinstance(factor, int) else 8, float(scale) if isinstance(scale, int | float) else 1.0,
        float(shift) if isinstance(shift, int | float) else 0.0,
    )  # fmt: skip
    recorded = {
        "family": family,
        "unet_config": _plain(config.unet_config),
        "model_type": kind,
        "sampling_settings": _plain(config.sampling_settings),
        "latent_format": type(space).__name__,
    }
    return BundleInfo("unet", {}, latent, Schedule(_PREDICTIONS[kind]) if kind in _PREDICTIONS else None, extra={KEY: recorded})


def family_config(info: BundleInfo) -> Any:
    """Return the family's config that :func:`describe` recorded. Raises :class:`BundleError` where this ComfyUI has no such family.

    Bundles of older versions name no `model_type`, only the prediction of their schedule."""
    stored = info.extra[KEY]
    family = getattr(comfy.supported_models, str(stored.get("family")), None)
    by_schedule = next((name for name, ours in _PREDICTIONS.items() if info.schedule and ours == info.schedule.prediction), None)
    kind = getattr(comfy.model_base.ModelType, str(stored.get("model_type") or by_schedule), None)
    if family is None or kind is None or not isinstance(stored.get("unet_config"), dict):
        raise BundleError(f"{name_of(info)}: this ComfyUI knows no model family {stored.get('family')!r}; update ComfyUI")
    config = family(dict(stored["unet_config"]))
    config.unet_config |= stored["unet_config"]  # the class has put its own defaults over some of them
    config.model_type = lambda *_, **__: kind
    if isinstance(stored.get("sampling_settings"), dict):
        config.sampling_settings = dict(stored["sampling_settings"])
    space = getattr(comfy.latent_formats, str(stored.get("latent_format")), None)
    if space is not None and type(config.latent_format) is not space:
        config.latent_format = space()
    return config


def stored_tensors(network: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Return a network's tensors as a bundle stores them: float32 in half precision, quantized layers as they are."""
    left = tuple(f"{name}." for name, layer in network.named_modules() if quantization(layer) is not None)
    return {
        name: tensor.half() if tensor.dtype == torch.float32 and not (left and name.startswith(left)) else tensor
        for name, tensor in network.state_dict().items()
    }


def _plain(values: dict[str, Any]) -> dict[str, Any]:
    """Return the entries that JSON can hold."""
    return {key: value for key, value in values.items() if _is_plain(value)}


def _is_plain(value: Any) -> bool:
    try:
        json.dumps(value)
    except (TypeError, ValueError):
        return False
    return True
