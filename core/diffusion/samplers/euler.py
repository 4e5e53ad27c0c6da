"""First and second order samplers of the probability-flow ODE, and their ancestral forms (Karras et al. 2022; DDIM)."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from ...errors import InputError
from ..noise import Convention, convention_of
from .common import BoundModel, Callback, Model, NoiseSampler, check_sigmas, gaussian_noise, model_sampling_of, slope


@torch.no_grad()
def sample_euler(
    model: Model,
    x: Tensor,
    sigmas: Tensor,
    extra_args: dict[str, Any] | None = None,
    callback: Callback | None = None,
    disable: bool | None = None,
) -> Tensor:
    """Sample by Euler's method on dx/dsigma = (x - denoised) / sigma. One evaluation for each step.

    Karras et al. 2022, algorithm 1 without its correction; the same as DDIM with eta 0 (Song et al. 2021, eq. 13).
    """
    check_sigmas(sigmas)
    denoise = BoundModel(model, extra_args)
    for i in range(len(sigmas) - 1):
        sigma, sigma_next, denoised = denoise.step(x, sigmas, i, callback)
        x = x + slope(x, sigma, denoised) * (sigma_next - sigma)
    return x


@torch.no_grad()
def sample_heun(
    model: Model,
    x: Tensor,
    sigmas: Tensor,
    extra_args: dict[str, Any] | None = None,
    callback: Callback | None = None,
    disable: bool | None = None,
) -> Tensor:
    """Sample by Heun's method: an Euler step, then the mean of the slopes at both ends. Two evaluations for each step, one in a last step
    to 0.

    Karras et al. 2022, algorithm 1.
    """
    check_sigmas(sigmas)
    denoise = BoundModel(model, extra_args)
    for i in range(len(sigmas) - 1):
        sigma, sigma_next, denoised = denoise.step(x, sigmas, i, callback)
        d = slope(x, sigma, denoised)
        if sigma_next > 0:  # the slope at sigma 0 is undefined
            x_next = x + d * (sigma_next - sigma)
            d = (d + slope(x_next, sigma_next, denoise(x_next, sigma_next))) / 2
        x = x + d * (sigma_next - sigma)
    return x


@torch.no_grad()
def sample_euler_ancestral(
    model: Model,
    x: Tensor,
    sigmas: Tensor,
    extra_args: dict[str, Any] | None = None,
    callback: Callback | None = None,
    disable: bool | None = None,
    eta: float = 1.0,
    s_noise: float = 1.0,
    noise_sampler: NoiseSampler | None = None,
) -> Tensor:
    """Sample by Euler's method to a level below the next one, then fresh noise up to it. One evaluation for each step. k-diffusion's
    options.

    `eta` >= 0 scales the fresh noise (1: the posterior of DDPM, 0: plain Euler), `s_noise` its amplitude. The noise comes from
    `noise_sampler(sigma, sigma_next)`, by default :func:`~.common.gaussian_noise` seeded with `extra_args["seed"]`. Raises
    :class:`InputError` for an `eta` below 0.
    """
    check_sigmas(sigmas)
    if not (math.isfinite(eta) and eta >= 0):
        raise InputError(f"eta, the share of fresh noise, must be 0 or more (1 is DDPM); {eta} was given")
    denoise = BoundModel(model, extra_args)
    noise_sampler, convention = noise_sampler or gaussian_noise(x, denoise.extra_args.get("seed")), convention_of(model_sampling_of(model))
    for i in range(len(sigmas) - 1):
        sigma, sigma_next, denoised = denoise.step(x, sigmas, i, callback)
        down, keep, up = ancestral_step(convention, sigma, sigma_next, eta)
        x = denoised if down == 0 else x + slope(x, sigma, denoised) * (down - sigma)
        if up > 0:
            x = x * keep + noise_sampler(sigma, sigma_next) * s_noise * up
    return x


@torch.no_grad()
def sample_ddim(
    model: Model,
    x: Tensor,
    sigmas: Tensor,
    extra_args: dict[str, Any] | None = None,
    callback: Callback | None = None,
    disable: bool | None = None,
    eta: float = 0.0,
    noise_sampler: NoiseSampler | None = None,
) -> Tensor:
    """Sample by DDIM (Song et al. 2021, eq. 12) with eq. 16's `eta`: 0 (deterministic, the default) to 1 (DDPM). One evaluation for each
    step.

    In sigma space eq. 12 at eta 0 *is* Euler's method, and with eta its noise,
    eta sqrt((1 - abar') / (1 - abar)) sqrt(1 - abar / abar') over sqrt(abar'), is eta sigma' sqrt(sigma^2 - sigma'^2) / sigma: the
    ancestral step. So the other two functions do the work, bit for bit. Raises :class:`InputError` for an `eta` out of range.
    """
    if not 0 <= eta <= 1:
        raise InputError(f"DDIM's eta must lie between 0 (deterministic) and 1 (DDPM); {eta} was given")
    if eta == 0:
        return sample_euler(model, x, sigmas, extra_args, callback, disable)
    return sample_euler_ancestral(model, x, sigmas, extra_args, callback, disable, eta=eta, noise_sampler=noise_sampler)


def ancestral_step(convention: Convention, sigma: Tensor, sigma_next: Tensor, eta: float) -> tuple[Tensor, Tensor, Tensor]:
    """Return (the level `down` to step to, the factor `keep` of the state there, the fresh noise `up` to add), to arrive at `sigma_next`.

    For a VE model `down` and `up` are :func:`ancestral_levels`, and `keep` is 1. For a flow model `down` is
    sigma' (1 + eta (sigma' / sigma - 1)), as in ComfyUI's ancestral sampler, and `keep` is the clean latent's share at sigma' over that at
    `down`: in the common form (see :mod:`..noise`) the state is kept and its noise grows.
    """
    if not convention.flow or sigma_next == sigma or sigma_next == 0:
        down, up = ancestral_levels(sigma, sigma_next, eta)
        return down, torch.ones_like(up), up
    down = (sigma_next * (1 + (sigma_next / sigma - 1) * eta)).clamp(min=0)
    keep = (1 - sigma_next) / (1 - down)
    up = (sigma_next**2 - (down * keep) ** 2).clamp(min=0) ** 0.5
    return down, keep, convention.noise_scale * up


def ancestral_levels(sigma: Tensor, sigma_next: Tensor, eta: float) -> tuple[Tensor, Tensor]:
    """Return (the level `down` to step to, the fresh noise `up` to add), with down^2 + up^2 = sigma_next^2."""
    if eta == 0:
        return sigma_next, torch.zeros_like(sigma_next)
    up = torch.minimum(sigma_next, eta * (sigma_next**2 * (sigma**2 - sigma_next**2) / sigma**2) ** 0.5)
    return (sigma_next**2 - up**2) ** 0.5, up
