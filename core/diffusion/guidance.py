"""Classifier-free guidance and style guidance, on `denoised`.

For one state x and noise level sigma, a mix of noise predictions whose weights sum to 1 is the same mix of `denoised`. So guidance never
divides by a small sigma, and does not depend on what a network predicts.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from torch import Tensor

from ..errors import InputError


def needs_uncond(scale: float) -> bool:
    """Return whether guidance at `scale` needs the unconditional prediction. At 1 it does not, and that evaluation can be skipped."""
    return not math.isclose(scale, 1.0)


def cfg_denoised(cond: Tensor, uncond: Tensor | None, scale: float) -> Tensor:
    """Return the guided `denoised` = uncond + scale * (cond - uncond) (Ho and Salimans, eq. 6, with scale = 1 + w).

    `cond` and `uncond` are predictions of x0 of one shape. At scale 1 `cond` itself comes back and `uncond` may be None.
    Raises :class:`InputError` where the scale is not finite, or `uncond` is needed and missing or of another shape.
    """
    if not math.isfinite(scale):
        raise InputError(f"the guidance scale must be a finite number, {scale} was given")
    if not needs_uncond(scale):
        return cond
    if uncond is None:
        raise InputError(f"guidance at scale {scale:g} needs an unconditional prediction; give a negative prompt, or use scale 1")
    if cond.shape != uncond.shape:
        raise InputError(f"guidance mixes predictions of one shape; {tuple(cond.shape)} and {tuple(uncond.shape)} were given")
    return uncond + (cond - uncond) * scale


def style_denoised(guided: Tensor, cond: Tensor, style: Tensor, scale: float) -> Tensor:
    """Return `guided` moved by `scale` towards the styled prompt: guided + scale * (style - cond) (PanGu-Draw, section 7, stylized
    generation).

    All have one shape: `guided` is the result of classifier-free guidance, `cond` the prediction under the prompt, `style` the prediction
    under the prompt with its style. Several styles add up. Scale 0 gives `guided` itself.
    """
    return guided if scale == 0 else guided + (style - cond) * scale


def style_function(
    predict: Callable[[dict[str, Any]], Tensor], scale: float, start: float, end: float
) -> Callable[[dict[str, Any]], Tensor]:
    """Return :func:`style_denoised` as a function that runs after guidance, in either host.

    `predict(given)` is the prediction under the styled prompt, where `given` is the dict that hosts pass to such functions. It is evaluated
    between the parts `start` and `end` of the sampling run only (0 is its beginning, 1 its end). Raises :class:`InputError` for a scale
    that is not finite, or unless 0 <= start <= end <= 1.
    """
    if not math.isfinite(scale):
        raise InputError(f"the style scale must be a finite number, {scale} was given")
    if not 0 <= start <= end <= 1:
        raise InputError(f"need 0 <= start_percent <= end_percent <= 1; start_percent={start}, end_percent={end} were given")

    def move(given: dict[str, Any]) -> Tensor:
        guided, sigma, schedule = given["denoised"], given["sigma"], given["model"].model_sampling
        active = (sigma <= schedule.percent_to_sigma(start)) & (sigma >= schedule.percent_to_sigma(end))
        if not bool(active.any()):
            return guided
        moved = style_denoised(guided, given["cond_denoised"], predict(given), scale)
        return moved if bool(active.all()) else moved.where(active.reshape(-1, *[1] * (guided.ndim - 1)), guided)

    return move
