"""Which of several ways is fastest, and whether they agree."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import torch

from ..device import timed

GAIN = 0.97
"""A way counts as faster where it takes less than this share of the other's time: below that it is the clock's noise."""
ROUNDING = {torch.float16: 2e-3, torch.bfloat16: 1e-2}
"""How far rounding alone may set two computations of a block apart, by the dtype of the result (:func:`difference`); 1e-4 for any other."""
_REPEATS = 3
K = TypeVar("K")


def best_seconds(ways: Mapping[K, Callable[[], Any]], repeats: int = _REPEATS) -> dict[K, float]:
    """The shortest of `repeats` runs of each way, after one that does not count; they take turns, so that a disturbance hits all.

    On a CPU it is the processor's time, which other programs do not lengthen as they do the wall clock's.
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
    """Size of `a - b` relative to `b`'s (Euclidean norms over all elements); infinite where `a` is not finite or of another shape.
    Of tuples, the largest of their members."""
    if isinstance(a, tuple) and isinstance(b, tuple) and len(a) == len(b):
        return max((difference(one, other) for one, other in zip(a, b, strict=True)), default=0.0)
    if not isinstance(a, torch.Tensor) or not isinstance(b, torch.Tensor) or a.shape != b.shape or not bool(torch.isfinite(a).all()):
        return float("inf")
    return float((a.float() - b.float()).norm() / b.float().norm().clamp(min=1e-12))


def rounding(value: Any) -> float:
    """The :data:`ROUNDING` of a tensor, or of the first of a tuple."""
    first = value[0] if isinstance(value, tuple) and value else value
    return ROUNDING.get(first.dtype, 1e-4) if isinstance(first, torch.Tensor) else 1e-4
