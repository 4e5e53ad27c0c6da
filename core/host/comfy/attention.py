"""An attention patch on ComfyUI's MODEL and VAE, by what ComfyUI offers for it: an override, a wrapper, an object patch, all on clones."""

from __future__ import annotations

import copy
import importlib
import inspect
from collections.abc import Callable
from typing import Any

import comfy.ldm.modules.diffusionmodules.openaimodel
from comfy.patcher_extension import WrappersMP

from ...attention.chain import KEY, attached
from ...attention.entropy import KEY as SELF
from ...attention.entropy import SHAPE, check_size, entropy_patch
from ...attention.patch import AttentionPatch
from ...errors import InputError
from ...slim.attention import refuse_relu

_JOINT = {
    "comfy.ldm.flux.model": "comfy.ldm.flux.layers",
    "comfy.ldm.chroma.model": "comfy.ldm.flux.layers",
    "comfy.ldm.hunyuan_video.model": "comfy.ldm.flux.layers",
    "comfy.ldm.qwen_image.model": "comfy.ldm.qwen_image.model",
}
"""Transformers that attend to text and picture together, and the module of their attention."""
_CONTROL = 4  # the place of `control` among apply_model's arguments: x, t, c_concat, c_crossattn, control


def patch_model(model: Any, patch: AttentionPatch) -> Any:
    """See :meth:`AttentionTopic.patch_model`."""
    refuse_relu(model.model.diffusion_model)
    patched = attached(model, patch)

    def watched(executor: Any, *args: Any, **kwargs: Any) -> Any:
        def run() -> Any:
            return executor(*_fresh(args), **{name: _lists(value) if name == "control" else value for name, value in kwargs.items()})

        return patch.evaluate(run)

    patched.add_wrapper_with_key(WrappersMP.APPLY_MODEL, KEY, watched)
    return patched


def scale_entropy(model: Any, width: int, height: int) -> Any:
    """See :meth:`AttentionTopic.scale_entropy`."""
    check_size(width, height)
    space, network = model.get_model_object("latent_format"), model.get_model_object("diffusion_model")
    factor = getattr(space, "spacial_downscale_ratio", None) or 8
    patched = model.clone()
    if isinstance(network, comfy.ldm.modules.diffusionmodules.openaimodel.UNetModel):
        patched.set_model_attn1_patch(entropy_patch(width, height, factor))
        return patched
    if not _takes_queries(network):
        raise InputError(
            f"Attention Entropy Scale was given a {type(network).__name__}, whose queries this ComfyUI lets nobody change; it serves "
            "U-Nets, Flux, Chroma, HunyuanVideo and Qwen-Image. Leave the node out for this model"
        )
    cell = getattr(network, "patch_size", 1)
    patched.set_model_attn1_patch(entropy_patch(width, height, factor, cell if isinstance(cell, int) else cell[-1]))
    patched.add_wrapper_with_key(WrappersMP.APPLY_MODEL, SHAPE, _with_shape)
    return patched


def _takes_queries(network: Any) -> bool:
    """Return whether a transformer shows its queries to `attn1_patch` before attention, as this version of ComfyUI has it."""
    layers = _JOINT.get(type(network).__module__)
    return layers is not None and f'"{SELF}"' in inspect.getsource(importlib.import_module(layers))


def _with_shape(executor: Any, x: Any, t: Any, c_concat: Any = None, c_crossattn: Any = None, control: Any = None,
                transformer_options: Any = None, **more: Any) -> Any:  # fmt: skip
    return executor(x, t, c_concat, c_crossattn, control, {**(transformer_options or {}), SHAPE: list(x.shape)}, **more)


def patch_vae(vae: Any, patch: AttentionPatch) -> Any:
    """See :meth:`AttentionTopic.patch_vae`. The copy shares the weights; the attention is the one over pixels."""
    network = vae.first_stage_model
    names = [f"{part}.mid.attn_1.optimized_attention" for part in ("encoder", "decoder")]
    found = {name: own for name in names if (own := _attribute(network, name)) is not None}
    if not found:
        return vae
    patched = copy.copy(vae)
    patched.patcher = vae.patcher.clone()
    for name, own in found.items():
        patched.patcher.add_object_patch(name, _over(patch, vae.patcher.object_patches.get(name, own)))
    return patched


def _over(patch: AttentionPatch, own: Callable[..., Any]) -> Callable[..., Any]:
    def attention(q: Any, k: Any, v: Any) -> Any:
        return patch.attend_pixels(own, q, k, v)

    return attention


def _fresh(args: tuple[Any, ...]) -> tuple[Any, ...]:
    return (*args[:_CONTROL], _lists(args[_CONTROL]), *args[_CONTROL + 1 :]) if len(args) > _CONTROL else args


def _lists(control: Any) -> Any:
    """Return ControlNet's outputs in new lists: the U-Net pops them from the lists, and a second evaluation needs them again."""
    return {name: list(one) if isinstance(one, list) else one for name, one in control.items()} if isinstance(control, dict) else control


def _attribute(network: Any, path: str) -> Any:
    for name in path.split("."):
        network = getattr(network, name, None)
    return network
