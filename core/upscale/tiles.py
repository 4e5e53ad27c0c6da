"""Upscaling of images of any size and any channels in tiles, to a factor or to a size.

Neighbouring tiles share some pixels. The outer quarter of the shared pixels is dropped, because there a tile's network saw padding instead
of the picture, and the middle half is blended linearly. How many pixels a network needs for this is measured (:mod:`.reach`).
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from einops import rearrange
from torch import Tensor

from ..device import out_of_memory
from ..errors import InputError
from ..progress import Progress, raise_if_cancelled
from .memory import MAX_BATCH, first_batch, first_tile
from .reach import choose_overlap
from .resize import Target, resize
from .runner import PRECISIONS, TileRunner

if TYPE_CHECKING:
    from collections.abc import Iterator

log = logging.getLogger("rapiddraw")
MIN_TILE, MAX_TILE = 32, 8192


@dataclass(frozen=True)
class Tiling:
    """How a picture is cut. All numbers of pixels are of the input.

    `tile` (32 to 8192) is the largest side of a tile: all tiles have one size, as small as their number allows and no larger than free
    memory does. Neighbours share at least `overlap` pixels, at most half a tile, and more where the network needs more (see
    :func:`~.reach.choose_overlap`); at 0 they share none, and seams show. `batch` (0 to 16) tiles are computed at once; 0: as many as fit
    on a GPU, one on a CPU.
    """

    tile: int = 512
    overlap: int | None = None
    batch: int = 0

    def least_overlap(self) -> int:
        """Return `overlap`, or where it was not given 32 or half a tile, whichever is smaller."""
        return min(32, self.tile // 2) if self.overlap is None else self.overlap

    def check(self) -> None:
        """Raise :class:`InputError` for numbers out of range."""
        if not MIN_TILE <= self.tile <= MAX_TILE:
            raise InputError(f"tile is {self.tile}; it must lie between {MIN_TILE} and {MAX_TILE} pixels")
        if not 0 <= self.batch <= MAX_BATCH:
            raise InputError(f"batch is {self.batch}; it must lie between 0 (what fits) and {MAX_BATCH} tiles")
        if not 0 <= self.least_overlap() <= self.tile // 2:
            raise InputError(f"overlap is {self.overlap}; it must lie between 0 and half a tile ({self.tile // 2} pixels)")


_OWN_SCALE, _TILING = Target(), Tiling()


def upscale(
    model: Any,
    image: Tensor,
    target: Target = _OWN_SCALE,
    tiling: Tiling = _TILING,
    *,
    device: torch.device | str | None = None,
    label: str = "upscaling",
    precision: str = "keep",
) -> Tensor:
    """Return IMAGE (B, H, W, C) in [0, 1] as (B, H', W', C) float32 on the CPU, clamped to [0, 1].

    `model` is an :class:`~.rrdb.Upscaler` or a spandrel descriptor (as ComfyUI's UpscaleModelLoader gives): `.scale`, `.model`, `.to()`
    and a call on NCHW. It runs once, in tiles, on `device` (default: where its weights are; afterwards it is moved back). The result is
    then resampled to `target`. C is 1, 3 or 4; one channel goes through as grey, a fourth (alpha) as a grey image of its own.

    When memory runs out the batch is halved, then the tile, and the work goes on. `precision` "auto" uses bf16 where a sample shows that
    it is faster and no pixel changes by more than 1/255; see :class:`~.runner.TileRunner`.

    Raises :class:`InputError` for numbers or shapes out of range, :class:`~..errors.Cancelled` between tiles.
    """
    if image.ndim != 4 or image.shape[3] not in (1, 3, 4) or 0 in image.shape:
        raise InputError(f"an IMAGE is (batch, height, width, 1 or 3 or 4 channels), not {tuple(image.shape)}")
    tiling.check()
    if precision not in PRECISIONS:
        raise InputError(f"precision is {precision!r}: give {' or '.join(PRECISIONS)}")
    scale = int(model.scale)
    height, width = image.shape[1:3]
    wanted = target.pixels(width, height, scale)

    home = next(model.model.parameters()).device
    runner = TileRunner(model, torch.device(device or home), precision)
    planes = rearrange(image.float().clamp(0, 1), "b h w c -> b c h w")
    jobs = torch.cat([part for one in planes.split(1) for part in _planes(one, model)])
    with torch.no_grad():
        try:
            if runner.device != home:
                model.to(runner.device)
            tiler = _Tiler(runner, scale, tiling)
            tiler.fit(jobs)
            with Progress(tiler.count(jobs), label, "tile") as bar:
                results = [resize(one, wanted).clamp(0, 1) for one in tiler.run(jobs, bar)]
        finally:
            if runner.device != home:
                model.to(home)
    per_image = len(jobs) // image.shape[0]
    grouped = [results[i : i + per_image] for i in range(0, len(results), per_image)]
    return rearrange(torch.cat([_merge(parts, image.shape[3]) for parts in grouped]), "b c h w -> b h w c").contiguous()


class _Tiler:
    """Takes pictures through a network box by box, and remembers the batch and the tile size that memory allowed."""

    def __init__(self, runner: TileRunner, scale: int, tiling: Tiling) -> None:
        self.runner, self.scale, self.tile, self.batch = runner, scale, tiling.tile, tiling.batch
        self.overlap, self.limit = tiling.least_overlap(), tiling.tile

    def fit(self, images: Tensor) -> None:
        """Choose the tile for free memory and, where `images` (N, C, H, W) need more than one tile, the overlap for the network."""
        self.limit = first_tile(self.tile, self.scale, self.runner.device, MIN_TILE)
        if max(images.shape[2:]) > self.limit:
            least = min(self.overlap, self.limit // 2)
            self.overlap = choose_overlap(self.runner.model.model, self.runner.full, images.shape[1], self.limit, least)

    def count(self, images: Tensor) -> int:
        """Return the number of boxes in all of `images` (N, C, H, W)."""
        return len(images) * len(self._boxes(images, self.limit))

    def run(self, images: Tensor, bar: Progress | None = None) -> Iterator[Tensor]:
        """Yield (1, C', H*scale, W*scale) on the CPU for each of `images` (N, C, H, W), and advance `bar` by one for each box."""
        limit = self.limit
        boxes, overlap = self._boxes(images, limit), min(self.overlap, limit // 2)
        pieces = [(number, box) for number in range(len(images)) for box in boxes]
        top, left, bottom, right = boxes[0]
        batch = self.batch or first_batch(bottom - top, right - left, self.scale, self.runner.device)
        total = weight = None
        height, width = images.shape[2:]
        at = 0
        while at < len(pieces):
            raise_if_cancelled()
            chunk = pieces[at : at + (self.batch or batch)]
            stacked = torch.cat([images[number : number + 1, :, top:bottom, left:right] for number, (top, left, bottom, right) in chunk])
            for (_, box), result in zip(chunk, self._compute(stacked).split(1), strict=True):
                at += 1
                if len(boxes) == 1:
                    yield result
                    continue
                if total is None or weight is None:
                    total = result.new_zeros(1, result.shape[1], height * self.scale, width * self.scale)
                    weight = result.new_zeros(1, 1, height * self.scale, width * self.scale)
                top, left, bottom, right = box
                mask = _feather(top, bottom, height, overlap, self.scale)[:, None] * _feather(left, right, width, overlap, self.scale)
                where = (..., slice(top * self.scale, bottom * self.scale), slice(left * self.scale, right * self.scale))
                total[where] += result * mask
                weight[where] += mask
                if at % len(boxes) == 0:
                    yield total / weight
                    total = weight = None
            if bar is not None:
                bar.update(len(chunk))

    def _boxes(self, images: Tensor, tile: int) -> list[tuple[int, int, int, int]]:
        return list(_boxes(images.shape[2], images.shape[3], tile, min(self.overlap, tile // 2)))

    def _compute(self, pixels: Tensor) -> Tensor:
        """Return the result for boxes (k, C, h, w); in smaller batches, then in smaller tiles, where they do not fit into memory."""
        side = max(pixels.shape[2:])
        if side <= self.limit:
            try:
                return self.runner(pixels)
            except (RuntimeError, MemoryError) as error:
                smaller = (side + 1) // 2
                if not out_of_memory(error) or (len(pixels) == 1 and smaller < MIN_TILE):
                    raise
                if len(pixels) == 1:
                    if self.limit == self.tile:
                        log.warning("out of memory while upscaling: going on with tiles of %d px instead of %d", smaller, side)
                    self.limit = smaller
                else:
                    self.batch = len(pixels) // 2
                    log.warning("out of memory while upscaling: going on with %d tiles at once instead of %d", self.batch, len(pixels))
            # Outside the handler: the error holds the failed attempt's tensors alive as long as it is being handled.
            if self.runner.device.type == "cuda":
                torch.cuda.empty_cache()
        if len(pixels) > 1:
            return torch.cat([self._compute(one) for one in pixels.split(max(1, self.batch))])
        return torch.cat(list(self.run(pixels)))


def _spans(length: int, tile: int, overlap: int) -> list[tuple[int, int]]:
    """Return intervals of one size that cover `length`, each sharing at least `overlap` with the next.

    There are as few as `tile` allows, and they are no longer than needed: 1024 pixels in tiles of at most 512 take three of 363.
    """
    if length <= tile:
        return [(0, length)]
    count = -(-(length - overlap) // (tile - overlap))
    size = -(-(length + (count - 1) * overlap) // count)
    # Spread evenly, in whole pixels and rounded down, so that every overlap is at least the one asked for.
    starts = [i * (length - size) // (count - 1) for i in range(count)]
    return [(start, start + size) for start in starts]


def _boxes(height: int, width: int, tile: int, overlap: int) -> Iterator[tuple[int, int, int, int]]:
    """Yield (top, left, bottom, right) in reading order."""
    for top, bottom in _spans(height, tile, overlap):
        for left, right in _spans(width, tile, overlap):
            yield top, left, bottom, right


def _feather(start: int, end: int, length: int, overlap: int, scale: int) -> Tensor:
    """Return the weights along one side of a box, in output pixels: 1 inside; at the outer quarter of an overlap (almost) 0, and linear
    between the two over the overlap's middle half."""
    count = (end - start) * scale
    position = torch.arange(count, dtype=torch.float32) + 0.5
    ramp = torch.ones(count)
    quarter = overlap * scale / 4
    for inner, distance in ((start > 0, position), (end < length, count - position)):
        if inner and overlap:
            ramp = torch.minimum(ramp, ((distance - quarter) / (2 * quarter)).clamp(0, 1))
    # Never 0, so that every pixel has a weight whatever the spacing of the boxes.
    return ramp.clamp(min=1e-6)


def _planes(image: Tensor, model: Any) -> list[Tensor]:
    """Return what the model gets for one image (1, C, H, W): the image, or its colour and its alpha, in the channels the model takes."""
    takes = int(getattr(model, "input_channels", 3))
    channels = image.shape[1]
    if channels == takes:
        return [image]
    if takes not in (1, 3):
        raise InputError(f"this model takes images of {takes} channels, and this one has {channels}: convert it first")
    grey = [image[:, i : i + 1] for i in range(channels)]
    if takes == 1:
        return grey
    colour = [image[:, :3]] if channels == 4 else []
    return [*colour, grey[-1].expand(-1, 3, -1, -1)]


def _merge(parts: list[Tensor], channels: int) -> Tensor:
    """Return one image (1, `channels`, H, W) from the model's results: the inverse of :func:`_planes`."""
    if len(parts) == 1 and parts[0].shape[1] == channels:
        return parts[0]
    if len(parts) == channels:
        return torch.cat([part.mean(1, keepdim=True) for part in parts], 1)
    *colour, grey = parts
    return torch.cat([*colour, grey.mean(1, keepdim=True)], 1)
