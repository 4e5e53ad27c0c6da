"""Bootstrap intervals: how far a measured number moves when its pictures, prompts or timed turns are drawn again.

The percentile method (Efron 1979): the measured units are drawn with replacement, as many as there are, `RESAMPLES` times; the interval
holds the middle 95% of the numbers that these draws give. Two rivals measured on the same units are drawn together, unit by unit.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

from ..errors import InputError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

RESAMPLES = 2000
LEVEL = 0.95
LEAST_UNITS = 6
"""Fewer units give no interval: the range of 5 values holds their median in 94% of all cases at most."""

Array: TypeAlias = "npt.NDArray[np.float64]"
Indices: TypeAlias = "npt.NDArray[np.int64]"


@dataclass(frozen=True)
class Estimate:
    """A measured `value` with the ends of its 95% interval, None where `units` (pictures, turns ...) are too few for one."""

    value: float
    low: float | None
    high: float | None
    units: int


def bootstrap(statistic: Callable[[Indices], float], units: int, resamples: int = RESAMPLES, seed: int = 0) -> Estimate:
    """Return `statistic` of all units with its interval. `statistic` is given the indices (units,) of the units that were drawn.

    The same `seed` gives the same interval. Raises :class:`InputError` without a unit.
    """
    import numpy as np

    if units < 1:
        raise InputError("nothing was measured: an estimate needs at least one picture or turn")
    value = float(statistic(np.arange(units)))
    if units < LEAST_UNITS:
        return Estimate(value, None, None, units)
    rng = np.random.default_rng(seed)
    drawn = np.array([statistic(rng.integers(0, units, units)) for _ in range(resamples)], dtype=np.float64)
    low, high = np.nanquantile(drawn, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Estimate(value, float(low), float(high), units)


def mean(values: Any) -> Estimate:
    """Return the mean of one value a unit. Values that are NaN do not count."""
    import numpy as np

    known = _vector(values)
    known = known[~np.isnan(known)]
    return bootstrap(lambda drawn: float(known[drawn].mean()), len(known))


def difference(values: Any, others: Any) -> Estimate:
    """Return the mean of `values` less that of `others`, both of the same units in the same order."""
    first, second = _pair(values, others)
    return mean(first - second)


def ratio_of_means(values: Any, others: Any) -> Estimate:
    """Return the mean of `values` over that of `others`, both of the same units in the same order. A unit with a NaN does not count."""
    import numpy as np

    first, second = _pair(values, others)
    known = ~(np.isnan(first) | np.isnan(second))
    first, second = first[known], second[known]
    return bootstrap(lambda drawn: float(first[drawn].mean() / second[drawn].mean()), len(first))


def median_ratio(values: Any, others: Any) -> Estimate:
    """Return the median of the units' ratios `values / others`: what fits timings, of which single ones are disturbed."""
    import numpy as np

    first, second = _pair(values, others)
    ratios = first / np.maximum(second, 1e-12)
    return bootstrap(lambda drawn: float(np.median(ratios[drawn])), len(ratios))


def smallest(estimates: Sequence[Estimate]) -> Estimate:
    """Return the smallest value of several estimates, between the smallest low and the smallest high end."""
    return _extreme(estimates, min)


def largest(estimates: Sequence[Estimate]) -> Estimate:
    """Return the largest value of several estimates, between the largest low and the largest high end."""
    return _extreme(estimates, max)


def _extreme(estimates: Sequence[Estimate], of: Callable[..., Any]) -> Estimate:
    if not estimates:
        raise InputError("no estimate was given to choose from")
    lows, highs = [one.low for one in estimates], [one.high for one in estimates]
    known = None not in lows and None not in highs
    value, units = of(one.value for one in estimates), min(one.units for one in estimates)
    return Estimate(value, of(lows) if known else None, of(highs) if known else None, units)


def _vector(values: Any) -> Array:
    import numpy as np

    found = np.asarray(values, dtype=np.float64)
    if found.ndim != 1:
        raise InputError(f"values of shape {found.shape} were given; expected one value a unit, shape (units,)")
    return found


def _pair(values: Any, others: Any) -> tuple[Array, Array]:
    first, second = _vector(values), _vector(others)
    if len(first) != len(second):
        raise InputError(f"{len(first)} and {len(second)} values were given; rivals must be measured on the same units")
    return first, second
