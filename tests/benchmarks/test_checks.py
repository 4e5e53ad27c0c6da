"""Checks: bounds, origins, intervals, and that a check holds only where its whole interval does."""

from __future__ import annotations

import math

import pytest
from rapiddraw.benchmarks.checks import (
    CHOSEN,
    PAPER,
    Basis,
    Expectation,
    above,
    at_least,
    at_most,
    below,
    between,
    equal,
    exact,
    listing,
)  # fmt: skip
from rapiddraw.core.errors import InputError
from rapiddraw.core.metrics.bootstrap import Estimate


@pytest.mark.parametrize(
    ("bound", "words", "inside", "outside"),
    [
        (at_least(0.85), "at least 0.85", (0.85, 2), (0.849, math.nan)), (at_most(1e-5), "at most 1e-05", (1e-5, -1), (2e-5,)),
        (above(0), "above 0", (1e-9,), (0, -1)), (below(1), "below 1", (0.9,), (1,)), (equal(0), "0", (0,), (1e-9,)),
        (between(0.9, 1.1), "0.9 to 1.1", (0.9, 1.1), (0.89, 1.11)),
    ],
)  # fmt: skip
def test_bounds(bound, words, inside, outside):
    assert str(bound) == words and all(map(bound.holds, inside)) and not any(map(bound.holds, outside))


def test_a_check_holds_only_where_the_interval_does():
    wanted = Expectation("gain", at_least(0.25), CHOSEN, Basis(32))
    assert wanted.judge(Estimate(0.3, 0.25, 0.35, 32))["holds"]
    found = wanted.judge(Estimate(0.3, 0.2, 0.4, 32))
    assert not found["holds"] and found["interval"] == [0.2, 0.4] and found["value"] == 0.3
    assert not wanted.judge(Estimate(0.3, None, None, 3))["holds"], "no interval, no proof"
    assert not Expectation("both ends", between(0, 1), CHOSEN, Basis(9)).judge(Estimate(0.9, 0.8, 1.1, 9))["holds"]


def test_a_check_says_where_it_comes_from():
    about = Expectation("gain", at_least(1.73), PAPER, Basis(11, "timed turns"), "Table 3").about()
    assert about == {"origin": "paper (Table 3)", "count": "11 timed turns, 1 seed", "resampled": "95%, bootstrap over timed turns"}
    few = Expectation("gain", at_least(1), CHOSEN, Basis(5, seeds=3)).about()
    assert few["count"] == "5 pictures, 3 seeds" and few["resampled"] == "none: it needs at least 6 pictures"
    assert exact(1, "networks").count() == "1 network, 1 seed"
    lines = listing("toy", {"a": Expectation("gain", above(0), CHOSEN, Basis(9))})
    assert lines[:2] == ["toy", "  gain: above 0"] and lines[2].strip().startswith(f"origin: {CHOSEN}; count: 9 pictures")


def test_an_interval_that_was_promised_must_be_given():
    with pytest.raises(InputError, match="promises an interval"):
        Expectation("gain", above(0), CHOSEN, Basis(9)).judge(0.3)
    with pytest.raises(InputError, match="has the origin 'guess'"):
        Expectation("gain", above(0), "guess", Basis(9))
    assert Expectation("calls", equal(0), CHOSEN, exact(9, "pictures")).judge(0)["holds"]
