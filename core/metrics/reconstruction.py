"""What an autoencoder keeps of pictures: PSNR of each round trip, and the share of their gradient energy that is left."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..bundles.load import load_bundle
from ..errors import InputError
from ..networks import network_of
from .orchard import Floats
from .psnr import psnr

BATCH = 16


class RoundTrips:
    """The autoencoder of the VAE bundle at `path`, computing on `device`. Raises :class:`BundleError` where there is none."""

    def __init__(self, path: Path, device: str | torch.device = "cpu") -> None:
        from diffusers import AutoencoderKL

        bundle = load_bundle(path, "vae")
        self.info, self.device = bundle.info, device
        self.network: Any = network_of(AutoencoderKL, bundle).to(device, memory_format=torch.channels_last)

    @property
    def factor(self) -> int:
        """Return how many pixels a latent's side stands for."""
        return int(2 ** (len(self.info.config["block_out_channels"]) - 1))

    @torch.no_grad()
    def of(self, pictures: Tensor) -> Tensor:
        """Return `pictures` (N, 3, H, W) in [-1, 1], encoded to the means of their posteriors and decoded again, on the CPU."""
        parts = []
        for part in pictures.split(BATCH):
            latents = self.network.encode(part.to(self.device, memory_format=torch.channels_last)).latent_dist.mode()
            parts.append(self.network.decode(latents).sample.float().clamp(-1, 1).cpu())
        return torch.cat(parts)


def psnr_by_picture(made: Tensor, real: Tensor) -> Floats:
    """Return the PSNR (N,) in dB of pictures (N, 3, H, W) in [-1, 1], rounded to eight bits as files hold them."""
    if made.shape != real.shape:
        raise InputError(f"PSNR compares pictures of one shape, not {tuple(made.shape)} and {tuple(real.shape)}")
    return np.asarray([psnr(to_bytes(a), to_bytes(b)) for a, b in zip(made, real, strict=True)], dtype=np.float64)


def gradient_energy(pictures: Tensor) -> Floats:
    """Return each picture's mean squared difference (N,) of neighbouring pixels, over both directions. A blurred picture has less.

    The share that an autoencoder keeps is the ratio of the means of its pictures and the real ones.
    """
    parts = [pictures.diff(dim=axis).square().flatten(1).double().mean(1) for axis in (-1, -2)]
    return np.asarray(sum(parts))


def to_bytes(picture: Tensor) -> Any:
    """Return a picture (3, H, W) in [-1, 1] as the pixels (H, W, 3) uint8 of a file."""
    return ((picture + 1) * 127.5).round().clamp(0, 255).to(torch.uint8).permute(1, 2, 0).numpy()
