"""Sizes of a service: how many replicas a load needs, by simulating its queue.

The queue is the service's own: requests arrive one by one, wait in one line, and go to the first replica that is free. Arrivals are a
Poisson process; the time of one picture follows a gamma distribution (with a coefficient of variation of 1 it is exponential, with 0
constant), or is drawn from measured times. Measured arrivals can stand in for the Poisson process.
"""

from __future__ import annotations

import heapq
import itertools
import math
import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from ..core.checks import real_number, whole_number
from ..core.errors import InputError

TABLE = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1000)
MOST_REPLICAS = 100_000
_WARM = 0.1  # of the requests, which find the queue still empty
_STEPS = 12  # of the bisection for the highest load


@dataclass(frozen=True)
class Load:
    """What comes in. `qps`: requests a second. `latency`: seconds of one picture on one replica. `variation`: standard deviation of that
    over its mean. `measured`: times to draw from instead. `arrivals`: seconds at which requests came; they come like this again and again,
    each time to an empty queue, and `qps` is not used. `requests`: how many are simulated."""

    qps: float
    latency: float
    variation: float = 0.2
    measured: tuple[float, ...] = ()
    arrivals: tuple[float, ...] = ()
    requests: int = 20_000
    seed: int = 0

    def __post_init__(self) -> None:
        real_number("qps", self.qps, 0, 10**7, above=True)
        real_number("latency", self.latency, 0, 10**6, above=True)
        real_number("variation", self.variation, 0, 10)
        whole_number("requests", self.requests, 100, 10**7)

    @property
    def work(self) -> float:
        """Replicas that are busy on average: below this many the queue grows without end."""
        return self.qps * self.latency


@dataclass(frozen=True)
class Waits:
    """Seconds from a request to its picture, at `replicas` replicas, and the share of time that these are busy."""

    replicas: int
    p50: float
    p95: float
    mean: float
    utilisation: float


def rule_of_thumb(load: Load, utilisation: float = 0.8) -> int:
    """Return ceil(QPS x latency / utilisation), the number of replicas to begin with."""
    return math.ceil(load.work / real_number("utilisation", utilisation, 0, 1, above=True) - 1e-9)


def simulate(load: Load, replicas: int) -> Waits:
    """Return the waits of a load."""
    chance, count = random.Random(load.seed), whole_number("replicas", replicas, 1, MOST_REPLICAS)  # noqa: S311 - a simulation
    if load.arrivals:
        runs = [_queued(sorted(load.arrivals), load, count, chance) for _ in range(-(-load.requests // len(load.arrivals)))]
        waits = [wait for found, _ in runs for wait in found]
        return _waits(count, waits, sum(share for _, share in runs) / len(runs))
    arrivals = itertools.accumulate(chance.expovariate(load.qps) for _ in range(load.requests))
    waits, utilisation = _queued(arrivals, load, count, chance)
    return _waits(count, waits[int(len(waits) * _WARM) :], utilisation)


def _queued(arrivals: Iterable[float], load: Load, count: int, chance: random.Random) -> tuple[list[float], float]:
    """Return the wait of each request, and the share of time that the replicas are busy. The heap holds when each replica is free."""
    free, busy, waits = [0.0] * count, 0.0, []
    for now in arrivals:
        begins = max(now, free[0])
        seconds = _service(load, chance)
        heapq.heapreplace(free, begins + seconds)
        busy += seconds
        waits.append(begins + seconds - now)
    return waits, busy / (count * max(free))


def _waits(count: int, waits: list[float], utilisation: float) -> Waits:
    return Waits(count, percentile(waits, 50), percentile(waits, 95), sum(waits) / len(waits), utilisation)


def _service(load: Load, chance: random.Random) -> float:
    if load.measured:
        return chance.choice(load.measured)
    if load.variation == 0:
        return load.latency
    shape = load.variation**-2
    return chance.gammavariate(shape, load.latency / shape)


def needed(load: Load, p95: float) -> Waits:
    """Return the waits at the smallest number of replicas whose 95th percentile is at most `p95` seconds.

    Raises :class:`InputError` where no number can be enough, because one picture alone takes longer.
    """
    alone = simulate(replace(load, qps=0.001 / load.latency), 1)
    if real_number("p95", p95, 0, 10**6, above=True) < alone.p95:
        raise InputError(f"one picture takes {alone.p95:.3g} s at the 95th percentile, so no number of replicas gives {p95:g} s")
    low = max(0, math.floor(load.work))  # too few: the queue grows
    high = low + 1
    while (found := simulate(load, high)).p95 > p95:
        low, high = high, high + max(1, high // 8)
    while high - low > 1:
        middle = (low + high) // 2
        tried = simulate(load, middle)
        low, high, found = (low, middle, tried) if tried.p95 <= p95 else (middle, high, found)
    return found


def carried(load: Load, p95: float, replicas: int) -> tuple[float, Waits] | None:
    """Return the highest QPS that `replicas` carry within `p95` seconds, and its waits; None where not even a low one."""
    most, low, high, found = replicas / load.latency, 0.0, 1.0, None
    for _ in range(_STEPS):
        share = (low + high) / 2
        waits = simulate(replace(load, qps=share * most), replicas)
        if waits.p95 <= p95:
            low, found = share, (share * most, waits)
        else:
            high = share
    return found


def table(load: Load, p95: float, counts: Sequence[int] = TABLE) -> list[dict[str, float]]:
    """Return a row for each number of replicas: the highest QPS within `p95` seconds, and p50, p95 and utilisation there."""
    rows = []
    for count in counts:
        found = carried(load, p95, count)
        if found is not None:
            qps, waits = found
            numbers = {"qps": qps, "p50": waits.p50, "p95": waits.p95, "utilisation": waits.utilisation}
            rows.append({"replicas": count} | {name: float(f"{value:.3g}") for name, value in numbers.items()})
    return rows


def percentile(values: Sequence[float], share: float) -> float:
    """Return a percentile (0..100) of values, the nearest one from below."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share / 100))]
