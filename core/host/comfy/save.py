"""A MODEL of ComfyUI written as a U-Net bundle and read again, and one evaluation of it to measure.

Our own MODELs go back to diffusers' names and their own config, and load in both hosts. A user's checkpoint keeps ComfyUI's names; the
bundle records its family (a class of `comfy.supported_models`) and its arguments, and loads in ComfyUI only.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import comfy.model_base
import comfy.model_management
import comfy.supported_models
import comfy.utils
import torch

from ...bundles.format import Bundle, BundleInfo, LatentSpace, Schedule, save_bundle
from ...errors import BundleError, InputError
from ...lowrank.factorize import factored_names, open_factors
from ..fit import name_of
from .lowrank import rebuild, wrap

_KEY = "comfyui"
_PREDICTIONS = {"EPS": "eps", "V_PREDICTION": "v"}


def save_unet(model: Any, path: Path, provenance: Mapping[str, Any]) -> Path:
    """See :meth:`Host.save_unet`. Raises :class:`InputError` for a family whose arguments cannot be written down."""
    inner = rebuild(model, _nothing).model
    config = inner.model_config
    tensors = {key: tensor.half() if tensor.is_floating_point() else tensor for key, tensor in inner.diffusion_model.state_dict().items()}
    ours = getattr(type(config), "bundle", None)  # an instance would make up an answer
    if ours is not None:
        names = with_factors(
            {ldm: diffusers for diffusers, ldm in comfy.utils.unet_to_diffusers(config.unet_config).items() if _is_ours(diffusers)}, tensors
        )
        if nameless := sorted(set(tensors) - set(names)):
            raise InputError(f"the weight {nameless[0]} has no name in diffusers' layout; this model cannot be saved as a bundle")
        tensors = {names[key]: tensor for key, tensor in tensors.items()}
        info = BundleInfo("unet", ours.config, ours.latent, ours.schedule, provenance=dict(provenance))
        return save_bundle(path, tensors, info)
    family, kind = type(config).__name__, inner.model_type.name
    if not hasattr(comfy.supported_models, family) or kind not in _PREDICTIONS:
        raise InputError(f"a model of family {family} ({kind}) cannot be saved as a bundle; save it with ComfyUI's own Save Model")
    arguments = {key: value for key, value in config.unet_config.items() if _is_plain(value)}
    space = inner.latent_format
    latent = LatentSpace(space.latent_channels, 8, float(space.scale_factor), float(getattr(space, "shift_factor", 0.0) or 0.0))
    extra = {_KEY: {"family": family, "unet_config": arguments}}
    info = BundleInfo("unet", {}, latent, Schedule(_PREDICTIONS[kind]), provenance=dict(provenance), extra=extra)
    return save_bundle(path, tensors, info)


def is_foreign(info: BundleInfo) -> bool:
    """Whether a bundle holds a user's checkpoint under ComfyUI's names."""
    return _KEY in info.extra


def load_foreign_unet(bundle: Bundle) -> Any:
    """A MODEL from what :func:`save_unet` wrote of a user's checkpoint. Raises :class:`BundleError` naming what does not fit."""
    info = bundle.info
    stored = info.extra[_KEY]
    family = getattr(comfy.supported_models, str(stored.get("family")), None)
    if family is None or not isinstance(stored.get("unet_config"), dict) or info.schedule is None:
        raise BundleError(f"{name_of(info)}: this ComfyUI knows no model family {stored.get('family')!r}")
    config = family(dict(stored["unet_config"]))
    kind = next((name for name, ours in _PREDICTIONS.items() if ours == info.schedule.prediction), "EPS")
    config.model_type = lambda *_, **__: comfy.model_base.ModelType[kind]
    device, offload = choose_dtype(config, bundle.tensors)
    try:
        inner = config.get_model({}, "").to(offload)
        open_factors(inner.diffusion_model, bundle.tensors, name_of(info))
        inner.diffusion_model.load_state_dict(bundle.tensors)
    except (TypeError, ValueError, RuntimeError, KeyError, AttributeError) as error:
        raise BundleError(f"{name_of(info)}: its config and its tensors do not make a {stored['family']} ({error!s:.300})") from error
    return wrap(inner, device, offload)


def choose_dtype(config: Any, tensors: Mapping[str, torch.Tensor]) -> tuple[torch.device, torch.device]:
    """Set the dtypes that ComfyUI chooses for a `config` with these weights; return the device it computes on and the one it rests on."""
    management, device = comfy.model_management, comfy.model_management.get_torch_device()
    dtype = management.unet_dtype(
        model_params=sum(tensor.numel() for tensor in tensors.values()),
        supported_dtypes=list(config.supported_inference_dtypes),
        weight_dtype=comfy.utils.weight_dtype(tensors),
    )
    config.set_inference_dtype(dtype, management.unet_manual_cast(dtype, device, config.supported_inference_dtypes))
    return device, management.unet_offload_device()


def with_factors(names: Mapping[str, str], tensors: Mapping[str, Any]) -> dict[str, str]:
    """A map of weights' names from one layout to another, completed for the factors in `tensors` (the first layout's names)."""
    found = dict(names)
    for path in factored_names(tensors):
        dense = names.get(f"{path}.weight")
        if dense is not None:
            other = dense.removesuffix(".weight")
            found |= {f"{path}.{end}": f"{other}.{end}" for end in ("a.weight", "a.bias", "b.weight")}
    return found


def evaluate(model: Any, latent: torch.Tensor) -> Callable[[], None]:
    """See :meth:`Host.evaluate`. The model is loaded by ComfyUI's own management."""
    comfy.model_management.load_models_gpu([model])
    inner, device = model.model, model.load_device
    config = inner.model_config.unet_config
    shape = (latent.shape[0], inner.latent_format.latent_channels, *latent.shape[2:])  # an empty latent always has four channels
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(device)
    tokens = torch.randn(len(x), 24, config["context_dim"], generator=torch.Generator().manual_seed(1)).to(device)
    sigma = model.get_model_object("model_sampling").sigma(torch.full((len(x),), 500.0)).to(device)
    more = {"y": torch.zeros(len(x), config["adm_in_channels"], device=device)} if config.get("adm_in_channels") else {}

    def once() -> None:
        with torch.no_grad():
            inner.apply_model(x, sigma, c_crossattn=tokens, **more)

    return once


def _is_ours(name: str) -> bool:
    return not name.startswith("add_embedding.")  # diffusers has two names for ComfyUI's one; our U-Nets know `class_embedding`


def _is_plain(value: Any) -> bool:
    try:
        json.dumps(value)
    except (TypeError, ValueError):
        return False
    return True


def _nothing(_: Any) -> None:
    return None
