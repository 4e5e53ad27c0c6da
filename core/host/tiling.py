"""Decoding and encoding large pictures in overlapping tiles, blended linearly where they overlap.

Tiles are whole numbers of latent cells, so that a tile's latent is a part of the picture's latent. A VAE with group normalisation sees
each tile's own statistics: tiled results are close to the whole picture, not equal to it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..errors import InputError

MIN_TILE, MAX_TILE = 64, 8192
_FALLBACK = 512
_OVERLAP = 0.25  # of a tile
log = logging.getLogger("rapiddraw")


def tiles(tile: int, cell: int) -> tuple[int, int]:
    """Return (side, overlap) of a tile of `tile` pixels in latent cells of `cell` pixels. Raises :class:`InputError` outside 64..8192."""
    if isinstance(tile, bool) or not MIN_TILE <= tile <= MAX_TILE:
        raise InputError(f"tile is {tile}; it must be 0 (whole) or lie between {MIN_TILE} and {MAX_TILE} pixels")
    side = max(2, int(tile) // cell)
    return side, max(1, round(side * _OVERLAP))


def decode(vae: Any, latent: Tensor, tile: int = 0) -> Tensor:
    """Return `vae.decode` of (B, C, h, w), in tiles of `tile` pixels; with 0 whole, and in tiles only where memory runs out."""
    cell = vae.spacial_compression_encode()

    def run(side: int) -> Tensor:
        return _spread(lambda part: vae.decode(part).movedim(-1, 1), latent, tiles(side, cell), (1, cell)).movedim(1, -1)

    return _whole_or(lambda: vae.decode(latent), run, tile, "decoding")


def encode(vae: Any, pixels: Tensor, tile: int = 0) -> Tensor:
    """Return `vae.encode` of (B, H, W, 3), in tiles of `tile` pixels; with 0 whole, and in tiles only where memory runs out.

    In tiles, a rim that is no whole cell is cut off centred, as it is for a whole picture.
    """
    cell = vae.spacial_compression_encode()

    def run(side: int) -> Tensor:
        planes = pixels[..., :3].movedim(-1, 1)
        for dim in (2, 3):
            rim = planes.shape[dim] % cell
            planes = planes.narrow(dim, rim // 2, planes.shape[dim] - rim)
        return _spread(lambda part: vae.encode(part.movedim(1, -1)), planes, tiles(side, cell), (cell, 1))

    return _whole_or(lambda: vae.encode(pixels), run, tile, "encoding")


def _whole_or(whole: Callable[[], Tensor], run: Callable[[int], Tensor], tile: int, what: str) -> Tensor:
    from ..device import out_of_memory

    if tile:
        return run(tile)
    try:
        return whole()
    except (RuntimeError, MemoryError) as error:
        if not out_of_memory(error):
            raise
    log.warning("out of memory while %s: going on in tiles of %d pixels", what, _FALLBACK)  # outside the handler, which holds the tensors
    return run(_FALLBACK)


def _spread(function: Callable[[Tensor], Tensor], x: Tensor, tile: tuple[int, int], units: tuple[int, int]) -> Tensor:
    """Return `function` over tiles of x (B, C, h, w). `units`: entries of x, and of the result, to a latent cell."""
    side, shared = tile
    take, give = units
    height, width = x.shape[2] // take, x.shape[3] // take
    total = weight = None
    for top in _starts(height, side, shared):
        for left in _starts(width, side, shared):
            bottom, right = min(top + side, height), min(left + side, width)
            part = function(x[:, :, top * take : bottom * take, left * take : right * take])
            if total is None or weight is None:
                total = part.new_zeros(part.shape[0], part.shape[1], height * give, width * give)
                weight = part.new_zeros(1, 1, height * give, width * give)
            rows, columns = _ramp(top, bottom, height, shared, give), _ramp(left, right, width, shared, give)
            mask = (rows[:, None] * columns).to(part)
            where = (..., slice(top * give, bottom * give), slice(left * give, right * give))
            total[where] += part * mask
            weight[where] += mask
    assert total is not None and weight is not None  # noqa: S101 - a picture has at least one tile; this tells the type checker
    return total / weight


def _starts(length: int, side: int, shared: int) -> list[int]:
    """Return where tiles begin: evenly spread, each sharing at least `shared` cells with the next."""
    if length <= side:
        return [0]
    count = -(-(length - shared) // max(1, side - shared))
    return [round(i * (length - side) / (count - 1)) for i in range(count)]


def _ramp(start: int, end: int, length: int, shared: int, give: int) -> Tensor:
    """Return weights along one side of a tile: 1 inside, falling linearly over the overlap towards an inner edge, never to 0."""
    count, fade = (end - start) * give, shared * give
    position = torch.arange(count, dtype=torch.float32) + 0.5
    ramp = torch.ones(count)
    if start > 0:
        ramp = torch.minimum(ramp, position / fade)
    if end < length:
        ramp = torch.minimum(ramp, (count - position) / fade)
    return ramp.clamp(min=1e-3)
