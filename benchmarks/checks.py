"""Checks: an expectation, where it comes from, what it rests on, and what was measured, with a 95% interval.

Each benchmark lists its expectations in `expectations(args)`, by a short key, before anything is measured; its `run(args)` judges them:

    wanted = expectations(args)
    checks = [wanted["gain"].judge(difference(with_graph, without))]

A check holds only where the whole interval does. `bench all --dry-run` prints the expectations.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..core.errors import InputError
from ..core.metrics.bootstrap import LEAST_UNITS, Estimate

PAPER, EARLIER, CHOSEN = "paper", "earlier measurement", "chosen before measuring"
"""The origins of an expectation: a value that the paper gives; set after a first measurement was known; set before any."""
Check = dict[str, Any]


@dataclass(frozen=True)
class Bound:
    """The numbers that meet an expectation: from `low` to `high`, these included unless `strict`."""

    low: float = -math.inf
    high: float = math.inf
    strict: bool = False

    def __str__(self) -> str:
        if self.low == self.high:
            return f"{self.low:g}"
        if math.isfinite(self.low) and math.isfinite(self.high):
            return f"{self.low:g} to {self.high:g}"
        words = ("above", "below") if self.strict else ("at least", "at most")
        return f"{words[0]} {self.low:g}" if math.isfinite(self.low) else f"{words[1]} {self.high:g}"

    def holds(self, value: float) -> bool:
        """Return whether `value` meets the expectation. NaN does not."""
        return self.low < value < self.high if self.strict else self.low <= value <= self.high


def at_least(low: float) -> Bound:
    return Bound(low=low)


def at_most(high: float) -> Bound:
    return Bound(high=high)


def above(low: float) -> Bound:
    return Bound(low=low, strict=True)


def below(high: float) -> Bound:
    return Bound(high=high, strict=True)


def between(low: float, high: float) -> Bound:
    return Bound(low, high)


def equal(value: float) -> Bound:
    return Bound(value, value)


@dataclass(frozen=True)
class Basis:
    """What a check rests on: `units` of a kind (pictures, prompts, timed turns ...) and the number of `seeds` of the training or the noise.

    `resampled` says whether the units are drawn again for the interval; else the value is exact: it is counted, or the same in every run.
    """

    units: int
    kind: str = "pictures"
    seeds: int = 1
    resampled: bool = True

    def count(self) -> str:
        """Return the count in words, such as `32 pictures, 1 seed`."""
        kind = self.kind.removesuffix("s") if self.units == 1 else self.kind
        return f"{self.units} {kind}, {self.seeds} seed{'s' if self.seeds != 1 else ''}"

    def interval(self) -> str:
        """Return in words how the interval is made."""
        if not self.resampled:
            return "none: the value is exact"
        if self.units < LEAST_UNITS:
            return f"none: it needs at least {LEAST_UNITS} {self.kind}"
        return f"95%, bootstrap over {self.kind}"


def exact(units: int, kind: str, seeds: int = 1) -> Basis:
    """Return the basis of a value that is counted, or the same in every run."""
    return Basis(units, kind, seeds, resampled=False)


@dataclass(frozen=True)
class Expectation:
    """One claim, the bound that its number is expected to keep, the bound's origin (with its source), and what the number rests on."""

    claim: str
    bound: Bound
    origin: str
    basis: Basis
    source: str = ""

    def __post_init__(self) -> None:
        if self.origin not in (PAPER, EARLIER, CHOSEN):
            raise InputError(f"{self.claim!r} has the origin {self.origin!r}; expected {PAPER!r}, {EARLIER!r} or {CHOSEN!r}")

    def judge(self, found: Estimate | float, claim: str | None = None) -> Check:
        """Return the check: what was `found` beside the expectation, written down whether it holds or not.

        An estimate holds only where both ends of its interval do, and never without an interval. A plain number is an exact value; it is
        refused by :class:`InputError` where an interval was promised. `claim` replaces the words where the result adds a name to them.
        """
        if not isinstance(found, Estimate):
            if self.basis.resampled:
                raise InputError(f"{self.claim!r} promises an interval, and was given the number {found}; give an estimate")
            return self._check(claim, found, None, self.bound.holds(found))
        if found.low is None or found.high is None:
            return self._check(claim, found.value, None, False)
        return self._check(claim, found.value, (found.low, found.high), self.bound.holds(found.low) and self.bound.holds(found.high))

    def _check(self, claim: str | None, value: float, interval: Sequence[float] | None, holds: bool) -> Check:
        return {
            "claim": claim or self.claim,
            "value": _rounded(value),
            "expected": str(self.bound),
            "holds": bool(holds),
            **self.about(),
            "interval": None if interval is None else [_rounded(end) for end in interval],
        }

    def about(self) -> dict[str, str]:
        """Return origin, count and way of the interval in words."""
        origin = f"{self.origin} ({self.source})" if self.source else self.origin
        return {"origin": origin, "count": self.basis.count(), "resampled": self.basis.interval()}


def _rounded(value: float) -> float:
    return float(f"{value:.4g}") if math.isfinite(value) else value


def listing(name: str, wanted: Mapping[str, Expectation]) -> list[str]:
    """Return the lines that `bench all --dry-run` prints for one benchmark."""
    lines = [name]
    for one in wanted.values():
        about = one.about()
        lines.append(f"  {one.claim}: {one.bound}")
        lines.append(f"    origin: {about['origin']}; count: {about['count']}; interval: {about['resampled']}")
    return lines
