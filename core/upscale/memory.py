"""What fits into memory: how large a tile to begin with, and whether an error means that there was too little."""

from __future__ import annotations

import torch


def out_of_memory(error: BaseException) -> bool:
    """Whether `error` means that memory ran out: torch's own error on a GPU, the allocator's RuntimeError on a CPU."""
    text = str(error).lower()
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or "out of memory" in text or "can't allocate memory" in text
