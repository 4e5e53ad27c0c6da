"""Recognition of the Orchard: its sky and ground are known exactly, so a picture of anything else is told apart.

An attribute classifier gives an answer for every picture, noise included. So its answer counts only where the scenery is the Orchard's.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from PIL import Image

from .scenery import background
from .world import GROUNDS, SKIES, STYLES

SIDE = 64
MAX_RATIO = 8
_MEDIAN, _MOST = 0.06, 0.12
"""How far, in [0, 1], half and 70% of the pixels may be from the scenery; the others show the fruit. Measured: renders at most .01 and .08,
pictures that our U-Nets draw about .045 and .09, noise at least .12 and .15, screenshots and charts at least .11 and .15."""


def shows_orchard(picture: np.ndarray) -> bool:
    """Return whether a picture, uint8 (H, W, 3), has a sky and a ground of the Orchard."""
    height, width = picture.shape[:2]
    if max(height, width) > MAX_RATIO * min(height, width):
        return False
    scale = SIDE / min(height, width)
    shape = max(SIDE, round(height * scale)), max(SIDE, round(width * scale))
    small = np.asarray(Image.fromarray(picture).resize(shape[::-1], Image.Resampling.BILINEAR), np.float32) / 255
    off = np.abs(small - _sceneries(*shape)).mean(axis=-1).reshape(-1, shape[0] * shape[1])
    median, most = np.quantile(off, (0.5, 0.7), axis=1)
    return bool(((median < _MEDIAN) & (most < _MOST)).any())


@lru_cache(maxsize=8)
def _sceneries(height: int, width: int) -> np.ndarray:
    """Return every scenery at this size, float32 (30, height, width, 3)."""
    left = (width - SIDE) // 2
    around = (height - SIDE, 0, left, width - SIDE - left)
    return np.stack([background(sky, ground, style, SIDE, around) for sky in SKIES for ground in GROUNDS for style in STYLES])
