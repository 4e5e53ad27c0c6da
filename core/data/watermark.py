"""Heuristic for watermarks: pictures whose corners have the same fine detail although they show different things.

A mark has one place and one form in many pictures, whatever is under it. So the fine detail of each corner is compared between all pictures
of a folder. Where several agree although their colours there differ as much as those of the whole folder, the common detail is the mark. A
sun that always stands in one place agrees as well, but only under one sky. (Compare Dekel et al. 2017, "On the Effectiveness of Visible
Watermarks", who find the mark of a whole collection as the median of its gradients.)

Only corners are examined: stock sites and machines put marks there. At least :data:`MIN_GROUP` pictures must have the mark. A mark that
moves is not found, and a common frame is taken for a mark.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

SIDE = 128
MIN_GROUP = 4
MAX_PICTURES = 4000
_HEIGHT, _WIDTH = round(0.2 * SIDE), round(0.5 * SIDE)
_ALIKE = 0.6  # correlation above which two corners have something in common
_DIVERSE = 0.7  # share of the folder's spread of colour that pictures with one mark must have
_BETWEEN = 0.3  # share of a corner's pixels, those with the least detail in common, that show no stroke
_FAINT = 0.012  # spread of detail below which a corner counts as empty: noise correlates with noise by chance


@dataclass(frozen=True)
class Watermark:
    """The marks of a folder: for each corner that has one, its number and the mark's fine detail as a unit vector."""

    patterns: tuple[tuple[int, Tensor], ...]

    def share(self, small: Tensor) -> float:
        """Return how surely a picture's :func:`thumbnail` shows the mark: the largest correlation of a corner with it, from 0 to 1."""
        corners = corner_details(small[None])
        return min(1.0, max(0.0, *(float(corners[number][0] @ pattern) for number, pattern in self.patterns)))


def thumbnail(picture: Tensor) -> Tensor:
    """Return a picture (3, H, W) in [0, 1] at (3, SIDE, SIDE)."""
    return functional.interpolate(picture[None], (SIDE, SIDE), mode="bilinear", antialias=True, align_corners=False)[0]


def corner_details(small: Tensor) -> list[Tensor]:
    """Return the fine detail of the four corners of thumbnails (N, 3, SIDE, SIDE): four tensors (N, pixels) of unit length, shorter where
    the detail is faint.
    """
    luma = small.mean(dim=1)
    smooth = functional.avg_pool2d(functional.pad(luma[:, None], (3, 3, 3, 3), mode="replicate"), 7, stride=1)[:, 0]
    fine = (luma - smooth).clamp(-0.15, 0.15)
    # Rows that are the same from left to right, such as a horizon or planks, are no mark.
    plain = [(corner - corner.mean(dim=2, keepdim=True)).flatten(1) for corner in _corners(fine)]
    least = _FAINT * (_HEIGHT * _WIDTH) ** 0.5
    return [corner / corner.norm(dim=1, keepdim=True).clamp_min(least) for corner in plain]


def find_watermark(small: Tensor) -> Watermark | None:
    """Return the common marks of thumbnails (N, 3, SIDE, SIDE), at most :data:`MAX_PICTURES` of them; `None` where there are none."""
    small = small[:MAX_PICTURES]
    found = []
    for number, (corner, pixels) in enumerate(zip(corner_details(small), _corners(small), strict=True)):
        alike = corner @ corner.T > _ALIKE
        open_ = torch.ones(len(small), dtype=torch.bool)
        while True:
            friends = (alike & open_[None]).sum(dim=1) * open_
            if not len(friends) or int(friends.max()) < MIN_GROUP:
                break
            group = alike[int(friends.argmax())] & open_
            mean = corner[group].mean(dim=0)
            # Between the strokes the pictures themselves are visible.
            between = mean.abs() <= mean.abs().quantile(_BETWEEN)
            colours = pixels.flatten(2)[:, :, between].mean(dim=2)
            if _spread(colours[group]) >= _DIVERSE * _spread(colours):
                found.append((number, mean / mean.norm()))
            open_ &= ~group
    return Watermark(tuple(found)) if found else None


def _corners(images: Tensor) -> list[Tensor]:
    rows, columns = (slice(None, _HEIGHT), slice(-_HEIGHT, None)), (slice(None, _WIDTH), slice(-_WIDTH, None))
    return [images[..., row, column] for row in rows for column in columns]


def _spread(colours: Tensor) -> float:
    return float(colours.var(dim=0, correction=0).sum().sqrt())
