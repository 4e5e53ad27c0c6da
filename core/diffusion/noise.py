"""Noise conventions of all diffusion models, and noise levels as users give them.

A model's state is x = alpha x0 + beta n, with a clean latent x0 and unit noise n. Two conventions exist (`s` is the model's own sigma):

    VE (SD 1.5, SDXL; ComfyUI's EPS, V, EDM and X0)     alpha = 1        beta = s
    flow (Flux, Wan, Qwen-Image; ComfyUI's CONST)       alpha = 1 - s    beta = s (times the model's noise scale, nearly always 1)

The *common form* of a state is x / alpha, and its *common level* is beta / alpha: a VE state and its sigma. Two models are at the same
signal-to-noise ratio where their common levels are equal. dx/ds = (x - denoised) / s holds in both conventions, so a deterministic
sampler needs nothing from here; one that adds noise works in the common form.

For other modules:
- :func:`convention_of` gives a model's :class:`Convention`: alpha, level, sigma, log-SNR, to and from the common form.
- :func:`same_snr` gives the sigma of another model at the same signal-to-noise ratio, inside that model's range.
- :class:`NoiseLevel` is what a user typed (a timestep, a sigma, a share of the steps, a step); `.on(model_sampling, sigmas)` is its sigma.
- :func:`sigma_of_timestep` inverts a model's own `timestep`.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor

from ..checks import real_number, whole_number
from ..errors import InputError

UNITS = ("timestep", "model timestep", "sigma", "share of the steps", "step")
"""What a user's number may be. See :class:`NoiseLevel`."""
MAX_TIMESTEP = 1000
ROUNDING = 1e-5
"""Relative difference of two ways to the same level. Neighbouring timesteps differ by a hundred times as much."""
Number = TypeVar("Number", float, Tensor)


@dataclass(frozen=True)
class Convention:
    """How a model mixes unit noise into a latent. Every method takes and gives tensors of any shape; the levels may also be floats."""

    flow: bool = False
    noise_scale: float = 1.0
    """Standard deviation of the noise at a flow model's sigma 1: 1 for all but a few models, and for every VE model."""

    def alpha(self, sigma: Number) -> Number:
        """Return the share of the clean latent in a state at `sigma`: 1, or 1 - sigma."""
        return 1 - sigma if self.flow else sigma * 0 + 1

    def beta(self, sigma: Number) -> Number:
        """Return the deviation of the noise in a state at `sigma`."""
        return self.noise_scale * sigma

    def level(self, sigma: Number) -> Number:
        """Return the common level (a VE sigma) of the model's `sigma`: infinity at a flow model's sigma 1, which is noise alone."""
        if not self.flow:
            return sigma
        if isinstance(sigma, Tensor):
            return self.noise_scale * sigma / (1 - sigma)
        return self.noise_scale * sigma / (1 - sigma) if sigma < 1 else math.inf

    def sigma(self, level: Number) -> Number:
        """Return the model's sigma of a common level, the inverse of :meth:`level`; infinity becomes a flow model's 1."""
        if not self.flow:
            return level
        if isinstance(level, Tensor):
            return 1 / (1 + self.noise_scale / level)
        return 1 / (1 + self.noise_scale / level) if level > 0 else 0.0

    def log_snr(self, sigma: Tensor) -> Tensor:
        """Return log(alpha^2 / beta^2) at `sigma`: falls from infinity (a clean latent) to minus infinity (noise alone)."""
        return -2 * self.level(sigma).log()

    def sigma_of_log_snr(self, log_snr: Tensor) -> Tensor:
        """Return the model's sigma at a log-SNR, the inverse of :meth:`log_snr`."""
        return self.sigma((-log_snr / 2).exp())

    def to_common(self, x: Tensor, sigma: Tensor) -> Tensor:
        """Return the common form of states `x` (B, ...) at `sigma` (() or (B,)). A flow model's state at sigma 1 has none (infinity)."""
        return x / self.alpha(beside(sigma, x)) if self.flow else x

    def from_common(self, x: Tensor, sigma: Tensor) -> Tensor:
        """Return the model's states at `sigma` (() or (B,), the model's own) from their common form `x` (B, ...)."""
        return x * self.alpha(beside(sigma, x)) if self.flow else x

    def spread(self, sigma: Number) -> Number:
        """Return the standard deviation of the states at `sigma` of data of unit variance, sqrt(alpha^2 + beta^2)."""
        return (self.alpha(sigma) ** 2 + self.beta(sigma) ** 2) ** 0.5


