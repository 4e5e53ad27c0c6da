"""Noise and latents of the embedded host: CPU noise by seed, empty latents that take on the model's shape, masks."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from ...errors import InputError
from .model import Model

MAX_SEED = 2**64 - 1


def prepare_noise(latent: Tensor, seed: int, batch_index: Sequence[int] | None = None) -> Tensor:
    """Return unit noise of `latent`'s shape (B, C, h, w), drawn on the CPU from a generator of its own.

    With `batch_index` (B,), item i gets the noise that a whole batch would have had at that index: LatentFromBatch's contract.
    """
    if isinstance(seed, bool) or int(seed) != seed or not 0 <= seed <= MAX_SEED:
        raise InputError(f"seed must be a whole number from 0 to 2**64 - 1, {seed!r} was given")
    generator = torch.Generator("cpu").manual_seed(int(seed))
    if batch_index is None:
        return torch.randn(latent.shape, generator=generator, dtype=torch.float32).to(latent.dtype)
    wanted = [int(index) for index in batch_index]
    if len(wanted) != latent.shape[0] or min(wanted) < 0 or max(wanted) > 65535:
        raise InputError(f"batch_index {wanted[:8]} does not fit a latent batch of {latent.shape[0]}")
    drawn = [torch.randn(1, *latent.shape[1:], generator=generator, dtype=torch.float32) for _ in range(max(wanted) + 1)]
    return torch.cat([drawn[index] for index in wanted]).to(latent.dtype)


class RandomNoise:
    """The NOISE socket: seeded noise for a LATENT."""

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def generate_noise(self, latent: Mapping[str, Any]) -> Tensor:
        """Return noise for `latent["samples"]`, honouring `batch_index`."""
        return prepare_noise(latent["samples"], self.seed, latent.get("batch_index"))


class EmptyNoise:
    """The NOISE socket that adds nothing, for the second half of a split schedule. `seed` is for samplers that draw noise themselves."""

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed

    def generate_noise(self, latent: Mapping[str, Any]) -> Tensor:
        """Return zeros of the latent's shape."""
        return torch.zeros_like(latent["samples"], device="cpu")


def fit_latent(model: Model, latent: Mapping[str, Any]) -> dict[str, Any]:
    """See :meth:`SamplingTopic.fit_latent`. An all-zero latent takes on the cell size too; any other must already fit."""
    out = dict(latent)
    samples: Tensor = out["samples"]
    space = model.get_model_object("latent_format")
    factor = out.pop("downscale_ratio_spacial", None)
    if samples.ndim == 4 and not samples.any():
        ratio = factor / space.factor if factor else 1.0
        height, width = round(samples.shape[2] * ratio), round(samples.shape[3] * ratio)
        samples = samples.new_zeros(samples.shape[0], space.channels, height, width)
    if samples.ndim != 4 or samples.shape[1] != space.channels:
        raise InputError(
            f"a latent of shape {tuple(samples.shape)} was given to a model of {space.channels} latent channels; "
            "encode the picture with this model's own VAE"
        )
    out["samples"] = samples
    return out


def prepare_mask(mask: Tensor, shape: torch.Size) -> Tensor:
    """Return a noise mask (H, W), (B, H, W) or (B, 1, H, W), 1 where the picture is redrawn, resized to `shape` (B, C, h, w)."""
    mask = mask.float().reshape(-1, 1, *mask.shape[-2:])
    mask = functional.interpolate(mask, size=shape[2:], mode="bilinear").expand(-1, shape[1], -1, -1)
    return repeat_to(mask, shape[0])


def repeat_to(tensor: Tensor, batch: int) -> Tensor:
    """Return the first `batch` items, repeated from the start where there are fewer."""
    if tensor.shape[0] < batch:
        tensor = tensor.repeat(math.ceil(batch / tensor.shape[0]), *[1] * (tensor.ndim - 1))
    return tensor[:batch]
