"""Checks of numbers that come from a graph, the API or a command line.

A widget's limits hold in the editor only: a graph posted to the API can hold any value, so each function checks its own numbers.
"""

from __future__ import annotations

import math
from numbers import Integral, Real
from typing import Any

from .errors import InputError


def whole_number(name: str, value: Any, low: int, high: int) -> int:
    """Return `value` as an int of [low, high]. Raise :class:`InputError` for anything else, 2.0 and True included."""
    if isinstance(value, bool) or not isinstance(value, Integral) or not low <= int(value) <= high:
        raise InputError(f"{name} must be a whole number from {low} to {high}, {value!r} was given")
    return int(value)


def real_number(name: str, value: Any, low: float, high: float, above: bool = False) -> float:
    """Return `value` as a float of [low, high], or of (low, high] with `above`. Raise :class:`InputError` for anything else."""
    good = isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)
    if not good or not low <= value <= high or (above and value == low):
        raise InputError(f"{name} must be a number {'above' if above else 'from'} {low:g} up to {high:g}, {value!r} was given")
    return float(value)
