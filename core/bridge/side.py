"""One of the two models of a bridge, with its VAE and its prompts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Size, Tensor

from ..errors import InputError
from ..host import current
from ..progress import Progress
from .frames import decode_frames, encode_frames, with_axes_of
from .resample import resample_frames


@dataclass(frozen=True)
class Side:
    """MODEL, VAE, positive and negative CONDITIONING, and guidance scale of one model."""

    model: Any
    vae: Any
    positive: Any
    negative: Any
    cfg: float

    def to_frames(self, denoised: Tensor) -> Tensor:
        """Return the frames (B, F, H, W, 3) of a prediction (B, C, [T,] h, w) in the model's scale."""
        return decode_frames(self.vae, self.model.model.process_latent_out(denoised.float()))

    def to_latent(self, frames: Tensor, shape: Size) -> Tensor:
        """Return frames (B, F, H, W, 3) of any size as a latent of `shape`, (B, C, h, w) or (B, C, T, h, w), in the model's scale.

        Raises :class:`InputError` where the VAE makes a latent of another shape.
        """
        cell = self.vae.spacial_compression_encode()
        sized = resample_frames(frames, (shape[-1] * cell, shape[-2] * cell))
        latent = with_axes_of(encode_frames(self.vae, sized), shape)
        if latent.shape != shape and latent.shape[1] == shape[1] and latent.ndim == len(shape) == 5:
            raise InputError(
                f"one model draws {frames.shape[1]} frames, which make {latent.shape[2]} steps of the other's latent, and that one draws "
                f"{shape[2]}; give both models the same number of frames"
            )
        if latent.shape != shape:
            raise InputError(
                f"the VAE made a latent of {tuple(latent.shape)} where its model draws {tuple(shape)}; link each model's own VAE"
            )
        return self.model.model.process_latent_in(latent)

    def sample(self, sampler: Any, sigmas: Tensor, latent: Mapping[str, Any], seed: int | None, bar: Progress | None) -> dict[str, Any]:
        """Return the LATENT that this model draws along `sigmas`, from noise of `seed` (None: no noise is added), reported to `bar`."""
        sampling = current().sampling
        guider = sampling.make_guider(self.model, self.positive, self.negative, self.cfg)
        return sampling.sample_custom(guider, sampler, sigmas, latent, seed, bar)
