"""The simulator against queues whose answers are known exactly."""

from __future__ import annotations

import math

import pytest
from rapiddraw.cli import main
from rapiddraw.core.errors import InputError
from rapiddraw.serve.plan import Load, carried, needed, percentile, rule_of_thumb, simulate, table


def erlang_c_wait(qps: float, latency: float, count: int) -> float:
    """Mean wait before service in an M/M/c queue."""
    work = qps * latency
    top = work**count / math.factorial(count) * count / (count - work)
    chance = top / (sum(work**k / math.factorial(k) for k in range(count)) + top)
    return chance * latency / (count - work)


@pytest.mark.parametrize("count", [1, 2, 5])
def test_exponential_times_wait_as_erlang_says(count):
    load = Load(qps=0.7 * count, latency=1.0, variation=1.0, requests=200_000, seed=3)
    assert simulate(load, count).mean - 1.0 == pytest.approx(erlang_c_wait(load.qps, 1.0, count), rel=0.08)


def test_constant_times_wait_as_pollaczek_and_khinchine_say():
    load = Load(qps=0.6, latency=1.0, variation=0.0, requests=200_000)
    assert simulate(load, 1).mean == pytest.approx(1 + 0.6 / (2 * 0.4), rel=0.05)


def test_a_quiet_service_takes_the_time_of_one_picture():
    waits = simulate(Load(qps=0.01, latency=2.0, variation=0.0), 4)
    assert waits.p50 == pytest.approx(2.0) and waits.p95 == pytest.approx(2.0) and waits.utilisation < 0.01


def test_more_replicas_never_wait_longer():
    load = Load(qps=40, latency=2.1)
    found = [simulate(load, count).p95 for count in (85, 88, 92, 100, 120)]
    assert found == sorted(found, reverse=True)


def test_measured_times_are_drawn_from():
    assert simulate(Load(qps=0.001, latency=1.0, measured=(3.0,)), 1).p95 == pytest.approx(3.0)


def test_measured_arrivals_come_again_and_again_to_an_empty_queue():
    waits = simulate(Load(qps=1.0, latency=1.0, variation=0.0, arrivals=(0.0, 0.0, 0.5), requests=300), 1)
    assert (waits.p50, waits.p95) == (2.0, 2.5) and waits.mean == pytest.approx((1 + 2 + 2.5) / 3) and waits.utilisation == 1
    assert simulate(Load(qps=1.0, latency=1.0, variation=0.0, arrivals=(0.0, 0.0, 0.5)), 3).p95 == 1.0


def test_the_smallest_number_is_found():
    load = Load(qps=3.0, latency=1.0, variation=1.0)
    found = needed(load, 3.5)
    assert found.p95 <= 3.5 < simulate(load, found.replicas - 1).p95 and found.replicas == 5
    large = Load(qps=40, latency=2.1, requests=5000)
    assert large.work < needed(large, 5.0).replicas <= rule_of_thumb(large) == 105  # 84 would be busy all the time


def test_a_wish_that_cannot_be_met_is_refused():
    with pytest.raises(InputError, match="no number of replicas"):
        needed(Load(qps=1, latency=2.0, requests=1000), 1.0)
    for wrong in ({"qps": 0}, {"latency": -1}, {"qps": math.nan}, {"variation": -0.1}, {"requests": 5}):
        with pytest.raises(InputError):
            Load(**{"qps": 1.0, "latency": 1.0, **wrong})


def test_large_services_are_used_better():
    load = Load(qps=1, latency=1.0, requests=3000)
    rows = table(load, 2.0, (1, 10, 100))
    assert [row["replicas"] for row in rows] == [1, 10, 100] and all(row["p95"] <= 2.0 for row in rows)
    used = [row["qps"] / row["replicas"] for row in rows]
    assert used == sorted(used)
    assert carried(load, 0.5, 10) is None


def test_percentiles():
    assert percentile([3, 1, 2], 50) == 2 and percentile([1], 95) == 1


def test_the_command_says_how_many(capsys):
    assert main(["serve", "plan", "--qps", "4", "--latency", "2", "--p95", "6", "--requests", "1000"]) == 0
    text = capsys.readouterr().out
    assert "replicas" in text and "1000" in text
    assert main(["serve", "plan"]) == 2
