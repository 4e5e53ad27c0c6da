"""Stopwatch of the benchmarks: rivals take turns in one process, so that a disturbed minute disturbs all of them alike.

    times = interleave({"eager": eager, "compiled": compiled}, repeats=5)
    ratio(times["eager"], times["compiled"])        # 1.8 (1.7 to 1.9): compiled needs 1/1.8 of the time

Each rival first runs `warmup` times without being measured, because a first call allocates, compiles and fills caches. The order is
reversed with every repeat. With `least` seconds a run is as many calls in a row as take that long, and its time is one call's, because
single short calls are mostly noise.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..core.device import timed
from ..core.errors import InputError
from ..core.metrics.bootstrap import Estimate, median_ratio
from .checks import Basis


@dataclass(frozen=True)
class Timing:
    """Seconds of one rival: the median of its runs, the lowest, the highest, and all runs in the order they were made."""

    median: float
    low: float
    high: float
    runs: tuple[float, ...]

    def milliseconds(self) -> str:
        """Return median and spread for a table, such as `12.3 (12.1-13.0)`."""
        return f"{self.median * 1000:.1f} ({self.low * 1000:.1f}-{self.high * 1000:.1f})"


def timing(runs: Sequence[float]) -> Timing:
    """Return the :class:`Timing` of `runs`, seconds in the order they were made."""
    return Timing(statistics.median(runs), min(runs), max(runs), tuple(runs))


def interleave(rivals: Mapping[str, Callable[[], Any]], repeats: int = 5, warmup: int = 1, least: float = 0.0) -> dict[str, Timing]:
    """Measure every rival `repeats` times, one run of each after the other. Raises :class:`InputError` for no rival or no repeat."""
    if not rivals or repeats < 1 or warmup < 0:
        raise InputError(f"{len(rivals)} rivals, {repeats} repeats, {warmup} warm-up runs: give at least one rival and one repeat")
    for function in rivals.values():
        for _ in range(warmup):
            function()
    calls = {name: _calls_in(function, least) for name, function in rivals.items()}
    runs: dict[str, list[float]] = {name: [] for name in rivals}
    for turn in range(repeats):
        names = list(rivals)
        for name in names if turn % 2 == 0 else reversed(names):
            runs[name].append(timed(lambda name=name: [rivals[name]() for _ in range(calls[name])][-1])[1] / calls[name])
    return {name: timing(taken) for name, taken in runs.items()}


def _calls_in(function: Callable[[], Any], seconds: float) -> int:
    """Return how many calls take about `seconds`, at least one."""
    return max(1, round(seconds / max(timed(function)[1], 1e-6))) if seconds > 0 else 1


def ratio(slow: Timing, fast: Timing) -> Estimate:
    """Return how many times as long `slow` takes as `fast`: the median of the turns' ratios, with a 95% interval over the turns.

    Raises :class:`InputError` where the two did not take turns.
    """
    if len(slow.runs) != len(fast.runs):
        raise InputError(f"{len(slow.runs)} and {len(fast.runs)} runs: a ratio needs rivals that took turns")
    return median_ratio(slow.runs, fast.runs)


def turns(repeats: int) -> Basis:
    """Return the basis of a check of timings that took `repeats` turns."""
    return Basis(repeats, "timed turns")


def gain_cells(gain: Estimate, name: str = "gain") -> dict[str, Any]:
    """Return a gain and its interval as two cells of a table's row."""
    ends = [] if gain.low is None or gain.high is None else [round(gain.low, 3), round(gain.high, 3)]
    return {name: round(gain.value, 3), f"{name} 95%": ends}
