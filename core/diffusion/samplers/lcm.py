"""The sampler of consistency models: the estimate of the picture, then new noise at the next level (Song et al. 2023, algorithm 1)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..noise import convention_of
from .common import BoundModel, Callback, Model, NoiseSampler, check_sigmas, gaussian_noise, model_sampling_of


@torch.no_grad()
def sample_lcm(
    model: Model,
    x: Tensor,
    sigmas: Tensor,
    extra_args: dict[str, Any] | None = None,
    callback: Callback | None = None,
    disable: bool | None = None,
    noise_sampler: NoiseSampler | None = None,
) -> Tensor:
    """Sample by multistep consistency sampling, as latent consistency models do (Luo et al. 2023). One evaluation for each step.

    The noise comes from `noise_sampler(sigma, sigma_next)`, by default :func:`~.common.gaussian_noise` seeded with `extra_args["seed"]`.
    """
    check_sigmas(sigmas)
    denoise, convention = BoundModel(model, extra_args), convention_of(model_sampling_of(model))
    noise_sampler = noise_sampler or gaussian_noise(x, denoise.extra_args.get("seed"))
    for i in range(len(sigmas) - 1):
        sigma, sigma_next, x = denoise.step(x, sigmas, i, callback)
        if sigma_next > 0:
            x = convention.alpha(sigma_next) * x + convention.beta(sigma_next) * noise_sampler(sigma, sigma_next)
    return x
