"""Weights of the error at each place of a picture: higher inside objects, which fill less of a picture than the scenery does."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import torch
from torch.nn import functional

from ...data.buckets import Size
from ...data.folder import ImageFolder

FOREGROUND_CLASSES = (2, 3)
"""Classes of the Orchard's segmentation maps that count as an object: a fruit's body and its topper."""


def foreground_weights(images: ImageFolder, foreground: float, cells: Sequence[Size], sizes: Sequence[Size] = ()) -> list[torch.Tensor]:
    """Return weights (1, h, w) for every picture: `foreground` inside an object and 1 outside, scaled so that their mean over all is 1.

    A latent cell that an object fills in part has a weight between the two. `cells` are the (h, w) of the pictures' latents. `sizes` are
    the pixels (height, width) that the pictures are scaled and cropped to; without `sizes` the maps are taken whole. Raises
    :class:`DataError` for a picture without a segmentation map.
    """

    def weight(index: int) -> torch.Tensor:
        classes = images.fitted_map(index, "segmentation", *sizes[index]) if sizes else images.map(index, "segmentation")
        inside = torch.isin(torch.from_numpy(classes.copy()), torch.tensor(FOREGROUND_CLASSES, dtype=torch.uint8)).float()
        return 1 + (foreground - 1) * functional.adaptive_avg_pool2d(inside[None], cells[index])

    with ThreadPoolExecutor() as readers:
        weights = list(readers.map(weight, range(len(cells))))
    mean = sum(float(weight.sum()) for weight in weights) / sum(weight.numel() for weight in weights)
    return [weight / mean for weight in weights]
