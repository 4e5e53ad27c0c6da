"""The schedule of a flow-trained U-Net: x = (1 - sigma) x0 + sigma n, with sigma = timestep / T (Lipman et al. 2023; Liu et al. 2023).

The network predicts n - x0 and reads its input as it is. The values are those of ComfyUI's `ModelSamplingDiscreteFlow` with shift 1.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..bundles.format import Schedule
from ..errors import InputError
from .noise import beside
from .schedule import MAX_TIMESTEPS, NoiseSchedule


class FlowSchedule(NoiseSchedule):
    """Noise levels sigma = t / T for whole timesteps t = 1..T, with the methods of :class:`NoiseSchedule`.

    `sigmas` (T,) are float32 on the CPU, ascending to 1. Raises :class:`InputError` for a number of timesteps out of range.
    """

    first_timestep = 1

    def __init__(self, schedule: Schedule) -> None:
        if isinstance(schedule.timesteps, bool) or not isinstance(schedule.timesteps, int) or not 2 <= schedule.timesteps <= MAX_TIMESTEPS:
            raise InputError(f"a noise schedule has from 2 to {MAX_TIMESTEPS} timesteps, {schedule.timesteps!r} were given")
        self.schedule, self.num_timesteps = schedule, schedule.timesteps
        self.sigmas = torch.arange(1, schedule.timesteps + 1) / schedule.timesteps
        self.log_sigmas = self.sigmas.log()

    def timestep(self, sigma: Tensor) -> Tensor:
        """Return the timestep of `sigma` (any shape): T sigma, which need not be whole."""
        return sigma * self.num_timesteps

    def sigma(self, timestep: Tensor) -> Tensor:
        """Return the noise level at `timestep` (any shape)."""
        return timestep / self.num_timesteps

    def percent_to_sigma(self, percent: float) -> float:
        """Return the noise level after the fraction `percent` of the timesteps: 1 at the start, 0 at the end."""
        return min(1.0, max(0.0, 1.0 - percent))

    def calculate_input(self, sigma: Tensor, x: Tensor) -> Tensor:
        """Return the network's input, which is the state itself."""
        return x

    def noise_scaling(self, sigma: Tensor, noise: Tensor, latent_image: Tensor, max_denoise: bool = False) -> Tensor:
        """Return sigma * noise + (1 - sigma) * latent_image; `max_denoise` makes no difference."""
        sigma = beside(sigma, noise)
        return sigma * noise + (1.0 - sigma) * latent_image

    def inverse_noise_scaling(self, sigma: Tensor, latent: Tensor) -> Tensor:
        """Return the latent from the sampler's last state at `sigma`: the common form."""
        return latent / (1.0 - beside(sigma, latent))


def noise_schedule(schedule: Schedule | None) -> NoiseSchedule:
    """Return the schedule of a bundle, a :class:`FlowSchedule` for a network that predicts a flow. Raises as these do."""
    return FlowSchedule(schedule) if schedule is not None and schedule.prediction == "flow" else NoiseSchedule(schedule)