VE = Convention()
FLOW = Convention(flow=True)


def convention_of(model_sampling: Any) -> Convention:
    """Return the convention of a :class:`NoiseSchedule` or a ComfyUI `model_sampling` object, by how it mixes noise. None counts as VE."""
    named = FLOW if any(kind.__name__ == "CONST" for kind in type(model_sampling).__mro__) else VE
    mix = getattr(model_sampling, "noise_scaling", None)
    if mix is None:
        return named
    half, one, none = torch.tensor(0.5), torch.ones(1), torch.zeros(1)
    signal, noise = float(mix(half, none.clone(), one.clone())), float(mix(half, one.clone(), none.clone()))
    if abs(signal - 0.5) < 1e-6:
        return Convention(flow=True, noise_scale=2 * noise)
    return named  # an image-to-image flow starts from a picture that it does not mix


def beside(sigma: Tensor, x: Tensor) -> Tensor:
    """Return `sigma`, one value or one for each sample, in a shape that multiplies `x` (B, ...)."""
    return sigma.reshape(()) if sigma.numel() == 1 else sigma.reshape(-1, *[1] * (x.ndim - 1))


def same_snr(sigma: Tensor, giver: Any, receiver: Any) -> Tensor:
    """Return the receiver's sigma (any shape) with the signal-to-noise ratio of the giver's `sigma`.

    `giver` and `receiver` are `model_sampling` objects. The result lies inside the receiver's range; 0 stays 0.
    """
    there = convention_of(receiver).sigma(convention_of(giver).level(sigma))
    low, high = float(receiver.sigma_min), float(receiver.sigma_max)
    return torch.where(sigma > 0, there.clamp(low, high), torch.zeros_like(there))


@dataclass(frozen=True)
class NoiseLevel:
    """A noise level as a user gives it: the lowest level at which the first of two models acts.

    - `timestep`: a whole number of 0..1000 given to the schedule's `sigma`. For flow models this is the timestep *before* the shift.
    - `model timestep`: what the network is shown, as a family publishes its boundary (Wan 2.2: 875 and 900 of 1000; Flux counts to 1).
    - `sigma`: the noise level itself, 0 or more.
    - `share of the steps`: 0..1, of the steps of the sampling run.
    - `step`: the first step of the second model, counted from 0 as KSamplerAdvanced counts.
    """

    value: float
    unit: str = "timestep"

    def __post_init__(self) -> None:
        if self.unit not in UNITS:
            raise InputError(f"unknown kind of noise level {self.unit!r}: the known ones are {', '.join(UNITS)}")
        if self.unit == "timestep":
            if isinstance(self.value, bool) or int(self.value) != self.value or not 0 <= self.value <= MAX_TIMESTEP:
                raise InputError(
                    f"the switch is a timestep from 0 (all structure) to {MAX_TIMESTEP} (all texture), {self.value!r} was given"
                )
        elif self.unit == "step":
            whole_number("the step of the switch", self.value, 0, 10_000)
        else:
            real_number(f"the switch, as {self.unit},", self.value, -1e9 if self.unit == "model timestep" else 0,
                        1 if self.unit == "share of the steps" else 1e9)  # fmt: skip

    @property
    def needs_run(self) -> bool:
        """Whether the level depends on the sigmas of the sampling run."""
        return self.unit in ("share of the steps", "step")

    def on(self, model_sampling: Any, sigmas: Tensor | None = None) -> float:
        """Return the sigma of this level on a model's schedule, `sigmas` (N+1,) being those of the run where :attr:`needs_run`.

        0: the first model acts at every level. Infinity: it never acts. Raises :class:`InputError` for a number outside the model's range,
        and for a model whose timesteps do not rise with its noise.
        """
        if self.unit == "sigma":
            return float(self.value)
        if self.unit == "model timestep":
            return sigma_of_timestep(model_sampling, self.value)
        if self.unit == "timestep":
            return _sigma_of_index(model_sampling, int(self.value))
        if sigmas is None:
            raise InputError(f"a switch given as {self.unit} needs the noise levels of the sampling run; give a timestep or a sigma here")
        steps = max(len(sigmas) - 1, 0)
        return _above_step(sigmas, min(int(self.value), steps) if self.unit == "step" else math.floor(self.value * steps + 0.5))


