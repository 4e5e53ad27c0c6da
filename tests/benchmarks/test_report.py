"""The report of results that were measured before intervals were written down, and FID-A from few pictures."""

from __future__ import annotations

from rapiddraw.benchmarks.checks import CHOSEN, Basis, Expectation, above
from rapiddraw.benchmarks.report import report
from rapiddraw.core.metrics.bootstrap import Estimate


def test_fid_a_of_few_pictures_is_left_out_wherever_it_stands(tmp_path):
    kept = Expectation("FID-A over the other's", above(1), CHOSEN, Basis(1000)).judge(Estimate(2, 1.5, 2.5, 1000))
    old = {"claim": "FID-A of before", "value": 1, "expected": "> 1", "holds": True}
    rows = [
        {"way": "few", "pictures": 999, "FID-A": 1234.5},
        {"way": "many", "pictures": 1000, "FID-A": 77.5},
        {"way": "none", "FID-A": 55.5},
    ]
    outcome = {"name": "toy", "command": "bench toy", "environment": {"python": "3"}, "rows": rows, "checks": [kept, old]}
    text = report([outcome], tmp_path)
    assert "77.5" in text and "1234" not in text and "55.5" not in text
    assert "FID-A over the other's | 2 | 1.5 to 2.5 | above 1 | yes |" in text and "FID-A of before" not in text
    assert "1 of 1 checks hold" in text and outcome["checks"] == [kept, old], "the result itself is not changed"
