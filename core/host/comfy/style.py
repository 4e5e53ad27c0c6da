"""Style guidance in ComfyUI, as a function after guidance: CFG, samplers and other patches stay as they are."""

from __future__ import annotations

from typing import Any

import comfy.sampler_helpers
import comfy.samplers
from torch import Tensor

from ...diffusion.guidance import style_function

_SHARED = ("control", "control_apply_to_uncond", "gligen", "hooks", "area", "mask", "strength", "mask_strength")


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
    """Return the style's entries ready for the model. ControlNet, hooks, area and the picture to fill are taken from the prompt."""
    conds = comfy.samplers.process_conds(base, x, {"positive": comfy.sampler_helpers.convert_cond(style)}, x.device)["positive"]
    if not positive:
        return conds
    beside = {key: positive[0][key] for key in _SHARED if key in positive[0]}
    joined = positive[0].get("model_conds", {}).get("c_concat")
    for entry in conds:
        for key in _SHARED:
            entry.pop(key, None)
        entry.update(beside)
        if joined is not None:
            entry["model_conds"] = {**entry["model_conds"], "c_concat": joined}
    return conds
