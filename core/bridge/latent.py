"""The latent-space bridge of Coop-Diffusion (Lu et al. 2023, PanGu-Draw, section 4.2 and Alg. 1, sub-module 1).

Two models of different latent spaces draw one picture. At one noise level, each from its own state, model A says D_A and model B says D_B.
In A's space they are fused with strength d, and what came out is carried back to B's:

    fused   = d * E_A(Dec_B(D_B)) + (1 - d) * D_A            (lines 2 to 5; in `denoised` form, which is the same affine mix)
    fused_B = E_B(Dec_A(fused))                              (line 7, which the paper leaves to the reader)

E are the encoders' posterior means, Dec the decoders. The paper does not say how sizes that differ are matched: here the picture between
the two VAEs is resampled (bicubic). Noise levels are matched by sigma; a level outside B's schedule is its nearest timestep.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..checks import whole_number
from ..errors import InputError
from .resolution import resample


@dataclass(frozen=True)
class Side:
    """One of the two models: MODEL, VAE, CONDITIONING for and against, guidance scale."""

    model: Any
    vae: Any
    positive: Any
    negative: Any
    cfg: float

    def to_image(self, denoised: Tensor) -> Tensor:
        """IMAGE of a prediction in the model's scale."""
        from ..host import current

        return current().vae.decode(self.vae, self.model.model.process_latent_out(denoised.float()))

    def to_latent(self, image: Tensor, shape: torch.Size) -> Tensor:
        """(B, C, h, w) of `shape` in the model's scale from an IMAGE of any size. Raises :class:`InputError` if the VAE makes another."""
        from ..host import current

        cell = self.vae.spacial_compression_encode()
        latent = current().vae.encode(self.vae, resample(image, (shape[3] * cell, shape[2] * cell)))
        if latent.shape != shape:
            raise InputError(
                f"the VAE made a latent of {tuple(latent.shape)} where its model draws {tuple(shape)}; link each model's own VAE"
            )
        return self.model.model.process_latent_in(latent)


@dataclass(frozen=True)
class Fusion:
    """How strongly and when: `strength` d from 0 (A alone, no VAE is called) to 1 (A's model is not asked), between the percents `start`
    and `end` of A's schedule, every `every`-th step. Outside, each model goes its own way from its own state."""

    strength: float = 0.5
    start: float = 0.0
    end: float = 0.8
    every: int = 1

    def check(self) -> None:
        """Raise :class:`InputError` for numbers out of range."""
        for name, value in (("strength", self.strength), ("start_percent", self.start), ("end_percent", self.end)):
            if not math.isfinite(value) or not 0 <= value <= 1:
                raise InputError(f"{name} is {value}; it must lie between 0 and 1")
        whole_number("bridge_every", self.every, 1, 10000)

    def active(self, schedule: Any, sigma: float, sigmas: Tensor) -> bool:
        """Whether to fuse at `sigma`, which lies within or on the walk `sigmas`.

        It depends on the noise level alone, so that a sampler which asks twice in a step gets answers that belong together.
        """
        if self.strength == 0 or not schedule.percent_to_sigma(self.end) <= sigma <= schedule.percent_to_sigma(self.start):
            return False
        step = int((sigmas >= sigma * (1 - 1e-5)).sum()) - 1
        return max(step, 0) % int(self.every) == 0


def fuse(a: Side, b: Side, denoised_a: Tensor | None, denoised_b: Tensor, shape_a: torch.Size, strength: float) -> tuple[Tensor, Tensor]:
    """(fused prediction in A's space, the same in B's), both in their model's scale. `denoised_a` may be None at strength 1."""
    carried = a.to_latent(b.to_image(denoised_b), shape_a).to(denoised_b)
    fused = carried if denoised_a is None else torch.lerp(denoised_a, carried.to(denoised_a), strength)
    return fused, b.to_latent(a.to_image(fused), denoised_b.shape).to(denoised_b)


def latent_for_b(a: Side, b: Side, latent_a: Mapping[str, Any]) -> dict[str, Any]:
    """The LATENT that B starts from where none is given: empty where A's is, else A's picture in B's space; of the same size in pixels."""
    from ..host import current

    samples = latent_a["samples"]
    cell_a, cell_b = a.vae.spacial_compression_encode(), b.vae.spacial_compression_encode()
    height, width = (max(1, round(side * cell_a / cell_b)) for side in samples.shape[2:])
    kept = {key: value for key, value in latent_a.items() if key in ("noise_mask", "batch_index")}
    if not samples.any():
        return {**kept, "samples": torch.zeros(samples.shape[0], b.vae.latent_channels, height, width)}
    image = resample(current().vae.decode(a.vae, samples), (width * cell_b, height * cell_b))
    return {**kept, "samples": current().vae.encode(b.vae, image)}


def check_sides(a: Side, b: Side) -> None:
    """Raise :class:`InputError` where the two states cannot share a walk: a flow model beside a diffusion model."""
    probe, scaled = torch.ones(1, 1, 1, 1), []
    for side in (a, b):
        scaled.append(float(side.model.get_model_object("model_sampling").noise_scaling(torch.tensor([0.5]), probe, probe)))
    if abs(scaled[0] - scaled[1]) > 1e-3:
        raise InputError("one model mixes its noise as flow models do, the other as diffusion models do; bridge two of a kind")
