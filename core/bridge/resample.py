"""Resampling of the picture between two VAEs, to whole cells of the second one's latent."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from torch import Tensor
from torch.nn import functional

from ..errors import InputError
from ..host import current
from ..upscale.resize import MAX_PIXELS, MAX_SIDE, Target, resize
from ..upscale.tiles import Tiling, upscale

UPSCALE_METHODS = ("bicubic", "bilinear", "lanczos", "nearest", "area")


@dataclass(frozen=True)
class Resampling:
    """How the picture changes its size at the bridge.

    The new size is `size` (width, height) in pixels, of which one side may be 0 and then follows from the other; without `size` it is
    `scale_by` times the old one, in (0, 16]. `method` is one of :data:`UPSCALE_METHODS`; where the picture grows, `upscaler` (an
    UPSCALE_MODEL) takes its place. `tile` > 0 decodes, enlarges and encodes in tiles of so many pixels; 0 tiles only where memory runs out.
    """

    scale_by: float = 2.0
    size: tuple[int, int] | None = None
    method: str = "bicubic"
    upscaler: Any = None
    tile: int = 0

    def target(self, width: int, height: int, cell: int) -> tuple[int, int]:
        """Return the new (width, height) of a picture, in whole latent cells of `cell` pixels a side.

        Raises :class:`InputError` for a size or factor out of range, and for a picture too large to allocate.
        """
        if self.size is not None:
            if min(self.size) < 0 or max(self.size) == 0:
                raise InputError(
                    f"a size of {self.size[0]} x {self.size[1]} pixels was given; give at least one side above 0, or leave both at 0 "
                    "for scale_by"
                )
            wanted = self.size[0] or width * self.size[1] / height, self.size[1] or height * self.size[0] / width
        elif not (math.isfinite(self.scale_by) and 0 < self.scale_by <= 16):
            raise InputError(f"scale_by is {self.scale_by}; it must be above 0 and at most 16")
        else:
            wanted = width * self.scale_by, height * self.scale_by
        whole = tuple(max(1, round(side / cell)) * cell for side in wanted)
        if max(whole) > MAX_SIDE or whole[0] * whole[1] > MAX_PIXELS:
            raise InputError(
                f"the bridged picture would be {whole[0]} x {whole[1]} pixels; at most {MAX_SIDE} a side and {MAX_PIXELS} in all"
            )
        return whole[0], whole[1]

    def apply(self, frames: Tensor, cell: int) -> Tensor:
        """Return frames (B, F, H, W, 3) at the new size, for a VAE whose latent cell has `cell` pixels a side. Raises as :meth:`target`."""
        image = frames.flatten(0, 1)
        sized = enlarge(image, self.target(image.shape[2], image.shape[1], cell), self.method, self.upscaler, self.tile)
        return sized.unflatten(0, frames.shape[:2])


def resample(image: Tensor, size: tuple[int, int], method: str = "bicubic") -> Tensor:
    """Return IMAGE (B, H, W, 3) as (B, size[1], size[0], 3), clamped to [0, 1].

    Shrinking is antialiased, except with `nearest`. An image of that size already comes back untouched. Raises :class:`InputError` for an
    unknown `method`.
    """
    if method not in UPSCALE_METHODS:
        raise InputError(f"unknown upscale method {method!r}: the known ones are {', '.join(UPSCALE_METHODS)}")
    if (image.shape[2], image.shape[1]) == tuple(size):
        return image
    planes, (width, height) = image.movedim(-1, 1).float(), size
    if method == "lanczos":
        out = resize(planes, size).to(planes)
    elif method in ("nearest", "area"):
        out = functional.interpolate(planes, size=(height, width), mode="nearest-exact" if method == "nearest" else method)
    else:
        out = functional.interpolate(planes, size=(height, width), mode=method, antialias=True)
    return out.clamp(0, 1).movedim(1, -1)


def resample_frames(frames: Tensor, size: tuple[int, int]) -> Tensor:
    """Return frames (B, F, H, W, 3) at `size` (width, height), bicubic. Frames of that size already come back untouched."""
    return resample(frames.flatten(0, 1), size).unflatten(0, frames.shape[:2])


def enlarge(image: Tensor, size: tuple[int, int], method: str = "bicubic", upscaler: Any = None, tile: int = 0) -> Tensor:
    """Return what :func:`resample` does, made by `upscaler` where one is given and the picture grows."""
    if upscaler is None or size[0] * size[1] <= image.shape[1] * image.shape[2]:
        return resample(image, size, method)
    tiling = Tiling(tile or 512)
    return upscale(upscaler, image, Target(size=size), tiling, device=current().upscale.device_for(upscaler, tiling.tile))
