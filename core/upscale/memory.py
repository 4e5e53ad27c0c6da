"""What fits into memory: how large a tile to begin with, and whether an error means that there was too little."""

from __future__ import annotations

import math
from pathlib import Path

import torch

BYTES_A_PIXEL = 4608
"""Working memory for each input pixel and each step of scale, in float32: what ComfyUI's own node reckons with."""
MAX_BATCH = 16
_SHARE = 0.7  # of what is free; the rest is for the result and for others


def out_of_memory(error: BaseException) -> bool:
    """Whether `error` means that memory ran out: torch's own error on a GPU, the allocator's RuntimeError on a CPU."""
    text = str(error).lower()
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or "out of memory" in text or "can't allocate memory" in text


def free_memory(device: torch.device) -> int | None:
    """Bytes that are free on `device`, or None where nobody tells."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    if device.type != "cpu":
        return None
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))
    except (OSError, ValueError, StopIteration):
        return None


def first_tile(tile: int, scale: int, device: torch.device, least: int = 32) -> int:
    """The largest side up to `tile`, but at least `least`, whose tile fits into free memory by ComfyUI's estimate (multiples of 8)."""
    free = free_memory(device)
    if free is None:
        return tile
    side = math.isqrt(int(free * _SHARE) // (BYTES_A_PIXEL * max(scale, 1))) // 8 * 8
    return min(tile, max(side, least))


def first_batch(height: int, width: int, scale: int, device: torch.device) -> int:
    """How many tiles to compute at once: as many as fit on a GPU, one on a CPU, where a batch is no faster than its tiles in turn."""
    free = free_memory(device) if device.type == "cuda" else None
    if free is None:
        return 1
    return min(MAX_BATCH, max(1, int(free * _SHARE) // (height * width * BYTES_A_PIXEL * max(scale, 1))))
