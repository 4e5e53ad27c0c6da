"""Taking the time of work that a GPU may do later: its calls return before it has done what they ask."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any


def wait(device: Any = None) -> None:
    """Let a GPU finish what it was asked: `device`'s, or the current one where there is any. On a CPU there is nothing to wait for."""
    import torch

    if torch.cuda.is_available() if device is None else device.type == "cuda":
        torch.cuda.synchronize(device)


def timed(run: Callable[[], Any], device: Any = None, clock: Callable[[], float] | None = None) -> tuple[Any, float]:
    """(what `run()` returned, the seconds that it took on `device`, or on whichever computes), by `clock` or by the wall's."""
    clock = clock or time.perf_counter
    wait(device)
    started = clock()
    out = run()
    wait(device)
    return out, clock() - started
