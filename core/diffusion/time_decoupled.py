"""Time-decoupled sampling (PanGu-Draw, section 4.1): a structure model for noisy states, a texture model for the others.

The noise level of a state decides which model is evaluated, never the number of the step. So samplers with several evaluations in a step,
and batches of several levels, get the right model each time. The published code looks at the step before instead, and evaluates its
structure model once below the range it was trained on; this is not done here.

The switch is a *timestep* of the structure model's schedule (500 of 1000 in section 5.3). The structure model acts at the switch itself.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ..errors import InputError
from .noise import ROUNDING, NoiseLevel

T_STRUCT = 500
"""The paper's switch, for 1000 timesteps."""
HISTORIES = ("keep", "reset")

Evaluation = Callable[[Tensor, Tensor, Tensor | None], Tensor]
"""`evaluation(x, sigma, rows)` gives `denoised` of `x` (b, ...) at `sigma` (b,). `rows` (b,) are the places in the batch; None: all."""


def switch_sigma(model_sampling: Any, timestep: int) -> float:
    """Return the lowest noise level of the structure model: sigma(timestep) on `model_sampling`, its own schedule.

    Timestep 0 gives 0 (the structure model draws everything). The number of timesteps or more gives infinity (the texture model does).
    Raises :class:`InputError` for a timestep outside 0..1000, or a schedule that does not know timesteps.
    """
    return NoiseLevel(timestep).on(model_sampling)


def is_structure(sigma: Tensor, switch: float) -> Tensor:
    """Return whether the structure model acts at each noise level of `sigma` (any shape): sigma >= switch, up to rounding."""
    return sigma >= switch * (1 - ROUNDING)


def stage_of(sigma: Tensor, switches: Sequence[float]) -> Tensor:
    """Return the number of the stage that acts at each noise level of `sigma` (any shape).

    `switches` are the lowest levels of the stages, the noisiest stage first, without the last stage's."""
    below = [~is_structure(sigma, switch) for switch in switches]
    return torch.stack(below).sum(dim=0)


def check_order(switches: Sequence[float]) -> tuple[float, ...]:
    """Return `switches`, the lowest levels of stages one after the other. Raises :class:`InputError` where one is above the one before."""
    for stage, (one, other) in enumerate(zip(switches, switches[1:], strict=False), start=1):
        if other > one * (1 + ROUNDING):
            raise InputError(
                f"stage {stage} draws down to noise level {one:.4g}, but stage {stage + 1}, which follows it, only down to {other:.4g}: "
                "give each switch a lower noise level than the one before it"
            )
    return tuple(switches)


def on_own_sigmas(sigmas: Tensor, switches: Sequence[float], own: Sequence[Tensor | None]) -> Tensor:
    """Return the noise levels `sigmas` (N+1,) of a run, where stages go on along levels of their own.

    `own` are the levels of each stage but the first, or None. From its hand-over a stage visits those of its own levels that lie between
    the level of the hand-over and the run's last level, which is kept. Raises :class:`InputError` for levels that do not descend.
    """
    for stage, levels in enumerate(own, start=1):
        if levels is None or len(sigmas) == 0:
            continue
        if levels.ndim != 1 or not bool(levels.isfinite().all()) or bool((levels.diff() > 0).any()):
            raise InputError("the texture model's own sigmas must descend from noise to picture; take them from a scheduler node")
        high, low = split_at(sigmas, switches[stage - 1])
        if len(low) < 2:
            continue  # the stage has no step
        inside = levels.to(sigmas)[(levels.to(sigmas) < low[0]) & (levels.to(sigmas) > low[-1])]
        sigmas = torch.cat([high, inside, low[-1:]])
    return sigmas


def share_of_steps(sigmas: Tensor, switches: Sequence[float]) -> str:
    """Return which steps of a run along `sigmas` (N+1,) each stage draws, as one line for the log."""
    acting = stage_of(sigmas[:-1], switches).tolist()
    parts = []
    for stage in range(len(switches) + 1):
        steps = [i for i, one in enumerate(acting) if one == stage]
        if steps:
            ends = f"sigma {float(sigmas[steps[0]]):.4g} to {float(sigmas[steps[-1] + 1]):.4g}"
            which = f"steps {steps[0] + 1} to {steps[-1] + 1}" if len(steps) > 1 else f"step {steps[0] + 1}"
            parts.append(f"stage {stage + 1} draws {which} of {len(acting)} ({ends})")
        else:
            parts.append(f"stage {stage + 1} draws no step")
    return "; ".join(parts)


