"""The benchmarks' stopwatch: who runs when, and what is made of the runs. No duration is asserted."""

from __future__ import annotations

import pytest
from rapiddraw.benchmarks.common import names
from rapiddraw.benchmarks.stopwatch import Timing, interleave, ratio
from rapiddraw.core.errors import InputError


def test_rivals_take_turns_and_the_order_turns_round() -> None:
    calls: list[str] = []
    times = interleave({"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, repeats=3, warmup=2)
    assert "".join(calls) == "aabb" + "ab" + "ba" + "ab"
    assert all(len(time.runs) == 3 and time.low <= time.median <= time.high for time in times.values())


def test_a_ratio_pairs_the_runs_that_were_made_together() -> None:
    # The second turn was disturbed: both took ten times as long, and the ratio does not notice.
    assert ratio(Timing(2, 2, 20, (2, 20, 2)), Timing(1, 1, 10, (1, 10, 1))) == 2
    assert ratio(Timing(3, 3, 3, (3,)), Timing(2, 1, 3, (1, 3))) == 1.5


def test_nothing_to_measure_is_refused() -> None:
    with pytest.raises(InputError, match="at least one"):
        interleave({})
    with pytest.raises(InputError, match="at least one"):
        interleave({"a": lambda: None}, repeats=0)


def test_the_stopwatch_is_no_benchmark() -> None:
    assert "stopwatch" not in names()
