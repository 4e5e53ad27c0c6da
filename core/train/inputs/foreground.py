"""How often the error at a place of a picture counts: more inside objects, of which there is little beside the scenery."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch.nn import functional

from ...data.buckets import Size
from ...data.folder import ImageFolder

FOREGROUND_CLASSES = (2, 3)
"""Of the Orchard's segmentation maps: a fruit's body and its topper."""


def foreground_weights(images: ImageFolder, foreground: float, cells: Sequence[Size], sizes: Sequence[Size] = ()) -> list[torch.Tensor]:
    """(1, h, w) for every picture: `foreground` inside an object, 1 outside, by the share of a latent's pixels; the mean over all is 1.

    `cells` are the (h, w) of the pictures' latents. `sizes` are the pixels (height, width) that the pictures are scaled and cropped to;
    without them the maps are taken whole. Raises :class:`DataError` for a picture without a segmentation map.
    """
    weights = []
    for index, side in enumerate(cells):
        classes = images.fitted_map(index, "segmentation", *sizes[index]) if sizes else images.map(index, "segmentation")
        inside = torch.isin(torch.from_numpy(classes.copy()), torch.tensor(FOREGROUND_CLASSES, dtype=torch.uint8)).float()
        weights.append(1 + (foreground - 1) * functional.adaptive_avg_pool2d(inside[None], side))
    mean = sum(float(weight.sum()) for weight in weights) / sum(weight.numel() for weight in weights)
    return [weight / mean for weight in weights]
