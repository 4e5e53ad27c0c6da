"""Bootstrap intervals: known cases, pairing, and too few units."""

from __future__ import annotations

import numpy as np
import pytest
from rapiddraw.core.errors import InputError
from rapiddraw.core.metrics.bootstrap import (
    LEAST_UNITS,
    Estimate,
    bootstrap,
    difference,
    largest,
    mean,
    median_ratio,
    ratio_of_means,
    smallest,
)  # fmt: skip


def test_the_interval_of_a_mean_is_that_of_theory() -> None:
    values = np.random.default_rng(1).normal(3, 2, 400)
    found = mean(values)
    assert found.value == pytest.approx(values.mean()) and found.units == 400 and found.low is not None and found.high is not None
    assert found.low == pytest.approx(values.mean() - 1.96 * values.std() / 20, abs=0.03)
    assert found.high == pytest.approx(values.mean() + 1.96 * values.std() / 20, abs=0.03)
    assert mean(values) == found, "the same numbers give the same interval"


def test_rivals_are_compared_unit_by_unit() -> None:
    hard = np.random.default_rng(2).normal(0, 100, 50)  # units differ by far more than rivals do
    found = difference(hard + 1, hard)
    assert found.low == pytest.approx(1) and found.high == pytest.approx(1)
    assert median_ratio([2, 20, 2, 4, 6, 8], [1, 10, 1, 2, 3, 4]) == Estimate(2, 2, 2, 6)
    assert ratio_of_means([2, np.nan, 2, 4, 6, 8, 2], [1, 1, 1, 2, 3, 4, 1]) == Estimate(2, 2, 2, 6)


def test_few_units_have_a_value_and_no_interval() -> None:
    few = mean(np.ones(LEAST_UNITS - 1))
    assert few == Estimate(1.0, None, None, LEAST_UNITS - 1)
    assert mean([1, np.nan, 3]).value == 2
    assert smallest([few, Estimate(0.5, 0.4, 0.6, 9)]) == Estimate(0.5, None, None, LEAST_UNITS - 1)


def test_the_extreme_of_several_has_the_extreme_ends() -> None:
    several = [Estimate(1.0, 0.5, 3.0, 8), Estimate(2.0, 0.9, 2.5, 9)]
    assert smallest(several) == Estimate(1.0, 0.5, 2.5, 8) and largest(several) == Estimate(2.0, 0.9, 3.0, 8)


def test_what_cannot_be_estimated_is_refused() -> None:
    for call in (lambda: mean([]), lambda: mean(np.zeros((2, 2))), lambda: difference([1], [1, 2]), lambda: largest([]),
                 lambda: bootstrap(lambda drawn: 0.0, 0)):  # fmt: skip
        with pytest.raises(InputError):
            call()
