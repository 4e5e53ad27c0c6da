"""Surgery on ComfyUI's MODELs: a copy to operate on, changes of weights, and one evaluation to measure.

Changes of weights are ComfyUI's own patches: they stack with LoRAs, scale with their strength, and are merged where those are.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import comfy.model_management
import comfy.model_patcher
import comfy.utils
import torch

from ...errors import InputError
from .lowrank import copy_model, wrap

_PREFIX = "diffusion_model."
_CARRIED = ("attachments", "additional_models", "callbacks", "wrappers", "injections", "model_options", "object_patches")


def rebuild(model: Any, surgery: Callable[[Any], None]) -> Any:
    """See :meth:`SurgeryTopic.rebuild`."""
    inner = copy_model(model.model)
    scratch = comfy.model_patcher.ModelPatcher(inner, load_device=model.offload_device, offload_device=model.offload_device)
    scratch.patches = {key: list(patches) for key, patches in model.patches.items()}
    for key in scratch.patches:
        scratch.patch_weight_to_device(key, device_to=model.offload_device)
    surgery(inner.diffusion_model)
    made = wrap(inner, model.load_device, model.offload_device)
    source = model.clone()
    for name in _CARRIED:
        setattr(made, name, getattr(source, name))
    return made


def weight_shapes(model: Any) -> dict[str, torch.Size]:
    """See :meth:`SurgeryTopic.weight_shapes`. Raises :class:`InputError` for a model that is no U-Net."""
    tensors = model.model.state_dict()
    return {name: tensors[key].shape for name, key in _keys(model).items()}


def add_weights(model: Any, deltas: Mapping[str, torch.Tensor], strength: float) -> Any:
    """See :meth:`SurgeryTopic.add_weights`: one `diff` patch a layer."""
    keys, clone = _keys(model), model.clone()
    clone.add_patches({keys[name]: ("diff", (delta,)) for name, delta in deltas.items()}, strength)
    return clone


def evaluate(model: Any, latent: torch.Tensor) -> Callable[[], None]:
    """See :meth:`SurgeryTopic.evaluate`. The model is loaded by ComfyUI's own management."""
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


def _keys(model: Any) -> dict[str, str]:
    """Return ComfyUI's key of each weight of two dimensions or more, by its layer's name in diffusers' layout."""
    config = model.model.model_config.unet_config
    if "channel_mult" not in config:
        raise InputError(f"this model ({type(model.model).__name__}) is no U-Net; the adapter changes the layers of one")
    tensors = model.model.state_dict()
    names = {name: f"{_PREFIX}{key}" for name, key in comfy.utils.unet_to_diffusers(config).items()}
    return {name.removesuffix(".weight"): key for name, key in names.items()
            if name.endswith(".weight") and key in tensors and tensors[key].dim() >= 2}  # fmt: skip
