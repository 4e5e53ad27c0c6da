"""Condition pictures as one hint: which channels hold which condition, and how a picture is fitted.

A hint is (B, 3 n, H, W) in [0, 1] for an adapter of n conditions: three channels for each, in the adapter's order. A condition that is not
given is zero. The adapter saw the same in training where a condition was dropped.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.nn import functional

from ..errors import InputError
from .segmenter import classes_to_image

CONDITIONS = ("edges", "segmentation", "sketch")
"""The conditions that an adapter knows unless it says otherwise."""
CHANNELS = 3


def merge_hints(images: Mapping[str, Tensor], conditions: Sequence[str]) -> Tensor:
    """Return one hint (B, 3 n, H, W) of IMAGEs (B, H, W, 3), given by the name of their condition. The first one's size is used.

    Raises :class:`InputError` for a condition that is not among `conditions`, for no condition at all, and for batches that differ.
    """
    unknown = [name for name in images if name not in conditions]
    if unknown:
        raise InputError(f"this adapter knows no condition {', '.join(unknown)}; its conditions are {', '.join(conditions)}")
    if not images:
        raise InputError(f"no condition is given; connect at least one of {', '.join(conditions)}")
    hints = {name: rgb_of(image.movedim(-1, 1), name) for name, image in images.items()}
    first = next(iter(hints.values()))
    batch = max(hint.shape[0] for hint in hints.values())
    if any(hint.shape[0] not in (1, batch) for hint in hints.values()):
        raise InputError(
            f"the conditions have batches of {sorted({hint.shape[0] for hint in hints.values()})} pictures; give one or as many"
        )
    out = first.new_zeros(batch, CHANNELS * len(conditions), *first.shape[2:])
    for index, name in enumerate(conditions):
        if name in hints:
            out[:, CHANNELS * index : CHANNELS * (index + 1)] = fit_hint(hints[name], *first.shape[2:])
    return out


def place_hint(hint: Tensor, conditions: Sequence[str], default: str) -> Tensor:
    """Return `hint` (B, c, H, W) as a hint of all conditions. One of 3 n channels is complete already; a single picture becomes the
    condition `default`.
    """
    if hint.ndim == 4 and hint.shape[1] == CHANNELS * len(conditions) and len(conditions) > 1:
        return hint
    return merge_hints({default: hint.movedim(1, -1)}, conditions)


def rgb_of(picture: Tensor, name: str = "the condition") -> Tensor:
    """Return a picture of one, three or four channels as (B, 3, H, W) float32; alpha is dropped. Raises :class:`InputError` for another
    shape or for values that are not finite.
    """
    if picture.ndim != 4 or picture.shape[1] not in (1, 3, 4) or 0 in picture.shape:
        raise InputError(f"{name} must be an IMAGE of (B, H, W, 3); one of shape {tuple(picture.movedim(1, -1).shape)} was given")
    if not bool(picture.isfinite().all()):
        raise InputError(f"{name} holds values that are NaN or infinite")
    picture = picture.float()
    return picture.expand(-1, CHANNELS, -1, -1) if picture.shape[1] == 1 else picture[:, :CHANNELS]


def fit_hint(hint: Tensor, height: int, width: int) -> Tensor:
    """Return `hint` (B, c, H, W) at (height, width): cropped to that shape around its middle, then averaged over areas, which keeps thin
    lines.
    """
    if hint.shape[2:] == (height, width):
        return hint
    old_height, old_width = hint.shape[2:]
    cut_width = min(old_width, max(1, round(old_height * width / height)))
    cut_height = min(old_height, max(1, round(old_width * height / width)))
    top, left = (old_height - cut_height) // 2, (old_width - cut_width) // 2
    return functional.interpolate(hint[:, :, top : top + cut_height, left : left + cut_width], size=(height, width), mode="area")


def hint_batch(hint: Tensor, batch: int, calls: int) -> Tensor:
    """Return `hint` (n, ...) repeated for `batch` states. The states are `calls` copies of one batch, one after the other; where there are
    fewer hints than states in a copy, the hints repeat.
    """
    each = batch // calls
    if hint.shape[0] == 1:
        return hint.expand(batch, -1, -1, -1)
    rows = torch.arange(each, device=hint.device) % hint.shape[0]
    return hint[rows].repeat(calls, 1, 1, 1)


def map_hint(kind: str, classes: Tensor) -> Tensor:
    """Return a map from a dataset folder, (H, W) uint8, as the three channels (3, H, W) in [0, 1] that a node makes of it."""
    if kind == "segmentation":
        return classes_to_image(classes).movedim(-1, 0)
    return (classes.float() / 255).expand(CHANNELS, -1, -1)
