"""The embedded host's VAE: diffusers' AutoencoderKL behind the socket that ComfyUI's VAEDecode and VAEEncode expect."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from ...bundles.format import Bundle, BundleInfo, LatentSpace
from ...bundles.load import load_bundle
from ...errors import BundleError, InputError
from ...networks import network_of
from ...progress import raise_if_cancelled
from ...slim.decoder import KEY, widths_of
from .. import tiling
from . import process


class Vae:
    """Pixels to latents and back, by a diffusers AutoencoderKL. Latents are *unscaled*: the scale belongs to the model.

    `downscale_ratio` is pixels per latent cell, `latent_channels` the channels of a latent.
    """

    def __init__(self, network: Any, latent_format: LatentSpace, device: torch.device) -> None:
        self.first_stage_model, self.latent_format, self.device = network, latent_format, device
        self.latent_channels, self.downscale_ratio = latent_format.channels, latent_format.factor

    def spacial_compression_encode(self) -> int:
        """Return pixels per latent cell, under ComfyUI's name for it."""
        return self.downscale_ratio

    spacial_compression_decode = spacial_compression_encode

    @torch.no_grad()
    def decode(self, latent: torch.Tensor) -> torch.Tensor:
        """Return (B, C, h, w) unscaled latents to (B, H, W, 3) in [0, 1].

        One picture at a time: it needs less memory, and no picture depends on the others in its batch.
        """
        if latent.ndim != 4 or latent.shape[1] != self.latent_channels:
            raise InputError(
                f"a latent of shape {tuple(latent.shape)} was given to a VAE that decodes (batch, {self.latent_channels}, height, width); "
                "use the VAE that belongs to the model which made it"
            )
        images = []
        for one in latent.split(1):
            raise_if_cancelled()
            pixels = self.first_stage_model.decode(one.to(self.device, torch.float32)).sample
            images.append(((pixels + 1) / 2).clamp(0, 1).movedim(1, -1).cpu())
        return torch.cat(images)

    @torch.no_grad()
    def encode(self, pixels: torch.Tensor) -> torch.Tensor:
        """Return (B, H, W, >=3) in [0, 1] to the posterior's mode (B, C, h, w), unscaled. Odd sizes lose their rim, alpha is ignored."""
        if pixels.ndim != 4 or pixels.shape[-1] < 3:
            raise InputError(f"an image of shape {tuple(pixels.shape)} was given, expected (batch, height, width, 3)")
        pixels = self._crop(pixels[..., :3])
        latents = []
        for one in pixels.split(1):
            raise_if_cancelled()
            posterior = self.first_stage_model.encode(one.to(self.device, torch.float32).movedim(-1, 1) * 2 - 1).latent_dist
            latents.append(posterior.mode().cpu())
        return torch.cat(latents)

    def _crop(self, pixels: torch.Tensor) -> torch.Tensor:
        for dim in (1, 2):
            size = pixels.shape[dim]
            whole = size // self.downscale_ratio * self.downscale_ratio
            if whole == 0:
                raise InputError(
                    f"an image of {pixels.shape[2]} x {pixels.shape[1]} pixels is smaller than one latent cell ({self.downscale_ratio})"
                )
            pixels = pixels.narrow(dim, (size - whole) // 2, whole)
        return pixels


def load(path: Path) -> Vae:
    """See :meth:`VaeTopic.load`."""
    return load_vae(load_bundle(path, "vae"), process.device())


def decode(vae: Vae, latent: torch.Tensor, tile: int = 0) -> torch.Tensor:
    """See :meth:`VaeTopic.decode`."""
    return tiling.decode(vae, latent, tile)


def encode(vae: Vae, pixels: torch.Tensor, tile: int = 0) -> torch.Tensor:
    """See :meth:`VaeTopic.encode`."""
    return tiling.encode(vae, pixels, tile)


def export(vae: Vae) -> Bundle:
    """See :meth:`VaeTopic.export`."""
    network = vae.first_stage_model
    config = {key: value for key, value in dict(network.config).items() if not key.startswith("_")}
    widths = widths_of(network)
    extra = {KEY: widths} if widths != list(config["block_out_channels"]) else {}
    return Bundle(BundleInfo("vae", config, vae.latent_format, extra=extra), dict(network.state_dict()))


def load_vae(bundle: Bundle, device: torch.device) -> Vae:
    """Return a :class:`Vae` from a bundle of kind `vae`. Raises :class:`BundleError` where config, latent space and tensors disagree."""
    from diffusers import AutoencoderKL

    name, latent = _name(bundle), bundle.info.latent
    if latent is None:
        raise BundleError(f"{name} does not say which latent space it makes (metadata 'latent'); train it again with `rapiddraw train vae`")
    network = network_of(AutoencoderKL, bundle)
    channels, factor = network.config["latent_channels"], 2 ** (len(network.config["block_out_channels"]) - 1)
    if (channels, factor) != (latent.channels, latent.factor):
        raise BundleError(
            f"{name} claims latents of {latent.channels} channels at 1/{latent.factor} size, "
            f"but its network makes {channels} channels at 1/{factor}"
        )
    return Vae(network.to(device), latent, device)


def _name(bundle: Bundle) -> str:
    return bundle.info.path.name if bundle.info.path else "the VAE bundle"