def by_sigma(x: Tensor, sigma: Tensor, switches: Sequence[float], stages: Sequence[Evaluation]) -> Tensor:
    """Return `denoised` of `x` (B, ...) at `sigma` (B,), each sample by the stage of its own level (see :func:`stage_of`).

    One call where all samples belong to one stage. Else one call for each stage that has samples, with those samples only.
    """
    acting = stage_of(sigma, switches)
    present = [int(stage) for stage in acting.unique()]
    if len(present) == 1:
        return stages[present[0]](x, sigma, None)
    rows = [(acting == stage).nonzero().flatten() for stage in present]
    parts = torch.cat([stages[stage](x[places], sigma[places], places) for stage, places in zip(present, rows, strict=True)])
    out = torch.empty_like(parts)
    out[torch.cat(rows)] = parts
    return out


def take_rows(value: Any, rows: Tensor, batch: int) -> Any:
    """Return `value` with the samples `rows` of a batch only: tensors of `batch` entries are cut, also inside lists, tuples and dicts.

    For a batch that holds several prompts one after another, the caller gives the rows of each prompt in `rows`.
    """
    if isinstance(value, Tensor):
        return value[rows.to(value.device)] if value.ndim and value.shape[0] == batch else value
    if isinstance(value, Mapping):
        return {key: take_rows(part, rows, batch) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(take_rows(part, rows, batch) for part in value)
    return value


def repeat_rows(value: Tensor, rows: Tensor) -> Tensor:
    """Return the entries of `value` (n, ...) for the samples `rows`, where the n entries are repeated over a larger batch."""
    return value if value.shape[0] == 1 else value[rows.to(value.device) % value.shape[0]]


def split_at(sigmas: Tensor, switch: float) -> tuple[Tensor, Tensor]:
    """Return (high, low), `sigmas` (N+1,) cut at the first level k below the switch: `sigmas[:k+1]` and `sigmas[k:]`.

    Both parts hold the level at the cut, and no level is added: together they are the given sampling run. Either may have no step (one
    entry or none). Raises :class:`InputError` for what is not a list of noise levels.
    """
    if sigmas.ndim != 1 or not bool(sigmas.isfinite().all()):
        raise InputError(f"sigmas must be a list of finite noise levels, (N+1,); a tensor of shape {tuple(sigmas.shape)} was given")
    below = (~is_structure(sigmas, switch)).nonzero().flatten()
    cut = int(below[0]) if len(below) else len(sigmas)
    return sigmas[: cut + 1], sigmas[cut:]


def split_sigmas_at_timestep(sigmas: Tensor, model_sampling: Any, timestep: int) -> tuple[Tensor, Tensor]:
    """Return :func:`split_at` for the noise level of `timestep` on `model_sampling`."""
    return split_sigmas(sigmas, model_sampling, timestep)


def split_sigmas(sigmas: Tensor, model_sampling: Any, level: int | NoiseLevel) -> tuple[Tensor, Tensor]:
    """Return :func:`split_at` for a timestep or another noise level on `model_sampling`, in a run along `sigmas`."""
    return split_at(sigmas, (level if isinstance(level, NoiseLevel) else NoiseLevel(level)).on(model_sampling, sigmas))


def check_history(history: str) -> str:
    """Return `history`, which is `keep` or `reset`. Raises :class:`InputError` for anything else."""
    if history not in HISTORIES:
        raise InputError(f"history must be one of {', '.join(HISTORIES)}; {history!r} was given")
    return history


def starting_afresh(sampler: Callable[..., Tensor], switch: float) -> Callable[..., Tensor]:
    """Return a sampler that runs `sampler` (of k-diffusion's signature) twice, above and below the switch, without a shared history.

    The cut is at a level of the grid, and the state is handed over unchanged. A sampler that draws noise draws other noise in the second
    part.
    """

    def sample(model: Any, x: Tensor, sigmas: Tensor, extra_args: Any = None, callback: Any = None, **more: Any) -> Tensor:
        high, low = split_at(sigmas, switch)
        done = len(high) - 1 if len(low) else 0
        if len(high) > 1:
            x = sampler(model, x, high, extra_args=extra_args, callback=callback, **more)
        if len(low) < 2:
            return x
        if done and (extra_args or {}).get("seed") is not None:
            extra_args = {**extra_args, "seed": (extra_args["seed"] + 1) % 2**64}
        report = None if callback is None else lambda state: callback({**state, "i": state["i"] + done})
        return sampler(model, x, low, extra_args=extra_args, callback=report, **more)

    return sample
