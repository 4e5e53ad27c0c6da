"""What a device is asked: to finish its work, how long that work took, how much memory is free, and whether memory ran out."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


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


def out_of_memory(error: BaseException) -> bool:
    """Whether `error` means that memory ran out: torch's own error on a GPU, the allocator's RuntimeError on a CPU."""
    import torch

    text = str(error).lower()
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or "out of memory" in text or "can't allocate memory" in text


def free_memory(device: torch.device) -> int | None:
    """Bytes that are free on `device`, or None where nobody tells."""
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
