"""Consistency distillation (Song et al. 2023, algorithm 2) on the skipping grid of latent consistency models (Luo et al. 2023).

    L = d(f(x_(n+k)), f_ema(x^_n))        f(x, s) = c_skip x + c_out D(x, s)

x^_n is where one step of DDIM of the guided teacher ends, from x_(n+k) a stretch of k timesteps down; d is the pseudo-Huber distance. The
scalings are those of LCM: at the lowest level (timestep 0) c_skip = 1 and c_out = 0, so that f is the identity there; from the grid's first
level on f is the student's `denoised` to five digits. The student is sampled by the sampler `lcm`, without guidance.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..diffusion.noise import beside
from ..errors import InputError
from .segment import Denoise, Segment, euler, guided, positions

GRID = 50
"""Levels of the grid, as in LCM: k is a 50th of the model's timesteps."""
SIGMA_DATA, TIMESTEP_SCALING = 0.5, 10.0
HUBER = 1e-3


def scalings(timestep: Tensor) -> tuple[Tensor, Tensor]:
    """Return (c_skip, c_out) at `timestep` (any shape, 0 for the lowest level, counted to 1000)."""
    scaled = timestep.double() * TIMESTEP_SCALING
    whole = scaled.square() + SIGMA_DATA**2
    return (SIGMA_DATA**2 / whole).float(), (scaled / whole.sqrt()).float()


def consistent(denoised: Tensor, x: Tensor, sigma: Tensor, table: Tensor) -> Tensor:
    """Return f (B, C, ...) of states `x` at `sigma` (B,) from `denoised`. `table` (T,) are the model's ascending levels."""
    timestep = (positions(table, sigma.cpu()) - 1).clamp(min=0) * (1000 / len(table))
    skip, out = (beside(value.to(x.device), x) for value in scalings(timestep))
    return skip * x + out * denoised


def skipping_grid(table: Tensor, grid: int = GRID) -> tuple[Tensor, Tensor]:
    """Return the levels (grid,) of the skipping grid and those that lie a stretch below each, ascending; the first goes to the lowest
    level. Raises :class:`InputError` for a table with fewer levels than the grid."""
    if not 1 <= grid <= len(table):
        raise InputError(f"a grid of {grid} levels does not fit a model of {len(table)}; give 1 to {len(table)}")
    stretch = len(table) // grid
    upper = torch.arange(1, grid + 1) * stretch - 1
    return table[upper].float(), table[(upper - stretch).clamp(min=0)].float()


def consistency_loss(student: Denoise, average: Denoise, teacher: Denoise, segment: Segment, table: Tensor, scale: float) -> Tensor:
    """Return the loss, a scalar. `average` is the student with averaged weights; the teacher is guided by `scale` (LCM draws it from a
    range and embeds it; as LCM-LoRA does, one scale is learned here). `segment.end` lies a stretch below `segment.start`."""
    with torch.no_grad():
        reached = euler(
            segment.x, guided(teacher, segment.x, segment.start, segment, scale), segment.start, segment.end
        )  # fmt: skip
        wanted = consistent(average(reached, segment.end, segment.text), reached, segment.end, table)
    found = consistent(student(segment.x, segment.start, segment.text), segment.x, segment.start, table)
    return ((found.float() - wanted.float()).square() + HUBER**2).sqrt().sub(HUBER).mean()
