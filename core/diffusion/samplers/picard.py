"""Parallel sampling by Picard iteration (ParaDiGMS; Shih, Belkhale, Ermon, Sadigh and Anari, NeurIPS 2023, arXiv:2305.16317)."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ...checks import real_number, whole_number
from ...errors import InputError
from ..noise import convention_of
from .common import Callback, Model, NoiseSampler, check_sigmas, gaussian_noise, keep_stats, model_sampling_of, report
from .euler import ancestral_step
from .levels import LevelBatch, Shares, from_first_process

METHODS = ("ddim", "ddpm")
MAX_WINDOW = 10_000
Jump = tuple[Tensor, Tensor, Tensor]
"""What :func:`~.euler.ancestral_step` returns."""


@dataclass(frozen=True)
class PicardOptions:
    """Options of :func:`sample_picard`. Raises :class:`InputError` for values outside their ranges.

    - `window` (1 to 10000): states refined at a time. More of them save iterations and cost evaluations and memory.
    - `tolerance` (0 to 1e6): a state is finished when the mean square of its last change, largest over the batch, is at most tolerance^2
      times the variance that DDPM adds in that step (their section 3.2; the paper takes 0.1). The last step adds no noise and takes the
      smallest variance of the others.
    - `max_states` (0 to 10000): the most states in one call of the model, 0 for the whole window. Fewer save memory and change nothing
      else.
    - `method`: `ddim` (the ODE; equals :func:`~.euler.sample_euler`) or `ddpm` (equals :func:`~.euler.sample_euler_ancestral`; its noise
      is drawn beforehand from the same source).
    - `noise_sampler(sigma, next sigma)`: unit noise; :func:`~.common.gaussian_noise` by default.
    - `replicas`: more models that answer like `model`, for instance on other devices; see :class:`~.levels.LevelBatch`.
    - `stats` receives `iterations`, `evaluations` (of states) and `calls` (of the model, by all devices and processes).
    - `shares`: the devices on which a host keeps the model; see :data:`~.levels.Shares`.
    """

    window: int = 16
    tolerance: float = 0.1
    max_states: int = 0
    method: str = "ddim"
    noise_sampler: NoiseSampler | None = None
    replicas: Sequence[Model] = ()
    stats: dict[str, Any] | None = None
    shares: Shares | None = None

    def __post_init__(self) -> None:
        whole_number("window", self.window, 1, MAX_WINDOW)
        whole_number("max_states", self.max_states, 0, MAX_WINDOW)
        real_number("tolerance", self.tolerance, 0, 1e6)
        if self.method not in METHODS:
            raise InputError(f"unknown method {self.method!r}: it is ddim or ddpm")


@torch.no_grad()
def sample_picard(
    model: Model,
    x: Tensor,
    sigmas: Tensor,
    extra_args: dict[str, Any] | None = None,
    callback: Callback | None = None,
    disable: bool | None = None,
    **options: Any,
) -> Tensor:
    """Return the result of a sequential sampler, found by refining a window of its states at once (Shih et al. 2023, algorithm 1).

    `options` are the fields of :class:`PicardOptions`. One iteration evaluates the model at all states x_b .. x_{b+p-1} of the window in
    one batch and sets x_{j+1} = x_b + the sum of the steps from b to j (their eq. 6; in sigma space a step is exactly additive). Then the
    window moves to the first state that changed by more than the tolerance. Its first step starts from a finished state and is exact: N
    steps take at most N iterations, and at tolerance 0 the result is the sequential one up to rounding.

    The callback runs once for each iteration, with the last step that is finished by then. Raises :class:`InputError` for options out of
    range.
    """
    check_sigmas(sigmas)
    chosen = PicardOptions(**options)
    window, method = chosen.window, chosen.method
    steps = len(sigmas) - 1
    if steps < 1:
        return x
    convention = convention_of(model_sampling_of(model))
    ask = LevelBatch(model, extra_args, chosen.max_states, chosen.replicas, chosen.shares)
    x = from_first_process(x)
    jumps = [ancestral_step(convention, *ends, 1.0) for ends in itertools.pairwise(sigmas)]
    moves, keeps, noises = _steps(x, sigmas, jumps, method, chosen.noise_sampler or gaussian_noise(x, ask.extra_args.get("seed")))
    allowed = chosen.tolerance**2 * _variances(sigmas, jumps, convention.flow)
    beside = (slice(None), *[None] * x.ndim)  # turns (P,) into (P, 1, ...), to multiply states (P, B, ...)

    states = x.expand(steps + 1, *x.shape).clone()
    begin, known, iterations, evaluations = 0, 0, 0, 0  # states 0 .. begin are finished, those up to `known` are guesses
    scale = convention.spread(sigmas)  # x / scale has unit variance; at that scale a guess is a copy of the last known state
    while begin < steps:
        end = min(begin + window, steps)
        if end > known:
            states[known + 1 : end + 1] = states[known] * (scale[known + 1 : end + 1] / scale[known])[beside]
            known = end
        asked = states[begin:end].clone()
        denoised = ask(asked, sigmas[begin:end])
        slopes = (asked - denoised) / sigmas[begin:end][beside]
        kept = keeps[begin:end].cumprod(0)[beside]  # 1 but for a flow model's ddpm, whose steps are additive after division by it
        before = kept / keeps[begin:end][beside]
        found = kept * (states[begin] + (slopes * moves[begin:end][beside] / before + noises[begin:end] / kept).cumsum(0))
        change = (found - states[begin + 1 : end + 1]).pow(2).flatten(2).mean(2).amax(1)
        states[begin + 1 : end + 1] = found
        late = (change > allowed[begin:end]).nonzero()
        finished = int(late[0]) + 1 if len(late) else end - begin  # the first late state was computed from finished ones
        iterations, evaluations = iterations + 1, evaluations + end - begin
        begin += finished
        report(callback, begin - 1, asked[finished - 1], sigmas[begin - 1], denoised[finished - 1])
    keep_stats(chosen.stats, sampler=f"Picard ({method})", steps=steps, iterations=iterations, evaluations=evaluations, calls=ask.calls)
    return states[steps].clone()


def _steps(x: Tensor, sigmas: Tensor, jumps: list[Jump], method: str, noise_sampler: NoiseSampler) -> tuple[Tensor, Tensor, Tensor]:
    """Return each step's change of sigma (N,), its factor of the state (N,), and its noise (N, B, ...), which is zero for the ODE."""
    steps = len(sigmas) - 1
    if method == "ddim":
        return sigmas[1:] - sigmas[:-1], torch.ones_like(sigmas[1:]), x.new_zeros(steps, *[1] * x.ndim)
    noises = x.new_zeros(steps, *x.shape)
    for i, (_, _, up) in enumerate(jumps):
        if up > 0:
            noises[i] = noise_sampler(sigmas[i], sigmas[i + 1]) * up
    downs, keeps, _ = (torch.stack(part) for part in zip(*jumps, strict=True))
    return downs - sigmas[:-1], keeps, noises


def _variances(sigmas: Tensor, jumps: list[Jump], is_flow: bool) -> Tensor:
    """Return DDPM's posterior variance of each step in x (N,); a step without one gets the smallest of the others.

    The paper compares states and variances scaled to unit variance, x / sqrt(1 + sigma^2); the scale cancels. A flow model's is the
    variance of the noise that its ancestral step adds.
    """
    variances = sigmas[1:] ** 2 * (sigmas[:-1] ** 2 - sigmas[1:] ** 2) / sigmas[:-1] ** 2
    if is_flow:
        variances = torch.stack([up for _, _, up in jumps]) ** 2
    positive = variances[variances > 0]
    return variances.clamp(min=float(positive.min()) if len(positive) else 1.0)
