"""Multi-resolution training (PanGu-Draw, section 4 and Table 7): each picture in the bucket of its aspect ratio, each batch of one size."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

import torch

from ...bundles.format import LatentSpace
from ...bundles.load import load_bundle
from ...data.buckets import Size, nearest_bucket
from ...data.folder import ImageFolder
from ...errors import InputError, TrainingError
from ...networks import network_of
from ...progress import Progress


class Buckets:
    """The latents of a folder by bucket. `members[i]` are the pictures of bucket i, `latents[i]` theirs (N_i, C, h_i, w_i), float16."""

    def __init__(self, members: list[list[int]], latents: list[torch.Tensor], space: LatentSpace) -> None:
        self.members, self.latents, self.latent_space = members, latents, space

    def draw(self, batch_size: int, rng: random.Random) -> tuple[int, list[int], torch.Tensor]:
        """A batch of one bucket, each as likely as it has pictures: (its index, pictures, their latents)."""
        (index,) = rng.choices(range(len(self.members)), [len(found) for found in self.members])
        rows = [rng.randrange(len(self.members[index])) for _ in range(batch_size)]
        return index, [self.members[index][row] for row in rows], self.latents[index][rows]

    def bucket_of(self) -> list[int]:
        """The bucket of each picture, in the folder's order."""
        found = {picture: bucket for bucket, pictures in enumerate(self.members) for picture in pictures}
        return [found[picture] for picture in range(len(found))]


def assign(images: ImageFolder, sizes: Sequence[Size]) -> list[list[int]]:
    """The pictures of each bucket: those whose aspect ratio is nearest to its own, by the logarithm."""
    members: list[list[int]] = [[] for _ in sizes]
    for index in range(len(images)):
        members[nearest_bucket(*images.shape(index), sizes)].append(index)
    return members


@torch.no_grad()
def bucket_latents(images: ImageFolder, vae_path: str, device: torch.device, sizes: Sequence[Size], batch: int = 16) -> Buckets:
    """Every picture of `images` scaled and cropped to the size of its bucket and encoded (the posterior's mean, in model space)."""
    from diffusers import AutoencoderKL

    bundle = load_bundle(vae_path, "vae")
    space = bundle.info.latent
    if space is None:
        raise TrainingError(f"{Path(vae_path).name} does not say what latent space it makes; train it with `rapiddraw train vae`")
    if wrong := [f"{w} x {h}" for h, w in sizes if h % space.factor or w % space.factor]:
        raise InputError(f"buckets of {', '.join(wrong)} pixels are no multiples of the VAE's factor {space.factor}")
    vae = network_of(AutoencoderKL, bundle).to(device)
    members = assign(images, sizes)
    latents = []
    with Progress(len(images), "encoding", "image") as bar:
        for found, (height, width) in zip(members, sizes, strict=True):
            parts = [torch.zeros(0, space.channels, height // space.factor, width // space.factor, dtype=torch.float16)]
            for first in range(0, len(found), batch):
                pictures = torch.stack([images.fitted(i, height, width) for i in found[first : first + batch]]).to(device)
                parts.append(((vae.encode(pictures).latent_dist.mode() - space.shift) * space.scale).half().cpu())
                bar.update(len(pictures))
            latents.append(torch.cat(parts))
    return Buckets(members, latents, space)
