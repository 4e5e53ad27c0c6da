"""Sampling by the schedulers of diffusers, which the tests compare ours with."""

from __future__ import annotations

import torch


def run_diffusers(scheduler, denoiser, x, sigma, steps, **options):
    """Return the result of their loop: z_t = x / sqrt(1 + sigma^2), a noise prediction at each of their timesteps, step()."""
    scheduler.set_timesteps(steps)
    z = x / (1 + sigma**2) ** 0.5
    for time in scheduler.timesteps:
        abar = scheduler.alphas_cumprod[time].double()
        level = ((1 - abar) / abar).sqrt()
        state = z / abar.sqrt()
        eps = (state - denoiser(state, level * torch.ones(len(x)))) / level
        z = scheduler.step(eps, time, z, **options).prev_sample
    return z
