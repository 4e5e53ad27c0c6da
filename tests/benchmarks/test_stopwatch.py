"""The benchmarks' stopwatch: who runs when, and what is made of the runs. No duration is asserted."""

from __future__ import annotations

import pytest
from rapiddraw.benchmarks.common import names
from rapiddraw.benchmarks.stopwatch import gain_cells, interleave, ratio, timing
from rapiddraw.core.errors import InputError
from rapiddraw.core.metrics.bootstrap import Estimate


def test_rivals_take_turns_and_the_order_turns_round() -> None:
    calls: list[str] = []
    times = interleave({"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, repeats=3, warmup=2)
    assert "".join(calls) == "aabb" + "ab" + "ba" + "ab"
    assert all(len(time.runs) == 3 and time.low <= time.median <= time.high for time in times.values())


def test_a_ratio_pairs_the_runs_that_were_made_together() -> None:
    # The second turn was disturbed: both took ten times as long, and the ratio does not notice.
    slow, fast = timing([2, 20, 2, 2, 2, 2]), timing([1, 10, 1, 1, 1, 1])
    assert ratio(slow, fast) == Estimate(2, 2, 2, 6) and gain_cells(ratio(slow, fast)) == {"gain": 2, "gain 95%": [2, 2]}
    few = ratio(timing([2, 20, 2]), timing([1, 10, 1]))
    assert few.value == 2 and few.low is None and gain_cells(few, "auto") == {"auto": 2, "auto 95%": []}
    with pytest.raises(InputError, match="took turns"):
        ratio(timing([3]), timing([1, 3]))


def test_nothing_to_measure_is_refused() -> None:
    with pytest.raises(InputError, match="at least one"):
        interleave({})
    with pytest.raises(InputError, match="at least one"):
        interleave({"a": lambda: None}, repeats=0)


def test_the_stopwatch_is_no_benchmark() -> None:
    assert "stopwatch" not in names()
