"""Upscaling images of any size and any channels in tiles that leave no seam, to a factor or to a size.

Neighbouring tiles share `overlap` pixels. The outer quarter of what they share is thrown away, because there a tile's network saw
padding instead of the picture, and the middle half is blended linearly. A network's influence reaches far in theory (15 pixels per RRDB
block) and a few pixels in practice, so 32 is ample; `overlap` 0 is allowed, and shows.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..errors import InputError
from ..progress import Progress, raise_if_cancelled
from .memory import out_of_memory
from .resize import resize, target_size

if TYPE_CHECKING:
    from collections.abc import Iterator

log = logging.getLogger("rapiddraw")
MIN_TILE, MAX_TILE = 32, 8192


def upscale(
    model: Any,
    image: Tensor,
    *,
    tile: int = 512,
    overlap: int = 32,
    factor: float | None = None,
    long_side: int | None = None,
    size: tuple[int, int] | None = None,
    device: torch.device | str | None = None,
    label: str = "upscaling",
) -> Tensor:
    """IMAGE (B, H, W, C) in [0, 1] -> (B, H', W', C) float32 on the CPU, clamped to [0, 1].

    `model` is an :class:`~.rrdb.Upscaler` or a spandrel descriptor (as ComfyUI's UpscaleModelLoader gives): `.scale`, `.model`, `.to()`
    and a call on NCHW. It runs once, in tiles of `tile` input pixels, on `device` (default: where its weights are; it is moved back
    afterwards), and the result is resampled to what was asked for: at most one of `factor` (of the input's sides), `long_side` (pixels,
    keeping the shape) and `size` (width, height); none means the model's own factor. C is 1, 3 or 4; one channel goes through as grey, a
    fourth (alpha) as a grey image of its own. When memory runs out the tile is halved and the work goes on.

    Raises :class:`InputError` for numbers or shapes out of range, :class:`~..errors.Cancelled` between tiles.
    """
    if image.ndim != 4 or image.shape[3] not in (1, 3, 4) or 0 in image.shape:
        raise InputError(f"an IMAGE is (batch, height, width, 1 or 3 or 4 channels), not {tuple(image.shape)}")
    if not MIN_TILE <= tile <= MAX_TILE:
        raise InputError(f"tile is {tile}; it must lie between {MIN_TILE} and {MAX_TILE} pixels")
    if not 0 <= overlap <= tile // 2:
        raise InputError(f"overlap is {overlap}; it must lie between 0 and half a tile ({tile // 2} pixels)")
    scale = int(model.scale)
    height, width = image.shape[1:3]
    wanted = target_size(width, height, scale, factor=factor, long_side=long_side, size=size)

    weights = next(model.model.parameters())
    home, dtype = weights.device, weights.dtype
    tiler = _Tiler(model, scale, tile, overlap, torch.device(device or home), dtype)
    jobs = [part for one in image.float().clamp(0, 1).permute(0, 3, 1, 2).split(1) for part in _planes(one, model)]
    boxes = sum(1 for _ in _boxes(height, width, tile, overlap))
    results: list[Tensor] = []
    with torch.no_grad(), Progress(len(jobs) * boxes, label, "tile") as bar:
        try:
            if tiler.device != home:
                model.to(tiler.device)
            for planes in jobs:
                results.append(resize(tiler.run(planes, bar), wanted).clamp(0, 1))
        finally:
            if tiler.device != home:
                model.to(home)
    per_image = len(jobs) // image.shape[0]
    grouped = [results[i : i + per_image] for i in range(0, len(results), per_image)]
    return torch.cat([_merge(parts, image.shape[3]) for parts in grouped]).permute(0, 2, 3, 1).contiguous()


class _Tiler:
    """Runs a model over pictures box by box, and remembers the tile size that memory allowed."""

    def __init__(self, model: Any, scale: int, tile: int, overlap: int, device: torch.device, dtype: torch.dtype) -> None:
        self.model, self.scale, self.tile, self.overlap = model, scale, tile, overlap
        self.device, self.dtype, self.limit = device, dtype, tile

    def run(self, image: Tensor, bar: Progress | None = None, tile: int | None = None) -> Tensor:
        """(1, C, H, W) -> (1, C', H*scale, W*scale) on the CPU, `bar` advanced by one a box."""
        tile = tile or self.tile
        overlap = min(self.overlap, tile // 2)
        height, width = image.shape[2:]
        total = weight = None
        for top, left, bottom, right in _boxes(height, width, tile, overlap):
            raise_if_cancelled()
            result = self._box(image[:, :, top:bottom, left:right])
            if (bottom - top, right - left) == (height, width):
                total, weight = result, None
            else:
                if total is None or weight is None:
                    total = result.new_zeros(1, result.shape[1], height * self.scale, width * self.scale)
                    weight = result.new_zeros(1, 1, height * self.scale, width * self.scale)
                mask = _feather(top, bottom, height, overlap, self.scale)[:, None] * _feather(left, right, width, overlap, self.scale)
                where = (..., slice(top * self.scale, bottom * self.scale), slice(left * self.scale, right * self.scale))
                total[where] += result * mask
                weight[where] += mask
            if bar is not None:
                bar.update()
        assert total is not None  # noqa: S101 (a picture has at least one box; this tells the type checker)
        return total if weight is None else total / weight

    def _box(self, pixels: Tensor) -> Tensor:
        """One box through the model, in smaller tiles where it does not fit into memory."""
        if max(pixels.shape[2:]) <= self.limit:
            try:
                return self.model(pixels.to(self.device, self.dtype)).float().cpu()
            except (RuntimeError, MemoryError) as error:
                smaller = (min(self.limit, max(pixels.shape[2:])) + 1) // 2
                if not out_of_memory(error) or smaller < MIN_TILE:
                    raise
                if self.limit == self.tile:
                    log.warning("out of memory while upscaling: going on with tiles of %d px instead of %d", smaller, self.tile)
                self.limit = smaller
            # Outside the handler: the error holds the failed attempt's tensors alive as long as it is being handled.
            if self.device.type == "cuda":
                torch.cuda.empty_cache()
        return self.run(pixels, tile=self.limit)


def _spans(length: int, tile: int, overlap: int) -> list[tuple[int, int]]:
    """Intervals of `tile` that cover `length`, each sharing at least `overlap` with the next; the last ends at the end."""
    if length <= tile:
        return [(0, length)]
    count = -(-(length - overlap) // (tile - overlap))
    # Spread evenly: whole pixels, so every overlap is at least the one asked for.
    starts = [round(i * (length - tile) / (count - 1)) for i in range(count)]
    return [(start, start + tile) for start in starts]


def _boxes(height: int, width: int, tile: int, overlap: int) -> Iterator[tuple[int, int, int, int]]:
    """(top, left, bottom, right) in reading order."""
    for top, bottom in _spans(height, tile, overlap):
        for left, right in _spans(width, tile, overlap):
            yield top, left, bottom, right


def _feather(start: int, end: int, length: int, overlap: int, scale: int) -> Tensor:
    """Weights along one side of a box, in output pixels: 1 inside; towards an inner edge 1 falls to (almost) 0 over half the overlap,
    and stays there for the outer quarter of it."""
    count = (end - start) * scale
    position = torch.arange(count, dtype=torch.float32) + 0.5
    ramp = torch.ones(count)
    quarter = overlap * scale / 4
    for inner, distance in ((start > 0, position), (end < length, count - position)):
        if inner and overlap:
            ramp = torch.minimum(ramp, ((distance - quarter) / (2 * quarter)).clamp(0, 1))
    # Never quite nothing, so that every pixel has a weight whatever the spacing of the boxes.
    return ramp.clamp(min=1e-6)


def _planes(image: Tensor, model: Any) -> list[Tensor]:
    """What to send through the model for one image (1, C, H, W): itself, or its colour and its alpha, in the channels the model takes."""
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
    """The inverse of :func:`_planes`: one image (1, `channels`, H, W) from the model's results."""
    if len(parts) == 1 and parts[0].shape[1] == channels:
        return parts[0]
    if len(parts) == channels:
        return torch.cat([part.mean(1, keepdim=True) for part in parts], 1)
    *colour, grey = parts
    return torch.cat([*colour, grey.mean(1, keepdim=True)], 1)
