"""Surgery on ComfyUI's MODELs: a copy to operate on, changes of weights, and one evaluation to measure.

Changes of weights are ComfyUI's own patches: they stack with LoRAs, scale with their strength, and are merged where those are.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import comfy.model_management
import comfy.model_patcher
import comfy.sampler_helpers
import comfy.samplers
import comfy.sd
import comfy.utils
import torch

from ...bundles.format import load_foreign
from ...errors import BundleError, InputError
from ..fit import without_control
from .lowrank import copy_model, wrap
from .sampling import fit_latent

_PREFIX = "diffusion_model."
_CARRIED = ("attachments", "additional_models", "callbacks", "wrappers", "injections", "model_options", "object_patches")


def rebuild(model: Any, surgery: Callable[[Any], None]) -> Any:
    """See :meth:`SurgeryTopic.rebuild`. Weights that neither a patch nor `surgery` changes are held once, for both models."""
    inner = copy_model(model.model, share=True)
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
    """See :meth:`SurgeryTopic.weight_shapes`."""
    tensors = model.model.state_dict()
    return {name: tensors[key].shape for name, key in _keys(model).items()}


def layer_names(model: Any) -> dict[str, str]:
    """See :meth:`SurgeryTopic.layer_names`."""
    return {key.removeprefix(_PREFIX).removesuffix(".weight"): name for name, key in _keys(model).items()}


def add_weights(model: Any, deltas: Mapping[str, torch.Tensor], strength: float) -> Any:
    """See :meth:`SurgeryTopic.add_weights`: one `diff` patch a layer."""
    keys, clone = _keys(model), model.clone()
    clone.add_patches({keys[name]: ("diff", (delta,)) for name, delta in deltas.items()}, strength)
    return clone


def lora_key(model: Any, layer: str) -> str:
    """See :meth:`SurgeryTopic.lora_key`."""
    return f"{_PREFIX}{layer}"


def add_lora(model: Any, clip: Any, path: Path, strength_model: float, strength_clip: float) -> tuple[Any, Any]:
    """See :meth:`SurgeryTopic.add_lora`: ComfyUI's own patches."""
    found: tuple[Any, Any] = comfy.sd.load_lora_for_models(model, clip, load_foreign(path), strength_model, strength_clip)
    if _patches(*found) == _patches(model, clip):
        raise BundleError(f"{path.name} fits no layer of this model; it was made for another family of models")
    return found


def _patches(*parts: Any) -> int:
    """Return how many patches lie on the weights of a MODEL and a CLIP."""
    patchers = [getattr(part, "patcher", part) for part in parts if part is not None]
    return sum(len(patches) for patcher in patchers for patches in patcher.patches.values())


def check_evaluation(model: Any, conditioning: Any) -> None:
    """See :meth:`SurgeryTopic.check_evaluation`."""
    if conditioning is None and not is_unet(model):
        raise InputError(
            f"a {type(model.model).__name__} model is measured with a prompt of its own text encoder: link positive, for example from "
            "CLIP Text Encode, or unlink latent"
        )


def evaluate(model: Any, latent: Mapping[str, Any], conditioning: Any = None) -> Callable[[], None]:
    """See :meth:`SurgeryTopic.evaluate`. The model is loaded by ComfyUI's own management."""
    check_evaluation(model, conditioning)
    space = model.get_model_object("latent_format")
    empty = fit_latent(model, latent)["samples"]
    if empty.shape[1] != space.latent_channels:
        raise InputError(f"the latent has {empty.shape[1]} channels and the model takes {space.latent_channels}: link an empty latent")
    comfy.model_management.load_models_gpu([model])
    inner, device = model.model, model.load_device
    x = torch.randn(empty.shape, generator=torch.Generator().manual_seed(0)).to(device)
    levels = model.get_model_object("model_sampling").sigmas
    sigma = levels[len(levels) // 2].to(device).float().expand(len(x))
    if conditioning is not None:
        conds = comfy.sampler_helpers.convert_cond(without_control(conditioning))
        conds = comfy.samplers.process_conds(inner, x, {"positive": conds}, device, latent_image=torch.zeros_like(x), seed=0)["positive"]

        def with_prompt() -> None:
            inner.current_patcher = model
            with torch.no_grad():
                comfy.samplers.calc_cond_batch(inner, [conds], x, sigma, model.model_options)

        return with_prompt
    config = inner.model_config.unet_config
    tokens = torch.randn(len(x), 24, config["context_dim"], generator=torch.Generator().manual_seed(1)).to(device)
    more = {"y": torch.zeros(len(x), config["adm_in_channels"], device=device)} if config.get("adm_in_channels") else {}
    if (beside := config["in_channels"] - x.shape[1]) > 0:  # an inpainting model's mask and picture
        more["c_concat"] = torch.zeros(len(x), beside, *x.shape[2:], device=device)

    def once() -> None:
        with torch.no_grad():
            inner.apply_model(x, sigma, c_crossattn=tokens, **more)

    return once


def is_unet(model: Any) -> bool:
    """Return whether a MODEL's network is a U-Net of Stable Diffusion's kind."""
    config = getattr(model.model.model_config, "unet_config", {})
    return "channel_mult" in config and isinstance(config.get("context_dim"), int)


def _keys(model: Any) -> dict[str, str]:
    """Return ComfyUI's key of each weight of two dimensions or more, by its layer's name: in diffusers' layout for a U-Net, as the network
    itself has it for another family."""
    tensors = model.model.state_dict()
    if is_unet(model):
        names = {name: f"{_PREFIX}{key}" for name, key in comfy.utils.unet_to_diffusers(model.model.model_config.unet_config).items()}
    else:
        names = {key.removeprefix(_PREFIX): key for key in tensors if key.startswith(_PREFIX)}
    return {name.removesuffix(".weight"): key for name, key in names.items()
            if name.endswith(".weight") and key in tensors and tensors[key].dim() >= 2}  # fmt: skip
