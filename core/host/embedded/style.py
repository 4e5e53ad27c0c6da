"""Style guidance in the embedded host, as a function after guidance."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ...diffusion.guidance import style_function
from .guider import calc_cond_batch, prepare_conds
from .model import BaseModel, Model


def guide(model: Model, style: list[Any], scale: float, start: float, end: float) -> Model:
    """See :meth:`StyleTopic.guide`."""

    def predict(given: dict[str, Any]) -> Tensor:
        base, conds = given["model"], _prepared(given["model"], style, given["cond"])
        (styled,) = calc_cond_batch(base, [conds], given["input"], given["sigma"], given["model_options"])
        return styled

    function = style_function(predict, scale, start, end)
    clone = model.clone()
    if scale != 0:
        clone.set_model_sampler_post_cfg_function(function)
    return clone


def _prepared(base: BaseModel, style: Any, positive: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the style's entries ready for the model: the text is the style's, ControlNets, sizes and the rest are the prompt's."""
    prompt = positive[0]
    held = {key: value for key, value in prompt["details"].items() if key != "pooled_output"}
    entries = prepare_conds(base, style)
    for entry in entries:
        for key in ("start_percent", "end_percent"):
            entry.pop(key, None)
        entry |= {"control": prompt["control"], "strength": prompt["strength"], "details": {**held, **entry["details"]}}
        entry["details"]["prompt_type"] = held["prompt_type"]
    return entries
