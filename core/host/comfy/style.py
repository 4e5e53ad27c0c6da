"""Style guidance in ComfyUI, as a function after guidance: CFG, samplers and other patches stay as they are."""

from __future__ import annotations

from typing import Any

import comfy.sampler_helpers
import comfy.samplers
import torch
from torch import Tensor

from ...diffusion.guidance import style_function

_OF_PROMPT = ("control", "control_apply_to_uncond", "gligen", "hooks", "area", "mask", "strength", "mask_strength")
_OF_ENTRY = ("model_conds", "uuid", "start_percent", "end_percent", "clip_start_percent", "clip_end_percent", "timestep_start",
             "timestep_end")  # fmt: skip
_TEXT = ("cross_attn", "pooled_output", "attention_mask", "conditioning_", "t5xxl_")
"""How the names of those details begin that text encoders give. A detail of the prompt's text never goes to the style."""


def guide(model: Any, style: Any, scale: float, start: float, end: float) -> Any:
    """See :meth:`StyleTopic.guide`."""

    def predict(given: dict[str, Any]) -> Tensor:
        base, x = given["model"], given["input"]
        conds = _prepared(base, style, x, given.get("cond") or [])
        (styled,) = comfy.samplers.calc_cond_batch(base, [conds], x, given["sigma"], given["model_options"])
        return styled

    function = style_function(predict, scale, start, end)
    clone = model.clone()
    if scale != 0:
        clone.set_model_sampler_post_cfg_function(function)
    return clone


def _prepared(base: Any, style: Any, x: Tensor, positive: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the style's entries ready for the model: the text is the style's, all else is the prompt's.

    What the model makes of a conditioning may depend on the picture to fill and on the mask, which are not known here. So the prompt is
    encoded again without them, beside the style. Where that gives what the prompt had, the style's value is used, else the prompt's own.
    """
    entries = comfy.sampler_helpers.convert_cond(style)
    if not positive:
        return comfy.samplers.process_conds(base, x, {"positive": entries}, x.device)["positive"]
    prompt = positive[0]
    held = {key: value for key, value in _plain(prompt).items() if not key.startswith(_TEXT)}
    shared = {key: prompt[key] for key in _OF_PROMPT if key in prompt}
    own: dict[str, Any] = prompt.get("model_conds", {})
    again = _encoded(base, _plain(prompt), x)
    known = {key for key, value in again.items() if key in own and _same(value, own[key])}
    prepared = []
    for entry in entries:
        text = _plain(entry)
        made = _encoded(base, {**held, **text}, x)
        kept = {key: value for key, value in own.items() if key not in known}
        new = {key: value for key, value in made.items() if key in known or (key not in own and key not in again)}
        prepared.append({**text, **shared, "uuid": entry["uuid"], "model_conds": {**kept, **new}})
    return prepared


def _plain(entry: dict[str, Any]) -> dict[str, Any]:
    """Return what a conditioning's entry says of the picture, without what ComfyUI's batching reads."""
    return {key: value for key, value in entry.items() if key not in (*_OF_ENTRY, *_OF_PROMPT)}


def _encoded(base: Any, entry: dict[str, Any], x: Tensor) -> dict[str, Any]:
    """Return the model's inputs for `entry`, with the noisy state in the place of the picture to fill, and without a mask."""
    shapes = [x.shape] if x.ndim > 3 else getattr(base, "latent_shapes", None)
    known: dict[str, Any] = {"latent_image": x, "denoise_mask": None, "seed": None, "latent_shapes": shapes}
    (made,) = comfy.samplers.encode_model_conds(base.extra_conds, [{**entry, "model_conds": {}}], x, x.device, "positive", **known)
    return dict(made["model_conds"])


def _same(one: Any, other: Any) -> bool:
    """Return whether two inputs of a model (comfy.conds) hold the same."""
    return type(one) is type(other) and _equal(getattr(one, "cond", one), getattr(other, "cond", other))


def _equal(one: Any, other: Any) -> bool:
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        return one.shape == other.shape and one.dtype == other.dtype and torch.equal(one, other.to(one.device))
    if isinstance(one, list | tuple) and isinstance(other, list | tuple):
        return len(one) == len(other) and all(_equal(*pair) for pair in zip(one, other, strict=True))
    return bool(one is other or (not isinstance(one, Tensor) and not isinstance(other, Tensor) and one == other))
