"""Square crops of training pictures, most of them around objects, for networks that see a picture locally."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ...data.folder import ImageFolder
from .foreground import FOREGROUND_CLASSES


class Crops:
    """Crops of `side` pixels. A share `on_objects` of them lies around a random pixel of an object, the rest anywhere.

    `images` must be of one size of at least `side` pixels. With `on_objects` above 0 each needs a segmentation map (:class:`DataError`).
    """

    def __init__(self, images: ImageFolder, side: int, on_objects: float) -> None:
        self.images, self.side, self.on_objects = images, side, on_objects

    def crop(self, index: int, generator: torch.Generator) -> Tensor:
        """Return a crop of picture `index`, (3, side, side) in [-1, 1], as `generator` draws it, flipped half of the time."""
        picture = self.images.image(index)
        height, width = picture.shape[1:]
        u = torch.rand(4, generator=generator).tolist()
        top, left = (int(v * (size - self.side + 1)) for v, size in ((u[1], height), (u[2], width)))
        if u[0] < self.on_objects:
            rows, columns = np.nonzero(np.isin(self.images.map(index, "segmentation"), FOREGROUND_CLASSES))
            if len(rows):
                chosen = int(u[1] * len(rows))
                jitter = int((u[2] - 0.5) * self.side)
                top = _within(int(rows[chosen]) - self.side // 2 + jitter, height - self.side)
                left = _within(int(columns[chosen]) - self.side // 2 - jitter, width - self.side)
        crop = picture[:, top : top + self.side, left : left + self.side]
        return crop.flip(-1) if u[3] < 0.5 else crop


def _within(start: int, last: int) -> int:
    return min(max(start, 0), last)
