"""Reach of a network: how far from a tile's edge its output still depends on what lies beyond that edge.

An RRDB network sees 15 pixels further with each block, so that no practical overlap covers all that it could see. What it does see is
measured instead, once for a network: one half of a sample picture is computed with and without its neighbour. The difference by distance
from the cut says how many pixels of a tile to drop, and which seam is left.
"""

from __future__ import annotations

import logging
import weakref
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..device import out_of_memory

if TYPE_CHECKING:
    from collections.abc import Callable

SEAM = 0.5 / 255
"""The largest seam that is accepted: half a step of eight bits."""
STEP = 8
"""Overlaps are tried in steps of so many pixels."""
_WINDOW = (64, 128)  # height and width in pixels of the sample; it is cut in the middle of its width
_measured: weakref.WeakKeyDictionary[nn.Module, dict[int, list[float]]] = weakref.WeakKeyDictionary()
log = logging.getLogger("rapiddraw")


def choose_overlap(network: nn.Module, run: Callable[[Tensor], Tensor], channels: int, tile: int, least: int) -> int:
    """Return how many input pixels neighbouring tiles of `tile` pixels share: `least`, or as many more as a seam below :data:`SEAM` needs.

    `run` computes (1, `channels`, h, w) in [0, 1] by `network`. Never more than half a tile: where that is not enough, a warning says
    which seam is left on the sample; a picture may show several times as much (RealESRGAN x4plus-anime, tiles of 96 px: 6.7/255 on the
    sample, 24/255 on a render of the Orchard). `least` 0 stays 0. Where memory does not suffice for the sample, `least` is kept.
    """
    most = tile // 2
    if not 0 < least <= most:
        return least
    errors = border_errors(network, run, channels, tile)
    if errors is None:
        return least
    tried = [*range(least, most, STEP), most]
    overlap = next((each for each in tried if seam(errors, each) <= SEAM), most)
    left = seam(errors, overlap)
    if left > SEAM:
        log.warning(
            "upscaling: tiles of %d px that share %d px leave a seam of %.1f/255 on a sample picture, and a larger one on some pictures, "
            "because this network looks farther; larger tiles may share more",
            tile,
            overlap,
            left * 255,
        )
    else:
        log.debug("upscaling: tiles of %d px share %d px; the seam is %.2f/255 on a sample picture", tile, overlap, left * 255)
    return overlap


def border_errors(network: nn.Module, run: Callable[[Tensor], Tensor], channels: int, tile: int) -> list[float] | None:
    """Return by how much a pixel of the result can be off at 0, 1, 2 ... input pixels from a tile's edge; each value is the largest from
    there on. Measured once for a network and size of window, which is no larger than a tile. None where memory ran out."""
    height, width = min(_WINDOW[0], tile), min(_WINDOW[1], tile)
    known = _measured.setdefault(network, {})
    if width not in known:
        sample, cut = sample_picture(channels, height, width), width // 2
        try:
            whole, part = run(sample), run(sample[..., cut:])
        except (RuntimeError, MemoryError) as error:
            if not out_of_memory(error):
                raise
            return None
        scale = whole.shape[-1] // width
        off = (whole[..., cut * scale :] - part).abs().amax(dim=(0, 1, 2)).reshape(-1, scale).amax(1)
        known[width] = off.flip(0).cummax(0).values.flip(0).tolist()
    return known[width]


def seam(errors: list[float], overlap: int) -> float:
    """Return the largest error that is left where tiles share `overlap` pixels, by the `errors` of :func:`border_errors`.

    A tile's outer quarter of the shared pixels is dropped and the middle half is blended linearly with the neighbour's.
    """
    quarter = overlap / 4

    def part(at: int) -> float:
        """The error `at` input pixels from the edge, by the largest weight of any output pixel there."""
        return errors[min(at, len(errors) - 1)] * min(1.0, max(0.0, (at + 1 - quarter) / (2 * quarter)))

    return max(part(at) + part(overlap - 1 - at) for at in range(overlap))


def sample_picture(channels: int, height: int, width: int) -> Tensor:
    """Return a picture (1, C, H, W) in [0, 1], always the same one: noise of every scale, as photographs have it, with hard edges."""
    generator = torch.Generator().manual_seed(0)
    picture = torch.zeros(1, channels, height, width)
    for octave in range(5):
        coarse = torch.rand(1, channels, -(-height // 2**octave) + 1, -(-width // 2**octave) + 1, generator=generator) - 0.5
        picture += functional.interpolate(coarse, size=(height, width), mode="bilinear", align_corners=True) * 0.25 * (octave + 1)
    edges = functional.interpolate(torch.rand(1, 1, 5, 9, generator=generator), size=(height, width), mode="bicubic") > 0.5
    return torch.where(edges, 0.5 + picture / 2, 0.5 - picture / 3).clamp(0, 1)
