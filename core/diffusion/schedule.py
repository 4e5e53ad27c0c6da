"""Noise schedules in sigma space, and the grids of sigmas that samplers take.

The state of a sampler is `x = x0 + sigma * noise` (the variance-exploding form). A network trained on the variance-preserving
`z_t = sqrt(abar_t) x0 + sqrt(1 - abar_t) noise` is shown `z_t = x / sqrt(1 + sigma^2)`, with `sigma_t = sqrt((1 - abar_t) / abar_t)`.

:class:`NoiseSchedule` answers by the method names of ComfyUI's `model_sampling` objects and gives the same values, so that one
sampler, guider or scheduler function works with either.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from numbers import Integral, Real
from typing import Any

import torch
from torch import Tensor

from ..bundles.format import Schedule
from ..checks import whole_number
from ..errors import InputError
from .noise import beside

PREDICTIONS = ("eps", "v", "x0")
BETA_SCHEDULES = ("scaled_linear", "linear", "squaredcos_cap_v2")
MAX_STEPS = 10_000
MAX_TIMESTEPS = 100_000


def make_betas(schedule: Schedule) -> Tensor:
    """Return the variances beta_1..beta_T of the forward process, (T,) float64.

    `scaled_linear` is linear in sqrt(beta) (latent diffusion), `linear` in beta (DDPM), `squaredcos_cap_v2` follows the cosine
    abar of Nichol and Dhariwal, eq. 17, with beta capped at 0.999. Raises :class:`InputError` for any other name, for values outside
    0 < beta_start <= beta_end < 1, or for a number of timesteps outside 2..100000 (it may come from a file).
    """
    if not isinstance(schedule.timesteps, Integral) or not 2 <= schedule.timesteps <= MAX_TIMESTEPS:
        raise InputError(f"a noise schedule has from 2 to {MAX_TIMESTEPS} timesteps, {schedule.timesteps!r} were given")
    if schedule.beta_schedule not in BETA_SCHEDULES:
        raise InputError(f"unknown beta schedule {schedule.beta_schedule!r}: the known ones are {', '.join(BETA_SCHEDULES)}")
    if schedule.beta_schedule == "squaredcos_cap_v2":
        time = torch.arange(schedule.timesteps + 1, dtype=torch.float64) / schedule.timesteps
        abar = torch.cos((time + 0.008) / 1.008 * (math.pi / 2)) ** 2
        return (1 - abar[1:] / abar[:-1]).clamp(max=0.999)
    first, last = schedule.beta_start, schedule.beta_end
    if not (isinstance(first, Real) and isinstance(last, Real) and 0 < first <= last < 1):
        raise InputError(f"betas must satisfy 0 < beta_start <= beta_end < 1, {first!r} and {last!r} were given")
    if schedule.beta_schedule == "linear":
        return torch.linspace(first, last, schedule.timesteps, dtype=torch.float64)
    return torch.linspace(first**0.5, last**0.5, schedule.timesteps, dtype=torch.float64) ** 2


def output_to_denoised(prediction: str, sigma: Tensor, model_output: Tensor, x: Tensor) -> Tensor:
    """Return a network's estimate of x0 from its raw output of kind `prediction` at `x` (B, ...) and `sigma` (() or (B,)).

    `eps`: the noise. `v`: sqrt(abar) eps - sqrt(1 - abar) x0 (Salimans and Ho, appendix D). `x0`: the image itself. `flow`: the noise minus
    the image, where `x` is a flow model's state.
    """
    _check_prediction(prediction)
    sigma = beside(sigma, x)
    if prediction in ("eps", "flow"):
        return x - model_output * sigma
    if prediction == "v":
        return x / (sigma**2 + 1) - model_output * sigma / (sigma**2 + 1) ** 0.5
    return model_output


def denoised_to_output(prediction: str, sigma: Tensor, denoised: Tensor, x: Tensor) -> Tensor:
    """Return the raw output that :func:`output_to_denoised` takes, for sigma > 0. With a state x of x0 and noise, and denoised = x0, it is
    the training target."""
    _check_prediction(prediction)
    sigma = beside(sigma, x)
    if prediction in ("eps", "flow"):
        return (x - denoised) / sigma
    if prediction == "v":
        return (x / (sigma**2 + 1) - denoised) * (sigma**2 + 1) ** 0.5 / sigma
    return denoised


def _check_prediction(prediction: str) -> None:
    if prediction not in (*PREDICTIONS, "flow"):
        raise InputError(f"unknown prediction type {prediction!r}: a network predicts one of {', '.join(PREDICTIONS)}, flow")


class NoiseSchedule:
    """A discrete schedule of T noise levels with the prediction type of the network that was trained on it.

    `sigmas` and `log_sigmas` are (T,) float32 on the CPU, ascending, computed in float64. The integer timestep t of the network is the
    index into them. Raises :class:`InputError` for an unknown prediction type or beta schedule.
    """

    sigma_data = 1.0
    first_timestep = 0
    """The timestep of the lowest noise level."""

    def __init__(self, schedule: Schedule | None = None) -> None:
        self.schedule = schedule or Schedule()
        _check_prediction(self.schedule.prediction)
        if self.schedule.prediction == "flow":
            raise InputError("betas are no schedule for the prediction 'flow', only for eps, v, x0; `noise_schedule` gives that of a flow")
        alphas_cumprod = torch.cumprod(1 - make_betas(self.schedule), dim=0)
        sigmas = ((1 - alphas_cumprod) / alphas_cumprod) ** 0.5
        self.sigmas = sigmas.float()
        self.log_sigmas = sigmas.log().float()
        self.num_timesteps = len(self.sigmas)

    @property
    def prediction(self) -> str:
        """`eps`, `v` or `x0`; `flow` in a :class:`~rapiddraw.core.diffusion.flow.FlowSchedule`."""
        return self.schedule.prediction

    @property
    def sigma_min(self) -> Tensor:
        """The smallest noise level, a 0-d tensor."""
        return self.sigmas[0]

    @property
    def sigma_max(self) -> Tensor:
        """The largest noise level, a 0-d tensor."""
        return self.sigmas[-1]

    def timestep(self, sigma: Tensor) -> Tensor:
        """Return the whole timesteps whose log-sigma is nearest to that of `sigma` (any shape), on its device."""
        distance = sigma.log().reshape(1, -1).to(self.log_sigmas.device) - self.log_sigmas[:, None]
        return distance.abs().argmin(dim=0).reshape(sigma.shape).to(sigma.device)

    def sigma(self, timestep: Tensor) -> Tensor:
        """Return the noise level at `timestep` (any shape, clamped to 0..T-1); between whole timesteps log-sigma is linear."""
        time = timestep.float().to(self.log_sigmas.device).clamp(0, self.num_timesteps - 1)
        below, above, part = time.floor().long(), time.ceil().long(), time.frac()
        return ((1 - part) * self.log_sigmas[below] + part * self.log_sigmas[above]).exp().to(timestep.device)

    def percent_to_sigma(self, percent: float) -> float:
        """Return the noise level after the fraction `percent` of the timesteps: 0 is the start of sampling, 1 is sigma 0."""
        if percent <= 0:
            return 999999999.9  # ComfyUI's stand-in for infinity: "from the very first step", also with a step above sigma_max
        if percent >= 1:
            return 0.0
        return float(self.sigma(torch.tensor((1 - percent) * (self.num_timesteps - 1))))

    def calculate_input(self, sigma: Tensor, x: Tensor) -> Tensor:
        """Return the network's input z_t: `x` (B, ...) scaled to unit variance."""
        return x / (beside(sigma, x) ** 2 + self.sigma_data**2) ** 0.5

    def calculate_denoised(self, sigma: Tensor, model_output: Tensor, x: Tensor) -> Tensor:
        """Return the network's estimate of x0 from its raw output. See :func:`output_to_denoised`."""
        return output_to_denoised(self.prediction, sigma, model_output, x)

    def noise_scaling(self, sigma: Tensor, noise: Tensor, latent_image: Tensor, max_denoise: bool = False) -> Tensor:
        """Return the sampler's first state from unit `noise` and the (scaled) latent it starts from.

        With `max_denoise` (the run starts at sigma_max) the noise is multiplied by sqrt(1 + sigma^2), the standard deviation of noisy data
        of unit variance.
        """
        sigma = beside(sigma, noise)
        return noise * (torch.sqrt(1 + sigma**2) if max_denoise else sigma) + latent_image

    def inverse_noise_scaling(self, sigma: Tensor, latent: Tensor) -> Tensor:
        """Return the latent from the sampler's last state, which is equal to it in this form."""
        return latent


