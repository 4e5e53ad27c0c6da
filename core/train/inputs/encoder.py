"""A VAE's encoder as recipes use it: pictures in, latents in model space out."""

from __future__ import annotations

import os
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...bundles.format import LatentSpace, read_info
from ...bundles.load import load_bundle
from ...errors import InputError, TrainingError
from ...networks import network_of


class LatentEncoder:
    """The encoder in the VAE bundle at `path`, computing on `device`. `space` is its latent space; the network is loaded at its first use.

    Raises :class:`BundleError` where there is no such bundle and :class:`TrainingError` where the bundle names no latent space.
    """

    def __init__(self, path: str | os.PathLike[str], device: torch.device) -> None:
        self.path, self.device = Path(path), device
        space = read_info(self.path, "vae").latent
        if space is None:
            raise TrainingError(f"{self.path.name} does not say what latent space it makes; train it with `rapiddraw train vae`")
        self.space: LatentSpace = space

    @cached_property
    def network(self) -> Any:
        from diffusers import AutoencoderKL

        return network_of(AutoencoderKL, load_bundle(self.path, "vae")).to(self.device, memory_format=torch.channels_last)

    def check_size(self, height: int, width: int) -> None:
        """Raise :class:`InputError` where pictures of `height` x `width` pixels do not divide into latents."""
        if height % self.space.factor or width % self.space.factor:
            raise InputError(
                f"pictures of {width} x {height} pixels: expected multiples of {self.space.factor}, the factor of {self.path.name}"
            )

    @torch.no_grad()
    def encode(self, pictures: Tensor) -> Tensor:
        """Return the means of the posteriors of pictures (B, 3, H, W) in [-1, 1]: (B, C, H/factor, W/factor) float16 on the CPU, scaled to
        unit variance. Raises :class:`TrainingError` where one is not finite."""
        pictures = pictures.to(self.device, memory_format=torch.channels_last)
        means = self.network.encode(pictures).latent_dist.mode()
        latents: Tensor = ((means - self.space.shift) * self.space.scale).half().cpu()
        if not bool(latents.isfinite().all()):
            raise TrainingError(f"{self.path.name} encodes pictures to latents that are NaN or infinite: train or choose another VAE")
        return latents

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """Return the pictures (B, 3, H, W) in [-1, 1] of latents (B, C, h, w) in model space, on the CPU."""
        scaled = latents.to(self.device).float() / self.space.scale + self.space.shift
        pictures: Tensor = self.network.decode(scaled.contiguous(memory_format=torch.channels_last)).sample
        return pictures.float().clamp(-1, 1).cpu()
