"""Style guidance in the embedded host, as a function after guidance."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ...diffusion.guidance import style_function
from .guider import calc_cond_batch, prepare_conds
from .model import Model


def guide(model: Model, style: list[Any], scale: float, start: float, end: float) -> Model:
    """See :meth:`StyleTopic.guide`."""

    def predict(given: dict[str, Any]) -> Tensor:
        base = given["model"]
        (styled,) = calc_cond_batch(base, [prepare_conds(base, style)], given["input"], given["sigma"], given["model_options"])
        return styled

    function = style_function(predict, scale, start, end)
    clone = model.clone()
    if scale != 0:
        clone.set_model_sampler_post_cfg_function(function)
    return clone
