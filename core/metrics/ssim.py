"""Structural similarity (SSIM, Wang et al. 2004) of pictures."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from ..errors import InputError

_WINDOW, _SIGMA = 11, 1.5
_C1, _C2 = 0.01**2, 0.03**2


def ssim(image: npt.NDArray[np.uint8], reference: npt.NDArray[np.uint8], border: int = 0) -> float:
    """Return the mean SSIM of two uint8 pictures (H, W, C) over their channels, `border` pixels left out at every side. 1 for equal ones.

    The window is a Gaussian of 11 pixels and standard deviation 1.5, as in the paper. Raises :class:`InputError` where the shapes differ
    or the pictures are smaller than the window.
    """
    if image.shape != reference.shape or image.ndim != 3 or image.dtype != np.uint8 or reference.dtype != np.uint8:
        raise InputError(f"SSIM compares uint8 pictures (H, W, C) of one size, not {image.shape} and {reference.shape}")
    if min(image.shape[:2]) - 2 * border < _WINDOW or border < 0:
        raise InputError(f"SSIM needs {_WINDOW} px a side inside a border of {border}; the pictures are {image.shape[1]}x{image.shape[0]}")
    inside = (slice(border, image.shape[0] - border), slice(border, image.shape[1] - border))
    one, other = (torch.from_numpy(picture[inside].astype(np.float64) / 255).permute(2, 0, 1)[:, None] for picture in (image, reference))
    mean, mean_other = _blurred(one), _blurred(other)
    variance = _blurred(one * one) - mean**2
    variance_other = _blurred(other * other) - mean_other**2
    covariance = _blurred(one * other) - mean * mean_other
    top = (2 * mean * mean_other + _C1) * (2 * covariance + _C2)
    return float((top / ((mean**2 + mean_other**2 + _C1) * (variance + variance_other + _C2))).mean())


def _blurred(planes: Tensor) -> Tensor:
    """Return planes (C, 1, H, W) under the window, without padding."""
    offsets = torch.arange(_WINDOW, dtype=torch.float64) - _WINDOW // 2
    kernel = torch.exp(-(offsets**2) / (2 * _SIGMA**2))
    kernel = kernel / kernel.sum()
    return functional.conv2d(functional.conv2d(planes, kernel[None, None, :, None]), kernel[None, None, None, :])
