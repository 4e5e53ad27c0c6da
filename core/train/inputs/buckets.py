"""Buckets for multi-resolution training (PanGu-Draw, sections 5 and 8): one for each aspect ratio; a batch holds pictures of one bucket."""

from __future__ import annotations

import random
from collections.abc import Sequence

import torch

from ...data.buckets import Size, nearest_bucket
from ...data.folder import ImageFolder
from ...progress import Progress
from .encoder import LatentEncoder


class Buckets:
    """The latents of a folder by bucket: `members[i]` are the pictures of bucket i, `latents[i]` their latents (N_i, C, h_i, w_i) in
    float16."""

    def __init__(self, members: list[list[int]], latents: list[torch.Tensor]) -> None:
        self.members, self.latents = members, latents

    def draw(self, batch_size: int, rng: random.Random) -> tuple[int, list[int], torch.Tensor]:
        """Draw a batch of one bucket: (the bucket's index, the pictures' numbers, their latents). Buckets with more pictures are drawn more
        often."""
        (index,) = rng.choices(range(len(self.members)), [len(found) for found in self.members])
        rows = [rng.randrange(len(self.members[index])) for _ in range(batch_size)]
        return index, [self.members[index][row] for row in rows], self.latents[index][rows]

    def bucket_of(self) -> list[int]:
        """Return the bucket of each picture, in the folder's order."""
        found = {picture: bucket for bucket, pictures in enumerate(self.members) for picture in pictures}
        return [found[picture] for picture in range(len(found))]


def assign(images: ImageFolder, sizes: Sequence[Size]) -> list[list[int]]:
    """Return the pictures of each bucket of `sizes`. A picture goes to the bucket with the nearest aspect ratio, by the logarithm."""
    members: list[list[int]] = [[] for _ in sizes]
    for index in range(len(images)):
        members[nearest_bucket(*images.shape(index), sizes)].append(index)
    return members


def bucket_latents(images: ImageFolder, encoder: LatentEncoder, sizes: Sequence[Size], batch: int = 16) -> Buckets:
    """Return every picture of `images`, scaled and cropped to the size of its bucket and encoded (the posterior's mean, in model space).

    Raises :class:`InputError` where the encoder's factor does not divide a size.
    """
    for height, width in sizes:
        encoder.check_size(height, width)
    space, members = encoder.space, assign(images, sizes)
    latents = []
    with Progress(len(images), "encoding", "image") as bar:
        for found, (height, width) in zip(members, sizes, strict=True):
            parts = [torch.zeros(0, space.channels, height // space.factor, width // space.factor, dtype=torch.float16)]
            for first in range(0, len(found), batch):
                pictures = torch.stack([images.fitted(i, height, width) for i in found[first : first + batch]])
                parts.append(encoder.encode(pictures))
                bar.update(len(pictures))
            latents.append(torch.cat(parts))
    return Buckets(members, latents)
