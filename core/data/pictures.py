"""Picture files of a dataset: which kinds are read, and their pixels.

A dataset may come from a stranger: sizes are checked before anything is decoded, and Pillow may use only the readers named here (its
reader of EPS files, for one, would start another program).
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps

from ..errors import DataError

SUFFIXES = (
    ".png", ".apng", ".jpg", ".jpeg", ".jpe", ".jfif", ".webp", ".bmp", ".dib", ".gif", ".tif", ".tiff", ".avif", ".jp2", ".tga", ".ppm",
    ".pgm",
)  # fmt: skip
"""Endings of the files that are read, in small letters. Of a file with several pictures the first is read."""
UNREAD_SUFFIXES = (
    ".heic", ".heif", ".jxl", ".psd", ".psb", ".xcf", ".kra", ".svg", ".eps", ".ico", ".exr", ".hdr", ".dds", ".qoi", ".dng", ".raw", ".cr2",
    ".cr3", ".nef", ".arw", ".orf", ".rw2", ".raf",
)  # fmt: skip
"""Endings of pictures that are not read here."""
MIN_SIDE = 16
MAX_PIXELS = 64 * 2**20
ORIENTATION = 0x0112
"""The EXIF tag of the orientation; 5 to 8 mean that the sides are swapped."""
_READERS = ("PNG", "JPEG", "WEBP", "BMP", "DIB", "GIF", "TIFF", "AVIF", "JPEG2000", "TGA", "PPM")
_DAMAGES = (OSError, ValueError, SyntaxError, EOFError, IndexError, KeyError, TypeError, OverflowError, Image.DecompressionBombError)


def open_picture(path: Path) -> Image.Image:
    """Open a picture file: its header is read and its size checked, nothing is decoded yet. Raises :class:`DataError`."""
    try:
        image = Image.open(path, formats=_readers())
    except _DAMAGES as error:
        raise DataError(f"{path} is not a readable image ({error})") from error
    width, height = image.size
    if min(width, height) < MIN_SIDE or width * height > MAX_PIXELS:
        image.close()
        raise DataError(
            f"{path} has {width} x {height} pixels; at least {MIN_SIDE} a side and at most {MAX_PIXELS >> 20} million are expected"
        )
    return image


def load_pixels(path: Path, size: int | None = None) -> np.ndarray[Any, Any]:
    """Return a picture file as (H, W, 3) uint8: upright by its EXIF, on white where it is transparent, cropped square to `size`.

    Raises :class:`DataError` for a file that is damaged, cut short, too small or too large.
    """
    with open_picture(path) as opened:
        try:
            image = _rgb(ImageOps.exif_transpose(opened))
        except (*_DAMAGES, MemoryError) as error:
            raise DataError(f"{path} cannot be decoded ({error}): damaged or cut short") from error
    if size is not None and image.size != (size, size):
        image = ImageOps.fit(image, (size, size), Image.Resampling.LANCZOS)
    return np.array(image)


def to_tensor(pixels: np.ndarray[Any, Any]) -> torch.Tensor:
    """Return pixels (H, W, 3) uint8 as (3, H, W) float32 in [-1, 1]."""
    return torch.from_numpy(pixels).permute(2, 0, 1).float().div_(127.5).sub_(1)


def load_grey(path: Path) -> np.ndarray[Any, Any]:
    """Return a map's file as (H, W) uint8, as it is on disk. Raises :class:`DataError` as :func:`load_pixels` does."""
    with open_picture(path) as opened:
        try:
            return np.asarray(opened.convert("L"))
        except (*_DAMAGES, MemoryError) as error:
            raise DataError(f"{path} cannot be decoded ({error}): damaged or cut short") from error


@lru_cache(maxsize=1)
def _readers() -> tuple[str, ...]:
    """Return those of Pillow's readers named above that this Pillow has."""
    Image.init()
    return tuple(name for name in _READERS if name in Image.OPEN)


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):  # 16-bit grey; PIL's own conversion would clip it
        return Image.fromarray((np.asarray(image, dtype=np.int64).clip(0, 65535) // 257).astype(np.uint8)).convert("RGB")
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image.convert("RGBA")).convert("RGB")
    return image.convert("RGB")