def calculate_sigmas(schedule: Any, scheduler_name: str, steps: int) -> Tensor:
    """Return the noise levels of a sampling run, descending to 0, float32 on the CPU; one more than there are steps.

    `schedule` is a :class:`NoiseSchedule` or a ComfyUI `model_sampling` object. The grids equal ComfyUI's of the same name. The stride of
    `ddim_uniform` is whole: it can have more steps than asked for where `steps` does not divide T, and one fewer at `steps` = T.
    Raises :class:`InputError` for an unknown name or a number of steps outside 1..10000.
    """
    if scheduler_name not in SCHEDULERS:
        raise InputError(f"unknown scheduler {scheduler_name!r}: the known ones are {', '.join(SCHEDULERS)}")
    return torch.tensor(SCHEDULERS[scheduler_name](schedule, check_steps(steps)), dtype=torch.float32)


def check_steps(steps: Any) -> int:
    """Return the number of sampling steps as an int of 1..10000. Raise :class:`InputError` for anything else."""
    return whole_number("steps", steps, 1, MAX_STEPS)


def _simple(schedule: Any, steps: int) -> list[float]:
    """Every (T / steps)-th entry of the table, from the top ("trailing" spacing)."""
    stride = len(schedule.sigmas) / steps
    return [float(schedule.sigmas[-1 - int(i * stride)]) for i in range(steps)] + [0.0]


