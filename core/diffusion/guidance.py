"""Classifier-free guidance, on `denoised`.

For one state x and noise level sigma, a mix of noise predictions whose weights sum to 1 is the same mix of `denoised`, so guidance
never divides by a small sigma and does not care what a network predicts.
"""

from __future__ import annotations

import math

from torch import Tensor

from ..errors import InputError


def needs_uncond(scale: float) -> bool:
    """Whether guidance at `scale` looks at the unconditional prediction at all. At 1 it does not: skip that evaluation."""
    return not math.isclose(scale, 1.0)


def cfg_denoised(cond: Tensor, uncond: Tensor | None, scale: float) -> Tensor:
    """Guided `denoised` = uncond + scale * (cond - uncond) (Ho and Salimans, eq. 6, with scale = 1 + w).

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
