"""An SDE solver that chooses its own steps ("Gotta Go Fast", Jolicoeur-Martineau et al. 2021, arXiv:2105.14080)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ...checks import real_number, whole_number
from .common import (
    Callback,
    CommonForm,
    Model,
    NoiseSampler,
    below_noise_alone,
    brownian_noise,
    check_sigmas,
    keep_stats,
    model_sampling_of,
    slope,
    warn_once,
)

MAX_NFE = 100_000
MAX_CHANGE = 4.0  # of a flow model's step: at its first levels nothing changes, and the next step would be the whole way
MIN_STEP = 1e-5  # as a share of the whole way: smaller steps are lost in float32's rounding


@dataclass(frozen=True)
class StepControl:
    """Options of :func:`sample_adaptive_sde`. Raises :class:`InputError` for numbers outside their ranges.

    - `rtol` (0 to 10): relative tolerance; the paper uses 0.01 to 0.1. `atol` (above 0, up to 10): absolute tolerance; the default is one
      grey level of data in [-1, 1]. Both apply to x / sqrt(1 + sigma^2), which has unit variance.
    - `h_init` (above 0, up to 1): the first step, as a share of the whole way in log sigma.
    - `safety` and `exponent` (above 0, up to 1): the next step is `safety` * step / error^`exponent`.
    - `max_nfe` (3 to 100000): after so many evaluations the rest is one jump, with a warning.
    - `probability_flow`: no noise and half the drift (the ODE).
    - `noise_sampler(sigma^2, next sigma^2)`: unit noise, by common levels; :func:`~.common.brownian_noise` by default.
    - `stats` receives `accepted`, `rejected` and `evaluations`.
    """

    rtol: float = 0.05
    atol: float = 0.0078
    h_init: float = 0.05
    safety: float = 0.9
    exponent: float = 0.9
    max_nfe: int = 1000
    probability_flow: bool = False
    noise_sampler: NoiseSampler | None = None
    stats: dict[str, Any] | None = None

    def __post_init__(self) -> None:
        real_number("rtol", self.rtol, 0, 10)
        real_number("atol", self.atol, 0, 10, above=True)
        for name in ("h_init", "safety", "exponent"):
            real_number(name, getattr(self, name), 0, 1, above=True)
        whole_number("max_nfe", self.max_nfe, 3, MAX_NFE)

    def next_step(self, h: float, error: float, change: float = math.inf) -> float:
        """Return the next step after one of `h` whose error was `error`, both steps as shares of the whole way.

        It is at most `change` times longer or shorter."""
        if not math.isfinite(error):
            return self.h_init
        factor = min(change, max(1 / change, self.safety * max(error, 1e-6) ** -self.exponent))
        return min(1.0, max(MIN_STEP, h * factor))


@torch.no_grad()
def sample_adaptive_sde(
    model: Model,
    x: Tensor,
    sigmas: Tensor,
    extra_args: dict[str, Any] | None = None,
    callback: Callback | None = None,
    disable: bool | None = None,
    **options: Any,
) -> Tensor:
    """Sample by stochastic improved Euler with an embedded Euler-Maruyama step as its error estimate (their algorithm 1).

    `options` are the fields of :class:`StepControl`. An attempt makes x' by Euler-Maruyama, then x'' by the mean of the drifts at both
    ends, with the same noise. It is accepted where the RMS of (x'' - x') / max(atol, rtol max(|x'|, |last x'|)), largest over the batch, is
    at most 1. The next step follows from the error, whether accepted or not. At the end the final estimate of x0 is returned. An accepted
    step costs two evaluations, a rejected one costs one, because the drift at its start is known.

    Of `sigmas` only the ends count: the sampling run goes from the first level to the last or, where that is 0, to the schedule's sigma_min
    (without a schedule to the last positive level). Time is log sigma, in which the paper's variance-exploding SDE is uniform. A flow
    model is sampled in the common form of :mod:`..noise`, where its noise is that SDE's; `sigma` means the common level there.

    The noise belongs to a Brownian path over sigma^2 (see :func:`~.common.brownian_noise`, seeded with `extra_args["seed"]`), so that a
    rejected step and its shorter successor meet the same noise, and smaller tolerances refine the same picture. The paper draws new noise.
    Steps are common to the batch, as hosts want; in the paper each sample has its own.

    The callback runs once for each accepted step; `i` is the finished share of the way, in steps of `sigmas`. Raises :class:`InputError`
    for options out of range.
    """
    check_sigmas(sigmas)
    control = StepControl(**options)
    steps = len(sigmas) - 1
    if steps < 1:
        return x
    denoise = CommonForm(model, extra_args)
    convention, sigmas = denoise.convention, below_noise_alone(model, sigmas)
    low, sigma = convention.level(_lowest(model, sigmas)), convention.level(sigmas[0])
    x = convention.to_common(x, sigmas[0])
    way = math.log(float(sigma) / float(low)) or 1.0
    share = 1.0 if control.probability_flow else 2.0
    noise_sampler = control.noise_sampler or _path(x, sigma, low, denoise)

    h, last = control.h_init, _unit(x, sigma).abs()
    denoised, accepted, rejected, evaluations = denoise(x, sigma), 0, 0, 1
    denoise.report(callback, 0, x, sigma, denoised)
    while sigma > low and evaluations + 2 <= control.max_nfe:
        ahead = sigma * math.exp(-h * way)
        sigma_next = ahead if low * 1.0001 < ahead < sigma else low  # a way too short to divide is one step
        step, noise = share * (sigma_next - sigma), x.new_zeros(())
        if not control.probability_flow:
            noise = noise_sampler(sigma**2, sigma_next**2) * (sigma**2 - sigma_next**2).sqrt()
        drift = slope(x, sigma, denoised) * step
        euler = x + drift + noise
        there = denoise(euler, sigma_next)
        improved = x + (drift + slope(euler, sigma_next, there) * step) / 2 + noise
        evaluations += 1
        seen = _unit(euler, sigma_next).abs()
        scale = (control.rtol * torch.maximum(seen, last)).clamp(min=control.atol)
        error = float((_unit(improved - euler, sigma_next) / scale).flatten(1).pow(2).mean(1).sqrt().max())
        if error <= 1 or not math.isfinite(error):  # smaller steps do not help a network that returns NaN
            x, sigma, last, accepted = improved, sigma_next, seen, accepted + 1
            denoised = denoise(x, sigma)
            evaluations += 1
            done = 1 - math.log(max(float(sigma / low), 1.0)) / way
            denoise.report(callback, min(int(done * steps), steps - 1), x, sigma, denoised)
        else:
            rejected += 1
        h = control.next_step(h, error, MAX_CHANGE if convention.flow else math.inf)
    if sigma > low:
        warn_once(
            f"the adaptive SDE sampler had used its {control.max_nfe} evaluations when the noise level was still {float(sigma):.3g}: the "
            "picture will look blurred. Raise max_nfe or rtol."
        )
        denoise.report(callback, steps - 1, x, sigma, denoised)
    name = "adaptive SDE" + " (probability flow)" * control.probability_flow
    keep_stats(control.stats, sampler=name, accepted=accepted, rejected=rejected, evaluations=evaluations)
    return denoised if sigmas[-1] == 0 or sigma > low else convention.from_common(x, sigmas[-1])


def _path(x: Tensor, top: Tensor, low: Tensor, denoise: CommonForm) -> NoiseSampler:
    """Return the default noise: increments of a Brownian path between two levels, asked for by the squares of levels.

    A flow model's levels span too many powers of ten for a path over their squares, so that path runs over the levels' logarithm.
    """
    seed = denoise.extra_args.get("seed")
    if not denoise.convention.flow:
        return brownian_noise(x, torch.stack([top, low]) ** 2, seed)

    def time(square: Tensor) -> Tensor:
        return (square.sqrt() / low).log() + 1

    path = brownian_noise(x, torch.stack([time(top**2), time(low**2)]), seed)
    return lambda square, square_next: path(time(square), time(square_next))


def _lowest(model: Model, sigmas: Tensor) -> Tensor:
    """Return the level where the run ends: the last one or, in place of 0, the lowest one that the network was trained on."""
    if sigmas[-1] > 0:
        return sigmas[-1]
    known = getattr(model_sampling_of(model), "sigma_min", None)
    return sigmas[-2] if known is None or not known > 0 else torch.minimum(sigmas[-2], torch.as_tensor(known).to(sigmas))


def _unit(x: Tensor, sigma: Tensor) -> Tensor:
    return x / (1 + sigma**2).sqrt()
