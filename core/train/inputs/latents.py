"""Latents of an image folder, encoded once and kept beside it.

A picture is encoded again where its file, the VAE or its size is another one, and where the kept latents are damaged
(`latent_cache.py`).
"""

from __future__ import annotations

import functools
import hashlib
import os
from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor

import torch
from torch.nn import functional

from ...bundles.format import LatentSpace
from ...data.folder import ImageFolder
from ...paths import file_sha256
from ...progress import Progress, track
from ..recipe import derived_seed
from .encoder import LatentEncoder
from .latent_cache import picture_key, read_rows, write_rows


def folder_latents(
    images: ImageFolder, vae_path: str | os.PathLike[str], device: torch.device, batch: int = 0, low: Collection[int] = ()
) -> tuple[torch.Tensor, LatentSpace]:
    """Return the latents (N, C, h, w), float16 in model space, of every picture of `images` in its order, and their :class:`LatentSpace`.

    Pictures `low` are encoded from half their size, enlarged: as pictures of a collection that has smaller ones. `batch` pictures are
    encoded at a time (0: 16 on a CPU, 256 elsewhere). Raises :class:`TrainingError` for a VAE without a latent space, or whose latents are
    not finite.
    """
    batch = batch or (16 if device.type == "cpu" else 256)
    encoder = LatentEncoder(vae_path, device)
    vae = file_sha256(vae_path)
    name = hashlib.sha256(f"{vae}/{images.size}/{sorted(low)}".encode()).hexdigest()[:16]
    path = images.root / f".latents-{name}.safetensors"
    counted = track(enumerate(images.items), len(images), "comparing pictures", "image")
    keys = [picture_key(item.path, f"{vae}/{images.size}/{'low' if i in low else 'whole'}") for i, item in counted]
    rows = read_rows(path, keys)
    missing = len(keys) - sum(key in rows for key in keys)
    if missing:
        with Progress(len(images), "encoding", "image") as bar, ThreadPoolExecutor() as readers:
            # Always whole batches: alone, a picture's latents differ in the last bits, and a run would not resume exactly.
            for first in range(0, len(images), batch):
                part = range(first, min(first + batch, len(images)))
                if any(keys[i] not in rows for i in part):
                    pictures = readers.map(lambda i: _picture(images, i, i in low), part)
                    encoded = encoder.encode(torch.stack(list(pictures)))
                    for i, latents in zip(part, encoded, strict=True):
                        rows.setdefault(keys[i], latents)
                bar.update(len(part))
        write_rows(path, {key: rows[key] for key in keys})
    return torch.stack([rows[key] for key in keys]), encoder.space


def low_pictures(count: int, share: float, seed: int) -> list[int]:
    """Return which of `count` pictures are the `share` (0..1) known at half the size only; the same for the same `seed`."""
    generator = torch.Generator().manual_seed(derived_seed(seed, "low"))
    return torch.randperm(count, generator=generator)[: round(count * share)].tolist()


def _picture(images: ImageFolder, index: int, low: bool) -> torch.Tensor:
    image = images.image(index)
    if not low:
        return image
    resize = functools.partial(functional.interpolate, mode="bicubic", antialias=True, align_corners=False)
    half = resize(image[None], size=(image.shape[1] // 2, image.shape[2] // 2))
    return resize(half, size=tuple(image.shape[1:]))[0].clamp(-1, 1)
