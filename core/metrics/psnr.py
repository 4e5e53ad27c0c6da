"""Peak signal-to-noise ratio, as the super-resolution literature reports it."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from ..errors import InputError


def psnr(image: npt.NDArray[np.uint8], reference: npt.NDArray[np.uint8], border: int = 0) -> float:
    """Return the PSNR in dB of two uint8 pictures (H, W) or (H, W, C), over all channels, `border` pixels left out at every side.

    Infinite for equal pictures. Raises :class:`InputError` where the shapes differ or nothing is left inside the border.
    """
    if image.shape != reference.shape or image.dtype != np.uint8 or reference.dtype != np.uint8:
        raise InputError(
            f"PSNR compares uint8 pictures of one size, not {image.shape} {image.dtype} and {reference.shape} {reference.dtype}"
        )
    if not 0 <= 2 * border < min(image.shape[:2]):
        raise InputError(f"a border of {border} px leaves nothing of a picture of {image.shape[1]}x{image.shape[0]} px")
    inside = (slice(border, image.shape[0] - border), slice(border, image.shape[1] - border))
    error = float(np.square(image[inside].astype(np.float64) - reference[inside]).mean())
    return math.inf if error == 0 else 10 * math.log10(255**2 / error)
