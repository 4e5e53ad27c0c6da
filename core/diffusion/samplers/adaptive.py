"""An SDE solver that chooses its own steps ("Gotta go fast", Jolicoeur-Martineau et al. 2021, arXiv:2105.14080)."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from ...checks import real_number, whole_number
from .common import (
    BoundModel,
    Callback,
    Model,
    NoiseSampler,
    brownian_noise,
    check_sigmas,
    keep_stats,
    model_sampling_of,
    report,
    slope,
    warn_if_flow,
    warn_once,
)

MAX_NFE = 100_000
MIN_STEP = 1e-5  # of the whole way: smaller ones drown in float32


@torch.no_grad()
def sample_adaptive_sde(
    model: Model,
    x: Tensor,
    sigmas: Tensor,
    extra_args: dict[str, Any] | None = None,
    callback: Callback | None = None,
    disable: bool | None = None,
    rtol: float = 0.05,
    atol: float = 0.0078,
    h_init: float = 0.05,
    safety: float = 0.9,
    exponent: float = 0.9,
    max_nfe: int = 1000,
    probability_flow: bool = False,
    noise_sampler: NoiseSampler | None = None,
    stats: dict[str, Any] | None = None,
) -> Tensor:
    """Stochastic improved Euler with an embedded Euler-Maruyama step as its error estimate (their algorithm 1).

    An attempt makes x' by Euler-Maruyama, then x'' by the mean of the drifts at both ends, with the same noise. It is accepted where
    the RMS of (x'' - x') / max(atol, rtol max(|x'|, |last x'|)), largest over the batch, is at most 1; the next step is
    `safety` * step / error^`exponent`, accepted or not. At the end the final estimate of x0 is taken. Accepted steps cost two
    evaluations, rejected ones one, because the drift where they start is known.

    `sigmas` supplies only its ends: the walk goes from the first to the last, or, where that is 0, to the schedule's sigma_min (else the
    last positive level). Time is log sigma, in which the paper's variance-exploding SDE is uniform; `h_init` is the first step as a share
    of the whole way. Errors are measured on x / sqrt(1 + sigma^2), which has unit variance, as tolerances expect. `rtol`: the paper
    uses 0.01 to 0.1; `atol`: one grey level of data in [-1, 1]. After `max_nfe` evaluations the rest is one jump, with a warning.
    `probability_flow`: no noise, half the drift (the ODE).

    The noise belongs to a Brownian path over sigma^2 (see :func:`~.common.brownian_noise`, seeded with `extra_args["seed"]`), so that a
    rejected step and its shorter successor meet the same noise, and tighter tolerances refine the same picture; the paper draws afresh.
    The steps are common to the batch, as hosts want; the paper's are each sample's own.

    The callback runs once an accepted step; `i` is the share of the way done, in steps of `sigmas`. `stats` receives `accepted`,
    `rejected` and `evaluations`. Raises :class:`InputError` for numbers outside their ranges.
    """
    check_sigmas(sigmas)
    rtol, atol = real_number("rtol", rtol, 0, 10), real_number("atol", atol, 0, 10, above=True)
    h_init, safety = real_number("h_init", h_init, 0, 1, above=True), real_number("safety", safety, 0, 1, above=True)
    exponent, max_nfe = real_number("exponent", exponent, 0, 1, above=True), whole_number("max_nfe", max_nfe, 3, MAX_NFE)
    steps = len(sigmas) - 1
    if steps < 1:
        return x
    warn_if_flow(model, "the adaptive SDE sampler")
    denoise = BoundModel(model, extra_args)
    low = _lowest(model, sigmas)
    way = math.log(float(sigmas[0]) / float(low)) or 1.0
    share = 1.0 if probability_flow else 2.0
    noise_sampler = noise_sampler or brownian_noise(x, torch.stack([sigmas[0], low]) ** 2, denoise.extra_args.get("seed"))

    sigma, h, last = sigmas[0], h_init, _unit(x, sigmas[0]).abs()
    denoised, accepted, rejected, evaluations = denoise(x, sigma), 0, 0, 1
    report(callback, 0, x, sigma, denoised)
    while sigma > low and evaluations + 2 <= max_nfe:
        ahead = sigma * math.exp(-h * way)
        sigma_next = ahead if low * 1.0001 < ahead < sigma else low  # a way too short to divide is one step
        step, noise = share * (sigma_next - sigma), x.new_zeros(())
        if not probability_flow:
            noise = noise_sampler(sigma**2, sigma_next**2) * (sigma**2 - sigma_next**2).sqrt()
        drift = slope(x, sigma, denoised) * step
        euler = x + drift + noise
        there = denoise(euler, sigma_next)
        improved = x + (drift + slope(euler, sigma_next, there) * step) / 2 + noise
        evaluations += 1
        seen = _unit(euler, sigma_next).abs()
        scale = (rtol * torch.maximum(seen, last)).clamp(min=atol)
        error = float((_unit(improved - euler, sigma_next) / scale).flatten(1).pow(2).mean(1).sqrt().max())
        if error <= 1 or not math.isfinite(error):  # a network that returns NaN is not mended by smaller steps
            x, sigma, last, accepted = improved, sigma_next, seen, accepted + 1
            denoised = denoise(x, sigma)
            evaluations += 1
            done = 1 - math.log(max(float(sigma / low), 1.0)) / way
            report(callback, min(int(done * steps), steps - 1), x, sigma, denoised)
        else:
            rejected += 1
        h = min(1.0, max(MIN_STEP, safety * h * max(error, 1e-6) ** -exponent)) if math.isfinite(error) else h_init
    if sigma > low:
        warn_once(
            f"the adaptive SDE sampler had used its {max_nfe} evaluations when the noise level was still {float(sigma):.3g}: the picture "
            "will look blurred. Raise max_nfe or rtol."
        )
        report(callback, steps - 1, x, sigma, denoised)
    name = "adaptive SDE" + " (probability flow)" * probability_flow
    keep_stats(stats, sampler=name, accepted=accepted, rejected=rejected, evaluations=evaluations)
    return denoised if sigmas[-1] == 0 or sigma > low else x


def _lowest(model: Model, sigmas: Tensor) -> Tensor:
    """Where the walk ends: the last level or, in place of 0, the lowest one that the network was trained on."""
    if sigmas[-1] > 0:
        return sigmas[-1]
    known = getattr(model_sampling_of(model), "sigma_min", None)
    return sigmas[-2] if known is None or not known > 0 else torch.minimum(sigmas[-2], torch.as_tensor(known).to(sigmas))


def _unit(x: Tensor, sigma: Tensor) -> Tensor:
    return x / (1 + sigma**2).sqrt()
