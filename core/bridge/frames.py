"""Pictures and videos between a VAE and its bridge: frames (B, F, H, W, 3), of which a picture has one.

Latents are (B, C, h, w), or (B, C, T, h, w) for video models and for image models built on a video VAE (Qwen-Image, Anima: T = 1).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ..errors import InputError
from ..host import current


def decode_frames(vae: Any, latent: Tensor, tile: int = 0) -> Tensor:
    """Return the frames (B, F, H, W, 3) of unscaled latents."""
    image = current().vae.decode(vae, latent, tile)
    return image if image.ndim == 5 else image.unsqueeze(1)


def encode_frames(vae: Any, frames: Tensor, tile: int = 0) -> Tensor:
    """Return the unscaled latents of frames (B, F, H, W, 3), with a time axis where the VAE makes one.

    A video VAE takes one video at a time. Raises :class:`InputError` where a VAE of pictures gets more than one frame.
    """
    encode = current().vae.encode
    if _is_video(vae):
        return torch.cat([encode(vae, one, tile) for one in frames])
    if frames.shape[1] != 1:
        raise InputError(f"a video of {frames.shape[1]} frames was given to a VAE that encodes pictures; link a video model's VAE")
    return encode(vae, frames[:, 0], tile)


def as_image(frames: Tensor) -> Tensor:
    """Return frames (B, F, H, W, 3) as an IMAGE (B * F, H, W, 3)."""
    return frames.flatten(0, 1)


def pixel_frames(vae: Any, latent: Tensor) -> int:
    """Return how many frames a VAE makes of `latent`."""
    ratio = getattr(vae, "upscale_ratio", None)
    steps = latent.shape[2] if latent.ndim == 5 else 1
    return int(ratio[0](steps)) if isinstance(ratio, tuple) and callable(ratio[0]) else steps


def empty_latent(vae: Any, batch: int, frames: int, size: tuple[int, int]) -> Tensor:
    """Return an empty latent of `frames` frames of `size` (rows, columns of cells) in the space of a VAE."""
    if not _is_video(vae):
        return torch.zeros(batch, vae.latent_channels, *size)
    ratio = getattr(vae, "downscale_ratio", None)
    steps = int(ratio[0](frames)) if isinstance(ratio, tuple) and callable(ratio[0]) else frames
    return torch.zeros(batch, vae.latent_channels, max(1, steps), *size)


def with_axes_of(latent: Tensor, shape: torch.Size) -> Tensor:
    """Return `latent` with the axes of `shape`: a time axis of one step is added or taken away."""
    if latent.ndim == 4 and len(shape) == 5:
        return latent.unsqueeze(2)
    if latent.ndim == 5 and len(shape) == 4 and latent.shape[2] == 1:
        return latent.squeeze(2)
    return latent


def kept_for(latent: Mapping[str, Any], samples: Tensor) -> dict[str, Any]:
    """Return the mask and the batch indices of a LATENT, for `samples` of another model.

    A mask of a picture (B, 1, H, W) keeps its batch in a latent with a time axis, where ComfyUI would take it for frames.
    """
    kept = {key: latent[key] for key in ("noise_mask", "batch_index") if latent.get(key) is not None}
    mask = kept.get("noise_mask")
    if mask is not None and latent["samples"].ndim == 4 and samples.ndim == 5:
        kept["noise_mask"] = mask.reshape(-1, 1, 1, *mask.shape[-2:])
    elif mask is not None and mask.ndim == 5 and samples.ndim == 4:
        kept["noise_mask"] = mask.flatten(0, -3).unsqueeze(1)
    return kept


def check_plain(samples: Tensor) -> None:
    """Raise :class:`InputError` for a latent that holds several (video with sound), or has other axes than a picture or a video."""
    if getattr(samples, "is_nested", False) or samples.ndim not in (4, 5):
        held = "several latents in one" if getattr(samples, "is_nested", False) else f"shape {tuple(samples.shape)}"
        raise InputError(f"a latent with {held} was given; a bridge carries pictures (B, C, h, w) and videos (B, C, T, h, w)")


def _is_video(vae: Any) -> bool:
    return getattr(vae, "latent_dim", 2) == 3
