"""Pseudo numerical methods for diffusion models (Liu, Ren, Lin and Zhao, ICLR 2022, arXiv:2202.09778).

The paper splits a classical method into a *gradient part*, which combines several noise predictions into one e', and a *transfer
part*, formula (9), which carries x from one timestep to the next along e'. In sigma space the transfer is exactly
x + (sigma' - sigma) e', so each method below is a rule for e'.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ...errors import InputError
from ..noise import convention_of
from .common import BoundModel, Callback, Model, check_sigmas, model_sampling_of, slope, warn_once

# Variant -> (number of starting steps, highest Adams-Bashforth order).
VARIANTS = {"plms": (1, 4), "f_pndm": (3, 4), "s_pndm": (1, 2)}
# Adams-Bashforth weights of e_t, e_{t-1}, ... by order. The fourth is the paper's linear multistep method, the second is S-PNDM's.
ADAMS_BASHFORTH = {
    1: (1.0,),
    2: (3 / 2, -1 / 2),
    3: (23 / 12, -16 / 12, 5 / 12),
    4: (55 / 24, -59 / 24, 37 / 24, -9 / 24),
}


def check_variant(variant: str) -> str:
    """Return the variant's name as a key of :data:`VARIANTS`. Raises :class:`InputError` for an unknown one."""
    name = str(variant).lower().replace("-", "_")
    if name not in VARIANTS:
        raise InputError(f"unknown PNDM variant {variant!r}: the known ones are PLMS, F-PNDM and S-PNDM")
    return name


@torch.no_grad()
def sample_pndm(
    model: Model,
    x: Tensor,
    sigmas: Tensor,
    extra_args: dict[str, Any] | None = None,
    callback: Callback | None = None,
    disable: bool | None = None,
    variant: str = "plms",
) -> Tensor:
    """Sample by a linear multistep method with a one-step method to start. `variant` is one of (case does not count, `_` may stand for
    `-`):

    - `F-PNDM`: three pseudo Runge-Kutta steps, then 4th-order Adams-Bashforth; formulas (12), (13), algorithm 2. N + 9 evaluations.
    - `S-PNDM`: one pseudo improved Euler step, then 2nd order. N + 1 evaluations.
    - `PLMS` (as latent diffusion uses it): one improved Euler step, then orders 2, 3 and 4. N + 1 evaluations.

    A starting step that ends at sigma 0 is a plain Euler step (no slope exists there), so that a run of one step takes one evaluation.
    The weights assume steps equal in *timestep* (schedulers simple, normal, ddim_uniform, sgm_uniform). On another grid, such as karras,
    they are only approximate: the sampler runs and warns once. Timesteps come from the model's schedule,
    `model.inner_model.inner_model.model_sampling`. Without a schedule, midpoints lie halfway in log-sigma and the grid is not checked.
    The fourth order is stable only while neighbouring levels are close. Where the data varies little compared with the noise, an error
    grows from step to step once a level is less than 0.73 of the level before. Guidance makes the prediction steeper, and then this starts
    earlier: at a scale of 4, runs of fewer than about 25 steps end far from the right result. The second order (S-PNDM) is stable for
    steps more than twice as long. Raises :class:`InputError` for an unknown variant.
    """
    name = check_variant(variant)
    check_sigmas(sigmas)
    starting_steps, max_order = VARIANTS[name]
    start = _runge_kutta if name == "f_pndm" else _improved_euler
    model_sampling = model_sampling_of(model)
    if len(sigmas) > 2 and not _uniform(model_sampling, sigmas):
        remedy = "use the scheduler simple, normal, ddim_uniform or sgm_uniform"
        if convention_of(model_sampling).flow:
            remedy = "set the model's shift to 1 (ModelSamplingSD3) and use the scheduler simple"
        warn_once(
            "PNDM's weights assume steps of equal size in timestep, which these sigmas are not: they are only approximate here. "
            f"For the published method {remedy}."
        )
    denoise = BoundModel(model, extra_args)
    history: list[Tensor] = []  # the latest slope first
    for i in range(len(sigmas) - 1):
        sigma, sigma_next, denoised = denoise.step(x, sigmas, i, callback)
        d = slope(x, sigma, denoised)
        history = [d, *history[: max_order - 1]]
        if i >= starting_steps:
            weights = ADAMS_BASHFORTH[len(history)]
            d = sum((w * e for w, e in zip(weights[1:], history[1:], strict=True)), weights[0] * d)
        elif sigma_next > 0:
            d = start(denoise, x, d, sigma, sigma_next, model_sampling)
        x = x + d * (sigma_next - sigma)
    return x


def _improved_euler(denoise: BoundModel, x: Tensor, e1: Tensor, sigma: Tensor, sigma_next: Tensor, model_sampling: Any) -> Tensor:
    """The gradient part of the pseudo improved Euler method: the mean of the slopes at both ends (S-PNDM's start)."""
    x_next = x + e1 * (sigma_next - sigma)
    return (e1 + slope(x_next, sigma_next, denoise(x_next, sigma_next))) / 2


def _runge_kutta(denoise: BoundModel, x: Tensor, e1: Tensor, sigma: Tensor, sigma_next: Tensor, model_sampling: Any) -> Tensor:
    """The gradient part of the pseudo Runge-Kutta method: e1 .. e4 weighted 1, 2, 2, 1."""
    middle = _midpoint(model_sampling, sigma, sigma_next)

    def slope_after(d: Tensor, level: Tensor) -> Tensor:
        there = x + d * (level - sigma)
        return slope(there, level, denoise(there, level))

    e2 = slope_after(e1, middle)
    e3 = slope_after(e2, middle)
    e4 = slope_after(e3, sigma_next)
    return (e1 + 2 * e2 + 2 * e3 + e4) / 6


def _midpoint(model_sampling: Any, sigma: Tensor, sigma_next: Tensor) -> Tensor:
    """Return the noise level halfway in *timestep*, at a whole timestep where the schedule is discrete.

    A flow model's timestep is proportional to its sigma; its `sigma(timestep)` would apply the shift once more.
    """
    if model_sampling is None:
        return (sigma * sigma_next).sqrt()
    if convention_of(model_sampling).flow:
        return (sigma + sigma_next) / 2
    time, time_next = model_sampling.timestep(sigma), model_sampling.timestep(sigma_next)
    half = (time - time_next) / 2 if time.is_floating_point() else (time - time_next) // 2
    return model_sampling.sigma(time - half).to(sigma)


def _uniform(model_sampling: Any, sigmas: Tensor) -> bool:
    """Return whether the steps are equal in timestep, up to rounding to whole timesteps. A last step to sigma 0 does not count."""
    if model_sampling is None:
        return True
    times = model_sampling.timestep(sigmas[sigmas > 0])
    rounding = 0 if times.is_floating_point() else 2  # each end of a gap is off by at most half a step, so two gaps by 2
    gaps = (times[:-1] - times[1:]).double()
    return len(gaps) == 0 or bool(gaps.max() - gaps.min() <= rounding + 0.02 * gaps.mean())
