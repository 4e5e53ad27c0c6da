"""Stretches of a sampling run: noise levels of few steps, Euler steps between them, and what a student must predict to jump over one.

Everything is said in `denoised` and in the model's own sigma, where dx/ds = (x - denoised) / s holds in both noise conventions (see
:mod:`..diffusion.noise`). So a step of DDIM, x' = denoised + (s' / s) (x - denoised), is the same for VE and flow models.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..diffusion.noise import Convention, beside
from ..errors import InputError

Denoise = Callable[[Tensor, Tensor, Any], Tensor]
"""(x (B, C, ...), sigma (B,), the condition of the prompts) -> denoised, of the shape of `x`."""


@dataclass(frozen=True)
class Segment:
    """States `x` (B, C, ...) at levels `start` (B,), which a student takes to `end` (B,) in one step: 0 <= end < start.

    `text` and `empty` are the conditions of the prompts and of the empty prompt, as the networks take them.
    """

    x: Tensor
    start: Tensor
    end: Tensor
    text: Any
    empty: Any


def euler(x: Tensor, denoised: Tensor, start: Tensor, end: Tensor) -> Tensor:
    """Return the states at `end` (B,) after one step of DDIM from `x` (B, ...) at `start` (B,) with `denoised`."""
    ratio = beside(end / start, x)
    return denoised + ratio * (x - denoised)


def walk(denoise: Denoise, x: Tensor, levels: Tensor, text: Any) -> Tensor:
    """Return the states at `levels[:, -1]` after DDIM steps along `levels` (B, n + 1), which descend, from `x` at `levels[:, 0]`."""
    for start, end in zip(levels.T[:-1], levels.T[1:], strict=True):
        x = euler(x, denoise(x, start, text), start, end)
    return x


def implied(x: Tensor, start: Tensor, end: Tensor, reached: Tensor) -> Tensor:
    """Return the `denoised` with which one DDIM step from `x` at `start` ends in `reached` at `end`.

    Salimans and Ho 2022, algorithm 2: (z'' - (sigma'' / sigma) z) / (alpha'' - (sigma'' / sigma) alpha). Written in the model's own sigma,
    the divisor is 1 - end / start in both noise conventions.
    """
    ratio = beside(end / start, x)
    return (reached - ratio * x) / (1 - ratio)


def truncated_snr(convention: Convention, sigma: Tensor) -> Tensor:
    """Return max(SNR, 1) at `sigma` (B,), the weight of a squared error of `denoised` (Salimans and Ho 2022, section 4). A flow model's
    level 1 has SNR 0."""
    return convention.level(sigma).square().reciprocal().clamp(min=1)


def weighted_error(denoised: Tensor, wanted: Tensor, weight: Tensor) -> Tensor:
    """Return the mean over the batch of `weight` (B,) times each picture's mean squared error."""
    return (weight * (denoised.float() - wanted.float()).square().flatten(1).mean(1)).mean()


def guided(denoise: Denoise, x: Tensor, sigma: Tensor, segment: Segment, scale: float | Tensor) -> Tensor:
    """Return `denoised` under classifier-free guidance with the prompts of `segment`; `scale` may be one for each picture, (B,). The scale
    1 takes one evaluation."""
    if not isinstance(scale, Tensor) and scale == 1:
        return denoise(x, sigma, segment.text)
    empty = denoise(x, sigma, segment.empty)
    strength = beside(scale.to(x.device), x) if isinstance(scale, Tensor) else scale
    return empty + strength * (denoise(x, sigma, segment.text) - empty)


def positions(table: Tensor, sigmas: Tensor) -> Tensor:
    """Return the places of `sigmas` in a model's ascending `table` (T,) of levels: n for its n-th entry, 0 for sigma 0, linear between."""
    known = torch.cat([table.new_zeros(1), table]).double()
    where = torch.searchsorted(known, sigmas.double().contiguous()).clamp(1, len(table))
    low, high = known[where - 1], known[where]
    return where - 1 + ((sigmas.double() - low) / (high - low).clamp(min=1e-12)).clamp(0, 1)


def levels_at(table: Tensor, places: Tensor) -> Tensor:
    """Return the levels at `places` (see :func:`positions`), in float32."""
    known = torch.cat([table.new_zeros(1), table]).double()
    below = places.floor().long().clamp(0, len(table) - 1)
    return torch.lerp(known[below], known[below + 1], places - below).float()


def subdivide(levels: Tensor, table: Tensor, parts: int) -> Tensor:
    """Return `levels` (N + 1,), descending to 0, with `parts` - 1 more between every two, evenly spaced in the model's timesteps.

    Dividing by 2 twice gives the levels of dividing by 4 once: the rounds of a progressive distillation share their levels.
    """
    if len(levels) < 2 or bool((levels.diff() >= 0).any()) or levels[-1] != 0:
        raise InputError(f"noise levels {[round(level, 4) for level in levels.tolist()][:8]}: they must descend to 0 in at least one step")
    if parts == 1:
        return levels.float().clone()
    places = positions(table, levels)
    share = torch.arange(parts, dtype=places.dtype) / parts
    between = (places[:-1, None] + (places[1:] - places[:-1])[:, None] * share).flatten()
    found = torch.cat([levels_at(table, between), levels.new_zeros(1).float()])
    found[:-1:parts] = levels[:-1].float()  # the student's own levels to the last digit
    return found
