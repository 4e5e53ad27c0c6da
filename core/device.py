"""Questions to a device: the end of its work, the time it took, its free memory, and whether memory ran out."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


def wait(device: Any = None) -> None:
    """Wait until a GPU has finished its work: `device`, or the current one. On a CPU this returns at once."""
    import torch

    if torch.cuda.is_available() if device is None else device.type == "cuda":
        torch.cuda.synchronize(device)


def timed(run: Callable[[], Any], device: Any = None, clock: Callable[[], float] | None = None) -> tuple[Any, float]:
    """Return (the result of `run()`, its seconds on `device` or on the device that computes), by `clock` or the wall clock."""
    clock = clock or time.perf_counter
    wait(device)
    started = clock()
    out = run()
    wait(device)
    return out, clock() - started


def out_of_memory(error: BaseException) -> bool:
    """Return whether `error` means that memory ran out: torch's own error on a GPU, the allocator's RuntimeError on a CPU."""
    import torch

    text = str(error).lower()
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or "out of memory" in text or "can't allocate memory" in text


def free_memory(device: torch.device) -> int | None:
    """Return the free bytes on `device`, or None where they are not known."""
    import torch

    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    if device.type != "cpu":
        return None
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))
    except (OSError, ValueError, StopIteration):
        return None
