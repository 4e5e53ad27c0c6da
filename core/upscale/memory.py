"""Tile and batch sizes that fit into free memory."""

from __future__ import annotations

import math

import torch

from ..device import free_memory

BYTES_A_PIXEL = 4608
"""Working memory in bytes for each input pixel and each step of scale: 384 for each byte of a float32 RGB pixel, as ComfyUI's own node
estimates."""
MAX_BATCH = 16
_SHARE = 0.7  # of what is free; the rest is for the result and for others


def first_tile(tile: int, scale: int, device: torch.device, least: int = 32) -> int:
    """Return the largest side from `least` to `tile`, a multiple of 8, whose tile fits into free memory by ComfyUI's estimate."""
    free = free_memory(device)
    if free is None:
        return tile
    side = math.isqrt(int(free * _SHARE) // (BYTES_A_PIXEL * max(scale, 1))) // 8 * 8
    return min(tile, max(side, least))


def first_batch(height: int, width: int, scale: int, device: torch.device) -> int:
    """Return how many tiles to compute at once: as many as fit on a GPU, one on a CPU, where a batch is not faster."""
    free = free_memory(device) if device.type == "cuda" else None
    if free is None:
        return 1
    return min(MAX_BATCH, max(1, int(free * _SHARE) // (height * width * BYTES_A_PIXEL * max(scale, 1))))
