"""Guess mode of ControlNet (Zhang et al. 2023, in the code of the paper): a ControlNet with an empty prompt, weaker in shallow layers."""

from __future__ import annotations

BASE, LAYERS = 0.825, 12


def depth_decay(count: int) -> list[float]:
    """Return the factors of the residuals for a U-Net's `count` skips, the shallowest first.

    With 12 skips, as in SD 1.5, they are 0.825^12 (0.1) to 0.825, and the middle has 1. With another count the depths are spread over the
    same range.
    """
    return [BASE ** (LAYERS * (count - index) / count) for index in range(count)]
