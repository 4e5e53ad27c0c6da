"""From the size a model gives to the size that was asked for."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from ..errors import InputError

MAX_SIDE = 16384  # ComfyUI's own limit for an image
MAX_PIXELS = 2**27  # 1.6 GB as float32 RGB


def target_size(
    width: int,
    height: int,
    scale: int,
    *,
    factor: float | None = None,
    long_side: int | None = None,
    size: tuple[int, int] | None = None,
) -> tuple[int, int]:
    """(width, height) asked for by at most one of the three; by none, `scale` times the image. At least 1 px a side.

    Raises :class:`InputError` when several are given, one is out of range, or a picture of that size would not be sensible to allocate.
    """
    given = [name for name, value in (("factor", factor), ("long_side", long_side), ("size", size)) if value is not None]
    if len(given) > 1:
        raise InputError(f"{' and '.join(given)} both say how large the result is: give one of them")
    if size is not None:
        wanted = (int(size[0]), int(size[1]))
    elif long_side is not None:
        if long_side < 1:
            raise InputError(f"long_side is {long_side}; it must be at least 1 pixel")
        ratio = long_side / max(width, height)
        wanted = (max(1, round(width * ratio)), max(1, round(height * ratio)))
    else:
        ratio = float(scale if factor is None else factor)
        if not math.isfinite(ratio) or ratio <= 0:
            raise InputError(f"factor is {factor}; it must be a number above 0")
        wanted = (max(1, round(width * ratio)), max(1, round(height * ratio)))
    # What the model makes on the way has to fit too.
    for what, (w, h) in (("the result", wanted), ("the model's own output", (width * scale, height * scale))):
        if not (1 <= w <= MAX_SIDE and 1 <= h <= MAX_SIDE) or w * h > MAX_PIXELS:
            raise InputError(
                f"{what} would be {w}x{h} px; sides of 1 to {MAX_SIDE} and at most {MAX_PIXELS} px in all are possible. "
                "Ask for a smaller size or factor"
            )
    return wanted


def resize(image: Tensor, size: tuple[int, int]) -> Tensor:
    """(B, C, H, W) float -> (B, C, size[1], size[0]), Lanczos with antialiasing, in float precision. The same size is returned as it is.

    Not clamped: Lanczos may overshoot at edges.
    """
    from PIL import Image

    if (image.shape[3], image.shape[2]) == tuple(size):
        return image
    batch, channels = image.shape[:2]
    planes = image.reshape(-1, *image.shape[2:]).cpu().float().numpy()
    resized = [np.asarray(Image.fromarray(plane).resize(size, Image.Resampling.LANCZOS)) for plane in planes]
    return torch.from_numpy(np.stack(resized)).reshape(batch, channels, size[1], size[0])
