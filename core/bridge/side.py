"""One of the two models of a bridge, with its VAE and its prompts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Size, Tensor

from ..errors import InputError
from ..host import current
from ..progress import Progress
from .resample import resample


@dataclass(frozen=True)
class Side:
    """MODEL, VAE, positive and negative CONDITIONING, and guidance scale of one model."""

    model: Any
    vae: Any
    positive: Any
    negative: Any
    cfg: float

    def to_image(self, denoised: Tensor) -> Tensor:
        """Return the IMAGE of a prediction (B, C, h, w) in the model's scale."""
        return current().vae.decode(self.vae, self.model.model.process_latent_out(denoised.float()))

    def to_latent(self, image: Tensor, shape: Size) -> Tensor:
        """Return an IMAGE of any size as a latent (B, C, h, w) of `shape`, in the model's scale.

        Raises :class:`InputError` where the VAE makes a latent of another shape.
        """
        cell = self.vae.spacial_compression_encode()
        latent = current().vae.encode(self.vae, resample(image, (shape[3] * cell, shape[2] * cell)))
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
