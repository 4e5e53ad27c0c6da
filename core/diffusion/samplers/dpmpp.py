"""DPM-Solver++ of second order, multistep: the ODE and the SDE form (Lu et al. 2022).

Both integrate the linear part of the equation exactly and approximate only `denoised`, in the variable lambda = -log sigma. They need
grids without a very long last step in lambda: karras suits them better than uniform timesteps.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from ...errors import InputError
from ..noise import convention_of
from .common import BoundModel, Callback, Model, NoiseSampler, below_noise_alone, brownian_noise, check_sigmas, model_sampling_of


@torch.no_grad()
def sample_dpmpp_2m(
    model: Model,
    x: Tensor,
    sigmas: Tensor,
    extra_args: dict[str, Any] | None = None,
    callback: Callback | None = None,
    disable: bool | None = None,
) -> Tensor:
    """Sample by DPM-Solver++(2M), Lu et al. 2022, algorithm 2. One evaluation for each step.

    `denoised` is extrapolated linearly from the last two steps. The first step, and a last one to sigma 0, are of first order.
    """
    check_sigmas(sigmas)
    denoise = BoundModel(model, extra_args)
    previous, h_last = None, sigmas.new_zeros(())
    for i in range(len(sigmas) - 1):
        sigma, sigma_next, denoised = denoise.step(x, sigmas, i, callback)
        if sigma_next == 0:
            return denoised
        h = (sigma / sigma_next).log()
        target = denoised
        if previous is not None and h_last > 0:
            target = denoised + (h / (2 * h_last)) * (denoised - previous)
        x = (sigma_next / sigma) * x - torch.expm1(-h) * target
        previous, h_last = denoised, h
    return x


@torch.no_grad()
def sample_dpmpp_2m_sde(
    model: Model,
    x: Tensor,
    sigmas: Tensor,
    extra_args: dict[str, Any] | None = None,
    callback: Callback | None = None,
    disable: bool | None = None,
    eta: float = 1.0,
    s_noise: float = 1.0,
    noise_sampler: NoiseSampler | None = None,
    solver_type: str = "midpoint",
) -> Tensor:
    """Sample by SDE-DPM-Solver++(2M), Lu et al. 2022. One evaluation for each step. The options and their order are k-diffusion's.

    `eta` >= 0 scales the stochastic part (0: an ODE), `s_noise` its amplitude, `solver_type` is `midpoint` or `heun`. The noise comes
    from `noise_sampler(sigma, sigma_next)`, by default :func:`~.common.brownian_noise` seeded with `extra_args["seed"]`. Raises
    :class:`InputError` for another `solver_type` or an `eta` below 0. A flow model is sampled in the common form of :mod:`..noise`.
    """
    check_sigmas(sigmas)
    if solver_type not in ("midpoint", "heun"):
        raise InputError(f"unknown solver_type {solver_type!r}: it is midpoint or heun")
    if not (math.isfinite(eta) and eta >= 0):
        raise InputError(f"eta, the share of the stochastic part, must be 0 or more; {eta} was given")
    if len(sigmas) < 2:
        return x
    denoise, convention = BoundModel(model, extra_args), convention_of(model_sampling_of(model))
    noise_sampler = noise_sampler or brownian_noise(x, sigmas, denoise.extra_args.get("seed"))
    sigmas = below_noise_alone(model, sigmas)
    previous, h_last = None, sigmas.new_zeros(())
    for i in range(len(sigmas) - 1):
        sigma, sigma_next, denoised = denoise.step(x, sigmas, i, callback)
        if sigma_next == 0:
            return denoised
        h = (convention.level(sigma) / convention.level(sigma_next)).log()
        if h > 0:
            full = h * (1 + eta)
            gain = -torch.expm1(-full) * convention.alpha(sigma_next)
            x = (sigma_next / sigma) * (-h * eta).exp() * x + gain * denoised
            if previous is not None and h_last > 0:
                weight = gain / 2 if solver_type == "midpoint" else convention.alpha(sigma_next) - gain / full
                x = x + weight * (h / h_last) * (denoised - previous)
            if eta > 0 and s_noise > 0:
                fresh = noise_sampler(sigma, sigma_next) * sigma_next * (-torch.expm1(-2 * h * eta)).sqrt() * s_noise
                x = x + fresh * convention.noise_scale
        previous, h_last = denoised, h
    return x
