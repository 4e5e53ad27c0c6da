"""Batches of several noise levels in one call of the model, for samplers that evaluate several steps at once.

Hosts accept one sigma for each sample, but some additions to a model look at the first sample's sigma only: prompts and ControlNets with a
start and an end, masks that change with sigma, hooks. States on different sides of such a switch therefore go into different calls.

The calls of a batch are shared out over several devices where a host keeps the model on them, and over the processes of a run where every
process computes the same (:func:`share_among_processes`).
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from einops import rearrange, repeat
from torch import Tensor

from .common import BoundModel, Model

# Keys of a prepared conditioning that hold the sigma where it starts or ends: ComfyUI's, then the embedded host's.
_SWITCH_KEYS = ("timestep_start", "timestep_end", "start_percent", "end_percent")

Shares = Callable[[Any, dict[str, Any]], list[dict[str, Any]]]
"""`shares(model, extra_args)` is the model's further arguments once for each device that can answer a call: those of one device alone."""

_processes = (0, 1)
"""Index of this process and number of processes that share each batch."""


def share_among_processes(index: int, count: int) -> None:
    """Share each batch out over the `count` processes of torch.distributed's default group from now on; this one is number `index`.

    Every process must run the same samplers in the same order.
    """
    global _processes  # noqa: PLW0603 - as torch.distributed's default group, it belongs to the process
    _processes = (index, count)


def from_first_process(x: Tensor) -> Tensor:
    """Return `x` of the first process, so that processes that share their batches start from the same bits."""
    if _processes[1] > 1:
        x = x.clone()
        torch.distributed.broadcast(x, 0)
    return x


class LevelBatch:
    """`batch(states, levels)` is `denoised` (P, B, ...) of `states` (P, B, ...), state p being at noise level `levels[p]`, (P,).

    The states of a call lie one after another: hosts repeat conditionings, hints and masks of B samples in turn, so that each sample gets
    its own. `limit` is the most states in a call, 0 for no limit. `replicas` are further models that answer like `model`, and `shares` the
    devices that hold `model` itself; the calls are shared out among all of them and run at the same time.
    """

    def __init__(
        self, model: Model, extra_args: dict[str, Any] | None, limit: int = 0, replicas: Sequence[Model] = (), shares: Shares | None = None
    ) -> None:
        self.extra_args = extra_args or {}
        own = shares(model, self.extra_args) if shares else [self.extra_args]
        self.workers = [(model, args) for args in own] + [(replica, self.extra_args) for replica in replicas]
        self.index, self.count = _processes
        self.limit = 1 if needs_one_level(model, self.extra_args) else limit
        self.switches = switches(model)
        self.calls = 0

    def __call__(self, states: Tensor, levels: Tensor) -> Tensor:
        parts = list(self._parts(levels))
        self.calls += len(parts)
        out = torch.zeros_like(states)
        mine = parts[self.index :: self.count]
        jobs = [(*worker, mine[k :: len(self.workers)]) for k, worker in enumerate(self.workers)]
        if len(jobs) == 1:
            self._ask(*jobs[0], states, levels, out)
        else:
            with ThreadPoolExecutor(len(jobs)) as pool:
                for job in [pool.submit(self._ask, *job, states, levels, out) for job in jobs]:
                    job.result()
        if self.count > 1:
            torch.distributed.all_reduce(out)  # a sum with zeros: each state was computed by one process
        return out

    def _parts(self, levels: Tensor) -> Iterator[slice]:
        """Yield the states of each call: neighbours with no switch between them, no more than allowed."""
        size = self.limit or len(levels)
        size = min(size, -(-len(levels) // (len(self.workers) * self.count)))
        sides = [tuple((level > switch) - (level < switch) for switch in self.switches) for level in levels.tolist()]
        start = 0
        for end in range(1, len(sides) + 1):
            if end == len(sides) or sides[end] != sides[start] or end - start == size:
                yield slice(start, end)
                start = end

    @torch.no_grad()
    def _ask(self, model: Model, extra_args: dict[str, Any], parts: list[slice], states: Tensor, levels: Tensor, out: Tensor) -> None:
        for part in parts:
            some, batch = states[part], states.shape[1]
            bound = BoundModel(*_repeated(model, extra_args, len(some)))
            denoised = bound(rearrange(some, "p b ... -> (p b) ..."), repeat(levels[part], "p -> (p b)", b=batch))
            out[part] = rearrange(denoised.to(out), "(p b) ... -> p b ...", b=batch)


def needs_one_level(model: Any, extra_args: dict[str, Any]) -> bool:
    """Return whether something uses the first sample's sigma for all samples, so that each call must hold one level only."""
    if "denoise_mask_function" in (extra_args.get("model_options") or {}):
        return True
    if any(entry.get("hooks") is not None for entry in _entries(model)):
        return True
    masked = extra_args.get("denoise_mask") is not None
    return masked and not (hasattr(model, "noise") and hasattr(model, "latent_image"))


def switches(model: Any) -> list[float]:
    """Return the noise levels at which a conditioning or a ControlNet of the guider behind `model` starts or ends."""
    found: set[float] = set()
    for entry in _entries(model):
        found.update(float(entry[key]) for key in _SWITCH_KEYS if entry.get(key) is not None)
        control = entry.get("control")
        while control is not None:
            found.update(float(level) for level in getattr(control, "timestep_range", None) or ())
            control = getattr(control, "previous_controlnet", None)
    return sorted(found)


def _entries(model: Any) -> list[dict[str, Any]]:
    conds = getattr(getattr(model, "inner_model", None), "conds", None)
    lists = conds.values() if isinstance(conds, dict) else ()
    return [entry for entries in lists for entry in entries or () if isinstance(entry, dict)]


def _repeated(model: Any, extra_args: dict[str, Any], times: int) -> tuple[Any, dict[str, Any]]:
    """Return `model` and its arguments for `times` states of a masked picture. The wrapper of both hosts holds the batch's noise and
    picture."""
    mask = extra_args.get("denoise_mask")
    if mask is None or times == 1:
        return model, extra_args
    model = copy.copy(model)
    model.noise, model.latent_image = (_tile(tensor, times) for tensor in (model.noise, model.latent_image))
    return model, {**extra_args, "denoise_mask": _tile(mask, times)}


def _tile(tensor: Tensor, times: int) -> Tensor:
    return repeat(tensor, "b ... -> (times b) ...", times=times)
