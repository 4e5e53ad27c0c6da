"""Sizes that are asked for, and resampling to them."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from einops import rearrange
from torch import Tensor

from ..errors import InputError

MAX_SIDE = 16384  # ComfyUI's own limit for an image
MAX_PIXELS = 2**27  # 1.6 GB as float32 RGB


@dataclass(frozen=True)
class Target:
    """The size asked for, by at most one of three values; by none, the model's own scale.

    `factor` multiplies both sides; `long_side` is the longer side in pixels, the shape is kept; `size` is (width, height) in pixels.
    """

    factor: float | None = None
    long_side: int | None = None
    size: tuple[int, int] | None = None

    def pixels(self, width: int, height: int, scale: int) -> tuple[int, int]:
        """Return (width, height) for a picture of `width` x `height` and a model that enlarges it by `scale`; at least 1 px a side.

        Raises :class:`InputError` where several values are given, one is out of range, or the picture would be too large to allocate.
        """
        given = [name for name in ("factor", "long_side", "size") if getattr(self, name) is not None]
        if len(given) > 1:
            raise InputError(f"{' and '.join(given)} both say how large the result is: give one of them")
        if self.size is not None:
            wanted = (int(self.size[0]), int(self.size[1]))
        elif self.long_side is not None:
            if self.long_side < 1:
                raise InputError(f"long_side is {self.long_side}; it must be at least 1 pixel")
            wanted = _times(width, height, self.long_side / max(width, height))
        else:
            ratio = float(scale if self.factor is None else self.factor)
            if not math.isfinite(ratio) or ratio <= 0:
                raise InputError(f"factor is {self.factor}; it must be a number above 0")
            wanted = _times(width, height, ratio)
        # The model's own output is held on the way, so it has to fit too.
        for what, (w, h) in (("the result", wanted), ("the model's own output", (width * scale, height * scale))):
            if not (1 <= w <= MAX_SIDE and 1 <= h <= MAX_SIDE) or w * h > MAX_PIXELS:
                raise InputError(
                    f"{what} would be {w}x{h} px; sides of 1 to {MAX_SIDE} and at most {MAX_PIXELS} px in all are possible. "
                    "Ask for a smaller size or factor"
                )
        return wanted


def resize(image: Tensor, size: tuple[int, int]) -> Tensor:
    """Return (B, C, H, W) float as (B, C, size[1], size[0]), by Lanczos with antialiasing. An image of that size comes back untouched.

    The result is not clamped: Lanczos may overshoot at edges.
    """
    from PIL import Image

    if (image.shape[3], image.shape[2]) == tuple(size):
        return image
    planes = rearrange(image.cpu().float(), "b c h w -> (b c) h w").numpy()
    resized = [np.asarray(Image.fromarray(plane).resize(size, Image.Resampling.LANCZOS)) for plane in planes]
    return rearrange(torch.from_numpy(np.stack(resized)), "(b c) h w -> b c h w", b=image.shape[0])


def _times(width: int, height: int, ratio: float) -> tuple[int, int]:
    return max(1, round(width * ratio)), max(1, round(height * ratio))
