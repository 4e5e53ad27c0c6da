"""DPM-Solver++ of orders 1 to 3, single-step and multistep (Lu et al. 2022, arXiv:2206.00927 and arXiv:2211.01095).

The linear part of the equation is integrated exactly. Only `denoised` is approximated, by a polynomial in lambda = -log sigma through the
last evaluations. The equation is the same in a flow model's sigma, so the methods serve flow models too. Every method here takes one
evaluation for each step of the grid.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from ...checks import whole_number
from ...errors import InputError
from .common import BoundModel, Callback, Model, check_sigmas, report, warn_once
from .dpmpp import sample_dpmpp_2m

METHODS = ("singlestep", "multistep")
FEW_STEPS = 15  # with fewer, the authors' code lowers the order of the last multistep steps


@torch.no_grad()
def sample_dpm_solver(
    model: Model,
    x: Tensor,
    sigmas: Tensor,
    extra_args: dict[str, Any] | None = None,
    callback: Callback | None = None,
    disable: bool | None = None,
    order: int = 2,
    method: str = "singlestep",
) -> Tensor:
    """Sample by DPM-Solver++ in data prediction. One evaluation for each step.

    - `singlestep`: `order` neighbouring steps form one solver step, whose inner levels are the grid's own (the authors' "fast" grouping,
      diffusers' DPMSolverSinglestep). Groups share no evaluations. The steps that are left over make a group of lower order.
    - `multistep`: the last `order` evaluations are extrapolated; the first steps, and with fewer than 15 the last ones, are of lower order.
      Order 2 is :func:`~.dpmpp.sample_dpmpp_2m`. With many steps the error of order 3 shrinks like that of order 2, because its first step
      is of order 1 as in the authors' code, but the error is smaller.
    - `order` 1, 2 or 3; 1 is DDIM either way. A step to sigma 0 is always of order 1.

    The orders hold on any descending grid, but high orders pay only where the steps in log sigma are of similar size (exponential, karras;
    also simple, whose one long step goes to 0). On other grids a warning says so once. Raises :class:`InputError` for an unknown order or
    method.
    """
    check_sigmas(sigmas)
    order = whole_number("order", order, 1, 3)
    if method not in METHODS:
        raise InputError(f"unknown method {method!r}: it is singlestep or multistep")
    if order > 1:
        warn_if_uneven(sigmas)
    if method == "multistep" and order == 2:
        return sample_dpmpp_2m(model, x, sigmas, extra_args, callback, disable)
    run = _singlestep if method == "singlestep" else _multistep
    return run(BoundModel(model, extra_args), x, sigmas, callback, order)


def warn_if_uneven(sigmas: Tensor) -> None:
    """Warn once where a step is larger than 1 in log sigma and than three times the median step. A last step to 0 does not count."""
    steps = -sigmas[sigmas > 0].double().log().diff()
    if len(steps) > 1 and float(steps.max()) > max(1.0, 3 * float(steps.median())):
        warn_once(
            f"DPM-Solver++ works in log sigma, and one of these steps is {float(steps.max()):.1f} long there, where a usual one is "
            f"{float(steps.median()):.1f}: a high order does not help in the long one. Use the scheduler karras, exponential or simple."
        )


def _singlestep(denoise: BoundModel, x: Tensor, sigmas: Tensor, callback: Callback | None, order: int) -> Tensor:
    for start, size in _groups(sigmas, order):
        here, known = x, []
        for i in range(start, start + size):
            known.append(denoise(x, sigmas[i]))
            report(callback, i, x, sigmas[i], known[-1])
            x = _from_start(here, sigmas[start : i + 2], known)
    return x


def _groups(sigmas: Tensor, order: int) -> Iterator[tuple[int, int]]:
    """Yield (first step, number of steps) of each solver step. A step to 0, or one that stays at its level, stands alone."""
    levels = sigmas.tolist()
    alone = [level_next in (0, level) for level, level_next in zip(levels, levels[1:], strict=False)]
    start = 0
    while start < len(alone):
        size = 1
        while not alone[start] and size < order and start + size < len(alone) and not alone[start + size]:
            size += 1
        yield start, size
        start += size


def _from_start(x: Tensor, levels: Tensor, known: list[Tensor]) -> Tensor:
    """Return the state at `levels[-1]` from `x` at `levels[0]`, where `known[k]` is `denoised` at `levels[k]`. The order is
    len(known), 1 to 3."""
    sigma, sigma_next = levels[0], levels[-1]
    h = (sigma / sigma_next).log()
    out = (sigma_next / sigma) * x - torch.expm1(-h) * known[0]
    if len(known) == 1:
        return out
    first_difference = (known[-1] - known[0]) * (h / (sigma / levels[-2]).log())
    if len(known) == 2:
        return out - torch.expm1(-h) / 2 * first_difference
    return out + (torch.expm1(-h) / h + 1) * first_difference


def _multistep(denoise: BoundModel, x: Tensor, sigmas: Tensor, callback: Callback | None, order: int) -> Tensor:
    steps = len(sigmas) - 1
    known: list[tuple[Tensor, Tensor]] = []  # (-log sigma, denoised) of the latest steps, newest first, no level twice
    for i in range(steps):
        sigma, sigma_next, denoised = denoise.step(x, sigmas, i, callback)
        if sigma_next == 0:
            return denoised
        if sigma_next == sigma:
            continue
        known = [(-sigma.log(), denoised), *known[: order - 1]]
        now = min(len(known), steps - i if steps < FEW_STEPS else order)
        x = _from_history(x, sigma, sigma_next, known[:now])
    return x


def _from_history(x: Tensor, sigma: Tensor, sigma_next: Tensor, known: list[tuple[Tensor, Tensor]]) -> Tensor:
    h, (now, denoised) = (sigma / sigma_next).log(), known[0]
    gain = torch.expm1(-h)
    out = (sigma_next / sigma) * x - gain * denoised
    if len(known) == 1:
        return out
    (before, last) = known[1]
    first = (denoised - last) * (h / (now - before))
    if len(known) == 2:
        return out - gain / 2 * first
    (long_before, oldest) = known[2]
    ratio, ratio_before = (now - before) / h, (before - long_before) / h
    earlier = (last - oldest) / ratio_before
    curve = (first - earlier) / (ratio + ratio_before)
    return out + (gain / h + 1) * (first + ratio * curve) - ((gain + h) / h**2 - 0.5) * curve
