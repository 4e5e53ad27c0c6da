"""The stopwatch every benchmark of speed uses: rivals take turns in one process, so that a disturbed minute disturbs all of them alike.

    times = interleave({"eager": eager, "compiled": compiled}, repeats=5)
    ratio(times["eager"], times["compiled"])        # 1.8: compiled needs 1/1.8 of the time

Each name runs `warmup` times unmeasured first (a first call allocates, compiles, fills caches). The order turns round with every repeat.
With `least` a run is as many calls in a row as take so many seconds, and its time is that of one: single short calls are mostly noise.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..core.device import timed
from ..core.errors import InputError


@dataclass(frozen=True)
class Timing:
    """Seconds of one rival: the median of its runs, the lowest and the highest, and the runs in the order they were made."""

    median: float
    low: float
    high: float
    runs: tuple[float, ...]

    def milliseconds(self) -> str:
        """Median and spread for a table, such as `12.3 (12.1-13.0)`."""
        return f"{self.median * 1000:.1f} ({self.low * 1000:.1f}-{self.high * 1000:.1f})"


def timing(runs: Sequence[float]) -> Timing:
    """The :class:`Timing` of these runs, in seconds and in the order they were made."""
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
    """How many calls take about so many seconds: one at least, and one call tells where one is enough."""
    return max(1, round(seconds / max(timed(function)[1], 1e-6))) if seconds > 0 else 1


def ratio(slow: Timing, fast: Timing) -> float:
    """How many times as long `slow` takes as `fast`: the median of the pairs' ratios where both took turns, else of the medians'."""
    if len(slow.runs) == len(fast.runs):
        return statistics.median(a / max(b, 1e-12) for a, b in zip(slow.runs, fast.runs, strict=True))
    return slow.median / max(fast.median, 1e-12)
