"""Choice of the fastest kernel: the candidates for a call are run against each other once, and the result is remembered.

In Rapid Diffusion, section 3.2.2, the compiler finds "the optimal implementation"; here it is measured. The default is always a candidate
and is kept unless another is clearly faster, so that choosing never makes a model slower.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Mapping
from typing import Any

import torch
from torch import Tensor

from ..device import timed
from .call import Call
from .memory import Memory, Times, machine_name

DEFAULT = "default"
"""The name of the host's own attention, which runs without a patch."""
CLEARLY = 0.97  # a candidate must take less than this part of the default's time
HOPELESS = 3.0  # one whose first run took this many times the best is not run again
RUNS, LONG = 3, 0.5  # runs of each candidate, unless one run of each takes longer than this in all (seconds)
MANY, BRIEF = 15, 0.15  # and up to so many while all runs took less than this in all: short calls vary most
SHORT = 0.05  # a first run below this is not judged: it may include the start of a library
_TOLERANCE = {torch.float16: 2e-2, torch.bfloat16: 8e-2}  # largest difference from the default, relative to its largest value
log = logging.getLogger("rapiddraw")
Rivals = Mapping[str, Callable[[], Tensor]]


class Selector:
    """Measures candidates and remembers. One serves all models of a process."""

    def __init__(self, memory: Memory | None = None) -> None:
        self.memory = memory or Memory()
        self._known: dict[tuple[str, str, int], Times] = {}

    def times(self, call: Call, default: str, rivals: Rivals, inexact: Collection[str] = ()) -> tuple[Times, Tensor | None]:
        """Return (the seconds of each rival, the default's output where it was computed now). `rivals[DEFAULT]` is the function `default`.

        A rival has no time where it raises, or where it differs from the default by more than rounding can explain (those in `inexact`
        may). Where the default's output is not finite nothing can be compared: no rival has a time, and nothing is remembered.
        """
        here = (bucket(call), default, torch.get_num_threads())
        known = self._known.get(here)
        if known is not None and rivals.keys() <= known.keys():
            return known, None
        machine, key = machine_name(call.device), f"{here[0]} {default}"
        known = self.memory.get(machine, key)
        out = None
        if not rivals.keys() <= known.keys():
            times, out, lasting = measure(rivals, call.device, inexact)
            if lasting == "nowhere":
                return times, out
            known = {**known, **times}
            if lasting == "disk":
                self.memory.put(machine, key, known)
        self._known[here] = known
        return known, out


def fastest(times: Times, names: Collection[str]) -> str:
    """Return the fastest of `names` that has a time. Where the default is among them, another one must be clearly faster."""
    timed = {name: value for name in names if (value := times.get(name)) is not None}
    best = min(timed, key=lambda name: timed[name], default=DEFAULT)
    return DEFAULT if DEFAULT in timed and timed[best] > CLEARLY * timed[DEFAULT] else best


def bucket(call: Call) -> str:
    """Return the name of a group of similar calls: sizes up to the next power of two, the head size and dtype as they are."""
    sizes = [1 << max(size - 1, 0).bit_length() for size in (call.batch * call.heads, call.queries, call.keys)]
    dtype = str(call.dtype).removeprefix("torch.")
    return f"{call.device.type} {dtype} bh{sizes[0]} q{sizes[1]} k{sizes[2]} d{call.head_dim}{' masked' if call.masked else ''}"


def measure(rivals: Rivals, device: torch.device, inexact: Collection[str] = ()) -> tuple[Times, Tensor, str]:
    """Return (seconds by rival, the default's output, where to remember this). The seconds are the best of a few interleaved runs. The
    place is `disk`; `process` where a rival ran out of memory, which may not happen again; or `nowhere`."""
    times: Times = dict.fromkeys(rivals)
    reference, first = _timed(rivals[DEFAULT], device)  # the first run of each also warms it up
    if not bool(torch.isfinite(reference).all()):
        return times, reference, "nowhere"
    best, lasting = {DEFAULT: first}, "disk"
    for name, run in rivals.items():
        if name == DEFAULT:
            continue
        try:
            out, seconds = _timed(run, device)
        except torch.OutOfMemoryError:
            lasting = "process"
            continue
        except Exception as error:
            log.debug("attention: %s does not take this call (%s: %s)", name, type(error).__name__, error)
            continue
        if _agrees(out, reference, name in inexact):
            best[name] = seconds
    limit = max(HOPELESS * min(best.values()), SHORT)
    running = [name for name in best if best[name] <= limit or (name == DEFAULT and best[name] < LONG)]
    spent = sum(best[name] for name in running)
    for turn in range(MANY):
        if turn and spent > (LONG if turn < RUNS else BRIEF):
            break
        for name in running:
            _, seconds = _timed(rivals[name], device)
            best[name] = seconds if turn == 0 else min(best[name], seconds)  # the first run was the warm-up
            spent += seconds
    return {**times, **best}, reference, lasting


def _timed(run: Callable[[], Tensor], device: torch.device) -> tuple[Tensor, float]:
    out, seconds = timed(run, device)
    return out, max(seconds, 1e-9)


def _agrees(out: Any, reference: Tensor, inexact: bool) -> bool:
    if out.shape != reference.shape or out.dtype != reference.dtype or not bool(torch.isfinite(out).all()):
        return False
    difference = (out.float() - reference.float()).abs().amax() if out.numel() else torch.zeros(())
    scale = reference.float().abs().amax() if out.numel() else torch.ones(())
    return inexact or bool(difference <= _TOLERANCE.get(out.dtype, 1e-3) * scale + 1e-6)