def sigma_of_timestep(model_sampling: Any, timestep: float) -> float:
    """Return the lowest noise level whose timestep, as the network is shown it, is at least `timestep`.

    This inverts the model's own `timestep` function: by its table of sigmas, and between two entries by bisection. A timestep from 0 to
    that of the lowest entry gives 0. Raises :class:`InputError` for a timestep that the table does not reach, and for a model whose
    timesteps do not rise with its noise.
    """
    sigmas = torch.as_tensor(model_sampling.sigmas).detach().double().cpu()
    times = model_sampling.timestep(sigmas).double()
    if bool((times.diff() < 0).any()) or bool((sigmas.diff() < 0).any()) or not bool(times.isfinite().all()):
        raise InputError(
            "this model's timesteps do not rise with its noise, so that none of them names a noise level; give a sigma instead"
        )
    first, last, slack = float(times[0]), float(times[-1]), 1e-6 * abs(float(times[-1]))
    if 0 <= timestep < first:
        return 0.0
    if not first - slack <= timestep <= last + slack:
        raise InputError(f"this model's timesteps go from {first:.6g} to {last:.6g}, and {timestep:g} is not among them")
    above = min(int(torch.searchsorted(times, timestep - slack)), len(times) - 1)  # the first entry of at least this timestep
    if float(times[above]) <= timestep + slack or above == 0:
        return float(sigmas[above])
    low, high = sigmas[above - 1], sigmas[above]
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (low, middle) if float(model_sampling.timestep(middle.reshape(1))) >= timestep else (middle, high)
    return float(high)


def _sigma_of_index(model_sampling: Any, timestep: int) -> float:
    """Return sigma(timestep) on a schedule that counts timesteps to 1000; infinity from the number of its timesteps on."""
    count = int(getattr(model_sampling, "num_timesteps", 0) or len(getattr(model_sampling, "sigmas", ())) or MAX_TIMESTEP)
    if timestep == 0:
        return 0.0
    if timestep >= count:
        return math.inf
    sigma = float(model_sampling.sigma(torch.tensor(float(timestep))))
    low, high = float(model_sampling.sigma_min), float(model_sampling.sigma_max)
    known = min(count, MAX_TIMESTEP)
    several = [float(model_sampling.sigma(torch.tensor(float(time)))) for time in range(1, known, max(1, known // 12))]
    rises = all(one < other for one, other in itertools.pairwise(several))
    if not rises or not low * (1 - ROUNDING) <= sigma <= high * (1 + ROUNDING):
        raise InputError(
            f"timestep {timestep} is noise level {sigma:.4g} for this model, whose levels go from {low:.4g} to {high:.4g}: its schedule "
            "does not count timesteps from 0 to 1000; give the level as model timestep, sigma or share of the steps where the node offers "
            "these, or use another structure model"
        )
    return sigma


def _above_step(sigmas: Tensor, step: int) -> float:
    """Return a level between those of `step` and of the step before, close to the former: the evaluations inside a step stay above."""
    levels = sigmas.detach().double().cpu()
    if bool((levels.diff() > 0).any()):
        raise InputError("a switch given as a step needs sigmas that descend from noise to picture; give a sigma instead")
    if step == 0:
        return math.inf
    return min(float(levels[step]) * (1 + 2 * ROUNDING), float(levels[step - 1]))
