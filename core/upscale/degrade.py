"""Low-resolution counterparts of pictures, for training and measuring upscalers.

The standard pair of super-resolution is a picture and its antialiased bicubic reduction (MATLAB's `imresize`, PIL's BICUBIC). The decoder
of a latent diffusion model gives softer pictures; :func:`soften` imitates that.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from ..errors import InputError

Picture = npt.NDArray[np.uint8]


def reduce(picture: Picture, scale: int) -> Picture:
    """Return (H, W, 3) uint8 as (H/scale, W/scale, 3), antialiased bicubic. Raises :class:`InputError` unless `scale` divides both
    sides."""
    height, width = picture.shape[:2]
    if height % scale or width % scale or not height or not width:
        raise InputError(f"a picture of {width}x{height} px cannot be reduced by {scale} exactly: crop it to multiples of {scale}")
    return _bicubic(picture, (width // scale, height // scale))


def enlarge(picture: Picture, scale: int) -> Picture:
    """Return (H, W, 3) uint8 as (H*scale, W*scale, 3), by bicubic interpolation: the baseline of every upscaler."""
    height, width = picture.shape[:2]
    return _bicubic(picture, (width * scale, height * scale))


def soften(pictures: Tensor, generator: torch.Generator, blur: tuple[float, float] = (0.3, 0.9), noise: float = 0.01) -> Tensor:
    """Return (B, C, H, W) in [0, 1], each picture blurred by a Gaussian of its own width (sigma in pixels, uniform in `blur`) and with a
    little noise (standard deviation uniform up to `noise`), clamped to [0, 1].
    """
    batch, channels = pictures.shape[:2]
    low, high = blur
    sigma = low + (high - low) * torch.rand(batch, generator=generator)
    offsets = torch.arange(-3, 4, dtype=torch.float32)
    kernel = torch.exp(-0.5 * (offsets[None] / sigma[:, None]) ** 2)
    kernel = (kernel / kernel.sum(1, keepdim=True)).repeat_interleave(channels, 0)  # one row a picture and channel
    planes = functional.pad(pictures, (3, 3, 3, 3), mode="reflect").reshape(1, batch * channels, *(s + 6 for s in pictures.shape[2:]))
    blurred = functional.conv2d(planes, kernel[:, None, :, None], groups=batch * channels)
    blurred = functional.conv2d(blurred, kernel[:, None, None, :], groups=batch * channels).reshape_as(pictures)
    grain = torch.randn(pictures.shape, generator=generator) * torch.rand(batch, 1, 1, 1, generator=generator) * noise
    return (blurred + grain).clamp(0, 1)


def compress(pictures: Tensor, generator: torch.Generator, quality: tuple[int, int] = (30, 95)) -> Tensor:
    """Return (B, 3, H, W) in [0, 1], each picture compressed as JPEG with a quality of its own, uniform in `quality` (1 to 100)."""
    import io

    from PIL import Image

    low, high = quality
    made = []
    for picture in pictures:
        chosen = int(torch.randint(low, high + 1, (), generator=generator))
        file = io.BytesIO()
        pixels = (picture.clamp(0, 1) * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()
        Image.fromarray(pixels).save(file, "JPEG", quality=chosen)
        made.append(torch.from_numpy(np.array(Image.open(file))).permute(2, 0, 1).float() / 255)
    return torch.stack(made)


def _bicubic(picture: Picture, size: tuple[int, int]) -> Picture:
    from PIL import Image

    return np.asarray(Image.fromarray(picture).resize(size, Image.Resampling.BICUBIC))
