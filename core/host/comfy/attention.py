"""An attention patch on ComfyUI's MODEL and VAE, by what ComfyUI offers for it: an override, a wrapper, an object patch, all on clones."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

from comfy.patcher_extension import WrappersMP

from ...attention.chain import KEY, attached
from ...attention.entropy import check_size, entropy_patch
from ...attention.patch import AttentionPatch

_CONTROL = 4  # the place of `control` among apply_model's arguments: x, t, c_concat, c_crossattn, control


def patch_model(model: Any, patch: AttentionPatch) -> Any:
    """See :meth:`AttentionTopic.patch_model`."""
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
    space = model.get_model_object("latent_format")
    patched = model.clone()
    patched.set_model_attn1_patch(entropy_patch(width, height, getattr(space, "spacial_downscale_ratio", None) or 8))
    return patched


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