def _ddim_uniform(schedule: Any, steps: int) -> list[float]:
    """A whole stride up from timestep 1 ("leading" spacing with offset 1); the top of the table is usually not reached."""
    ends_at_zero = _is_zero(schedule.sigmas[1])
    stride = max(len(schedule.sigmas) // (steps + ends_at_zero), 1)
    rising = [float(sigma) for sigma in schedule.sigmas[1::stride]]
    return rising[::-1] + [0.0] * (not ends_at_zero)


def _normal(schedule: Any, steps: int) -> list[float]:
    """Evenly spaced timesteps from the first to the last ("linspace" spacing), then 0."""
    top, bottom = _ends(schedule)
    ends_at_zero = _is_zero(schedule.sigma(bottom))
    times = torch.linspace(float(top), float(bottom), steps + ends_at_zero)
    return [float(schedule.sigma(time)) for time in times] + [0.0] * (not ends_at_zero)


def _sgm_uniform(schedule: Any, steps: int) -> list[float]:
    """Evenly spaced timesteps, of which the last one (sigma_min) is left out in favour of 0."""
    top, bottom = _ends(schedule)
    times = torch.linspace(float(top), float(bottom), steps + 1)[:-1]
    return [float(schedule.sigma(time)) for time in times] + [0.0]


def _karras(schedule: Any, steps: int, rho: float = 7.0) -> list[float]:
    """Karras et al. 2022, eq. 5: evenly spaced in sigma^(1/rho)."""
    low, high = float(schedule.sigma_min) ** (1 / rho), float(schedule.sigma_max) ** (1 / rho)
    return ((high + torch.linspace(0, 1, steps) * (low - high)) ** rho).tolist() + [0.0]


def _exponential(schedule: Any, steps: int) -> list[float]:
    """Evenly spaced in log-sigma."""
    high, low = math.log(float(schedule.sigma_max)), math.log(float(schedule.sigma_min))
    return torch.linspace(high, low, steps).exp().tolist() + [0.0]


def _ends(schedule: Any) -> tuple[Tensor, Tensor]:
    return schedule.timestep(schedule.sigma_max), schedule.timestep(schedule.sigma_min)


def _is_zero(sigma: Tensor) -> bool:
    """Return whether a table reaches sigma 0 itself, so that no 0 is to be appended."""
    return math.isclose(float(sigma), 0, abs_tol=1e-5)


SCHEDULERS: dict[str, Callable[[Any, int], list[float]]] = {
    "simple": _simple,
    "sgm_uniform": _sgm_uniform,
    "karras": _karras,
    "exponential": _exponential,
    "ddim_uniform": _ddim_uniform,
    "normal": _normal,
}
SCHEDULER_NAMES = tuple(SCHEDULERS)
