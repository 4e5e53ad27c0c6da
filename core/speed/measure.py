"""Measurements: which of several ways is fastest, and whether their results agree."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import torch

from ..device import timed

GAIN = 0.97
"""A way counts as faster where it takes less than this share of the other's time. A smaller gain may be noise of the clock."""
ROUNDING = {torch.float16: 2e-3, torch.bfloat16: 1e-2}
"""The largest :func:`difference` of two computations of a block that rounding can explain, by the dtype of the result; 1e-4 for others."""
_REPEATS = 3
K = TypeVar("K")


def best_seconds(ways: Mapping[K, Callable[[], Any]], repeats: int = _REPEATS) -> dict[K, float]:
    """Return the shortest of `repeats` runs of each way, in seconds, after one run that does not count. The ways take turns, so that a
    disturbance affects all of them.

    On a CPU the processor's time is measured, which other programs lengthen less than the wall clock's.
    """
    clock = time.perf_counter if torch.cuda.is_available() else time.process_time
    for way in ways.values():
        way()
    best = dict.fromkeys(ways, float("inf"))
    for _ in range(repeats):
        for name, way in ways.items():
            best[name] = min(best[name], timed(way, clock=clock)[1])
    return best


def difference(a: Any, b: Any) -> float:
    """Return the size of `a - b` relative to that of `b` (Euclidean norms over all elements); for tuples the largest of their members'.
    Infinite where `a` is not finite or has another shape."""
    if isinstance(a, tuple) and isinstance(b, tuple) and len(a) == len(b):
        return max((difference(one, other) for one, other in zip(a, b, strict=True)), default=0.0)
    if not isinstance(a, torch.Tensor) or not isinstance(b, torch.Tensor) or a.shape != b.shape or not bool(torch.isfinite(a).all()):
        return float("inf")
    return float((a.float() - b.float()).norm() / b.float().norm().clamp(min=1e-12))


def rounding(value: Any) -> float:
    """Return the :data:`ROUNDING` of a tensor, or of the first one of a tuple."""
    first = value[0] if isinstance(value, tuple) and value else value
    return ROUNDING.get(first.dtype, 1e-4) if isinstance(first, torch.Tensor) else 1e-4
