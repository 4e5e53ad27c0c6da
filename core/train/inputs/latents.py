"""Latents of an image folder, encoded once and kept beside it.

The encoder's mean is used (no sampling), scaled to unit variance as the VAE's bundle says. The file's name holds a digest of the VAE and
of the folder's pictures, so that another VAE or other pictures never meet old latents.
"""

from __future__ import annotations

import functools
import hashlib
import logging
import os
from collections.abc import Collection
from pathlib import Path

import torch
from torch.nn import functional

from ...bundles.format import LatentSpace
from ...bundles.load import load_bundle
from ...data.folder import ImageFolder
from ...errors import TrainingError
from ...files import replacing
from ...networks import network_of
from ...paths import file_sha256
from ...progress import Progress
from ..recipe import derived_seed

logger = logging.getLogger("rapiddraw")


@torch.no_grad()
def folder_latents(
    images: ImageFolder, vae_path: str | os.PathLike[str], device: torch.device, batch: int = 16, low: Collection[int] = ()
) -> tuple[torch.Tensor, LatentSpace]:
    """(latents (N, C, h, w) float16 in model space, their :class:`LatentSpace`) of every picture of `images`, in its order.

    Pictures `low` are encoded from half their size, enlarged: what a collection of smaller pictures would give.
    """
    from diffusers import AutoencoderKL
    from safetensors.torch import load_file, save_file

    bundle = load_bundle(vae_path, "vae")
    space = bundle.info.latent
    if space is None:
        raise TrainingError(f"{Path(vae_path).name} does not say what latent space it makes; train it with `rapiddraw train vae`")
    key = hashlib.sha256()
    key.update(file_sha256(Path(vae_path)).encode())
    key.update(f"{images.size}/{len(images)}".encode())
    if low:
        key.update(f"low:{sorted(low)}".encode())
    for item in images.items:
        key.update(f"{item.path.name}:{item.path.stat().st_size};".encode())
    cache = images.root / f".latents-{key.hexdigest()[:16]}.safetensors"
    if cache.is_file():
        return load_file(str(cache))["latents"], space
    vae = network_of(AutoencoderKL, bundle).to(device)
    parts = []
    with Progress(len(images), "encoding", "image") as bar:
        for first in range(0, len(images), batch):
            pictures = torch.stack([_picture(images, i, i in low) for i in range(first, min(first + batch, len(images)))]).to(device)
            parts.append(((vae.encode(pictures).latent_dist.mode() - space.shift) * space.scale).half().cpu())
            bar.update(len(pictures))
    latents = torch.cat(parts).contiguous()
    try:
        with replacing(cache) as temporary:
            save_file({"latents": latents}, str(temporary))
    except OSError as error:  # a read-only dataset is no reason to fail
        logger.info("latents are not kept: %s cannot be written (%s)", cache, error)
    return latents, space


def low_pictures(count: int, share: float, seed: int) -> list[int]:
    """Which of `count` pictures are the `share` (0..1) that is known at half the size only; the same for the same `seed`."""
    generator = torch.Generator().manual_seed(derived_seed(seed, "low"))
    return torch.randperm(count, generator=generator)[: round(count * share)].tolist()


def _picture(images: ImageFolder, index: int, low: bool) -> torch.Tensor:
    image = images.image(index)
    if not low:
        return image
    resize = functools.partial(functional.interpolate, mode="bicubic", antialias=True, align_corners=False)
    half = resize(image[None], size=(image.shape[1] // 2, image.shape[2] // 2))
    return resize(half, size=tuple(image.shape[1:]))[0].clamp(-1, 1)
