"""`bench lowrank` with a tiny budget: every row is there, and what was trained is kept."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from rapiddraw.benchmarks import lowrank


def test_every_student_is_trained_once_and_judged(orchard: Path) -> None:
    given = {"data": None, "pictures": 4, "steps": 1, "batch": 2, "ratio": 0.7, "harder": 0.6, "count": 2, "size": 64}
    args = argparse.Namespace(**given, out=orchard / "runs")
    result = lowrank.run(args)
    json.dumps(result)
    rows = {(row["model"], row["ratio"]): row for row in result["rows"]}
    assert {name for name, ratio in rows if ratio == 0.7} == {"SVD, not trained", *lowrank.STUDENTS}
    assert {name for name, ratio in rows if ratio == 0.6} == {"SVD, not trained", *lowrank.AT_HARDER}
    teacher = rows["teacher", 1.0]
    assert teacher["eps error to the teacher"] == 0 and rows["dense from nothing", 1.0]["parameters"] == teacher["parameters"]
    assert all(row["parameters"] <= ratio * teacher["parameters"] for (_, ratio), row in rows.items())
    assert result["checks"][0]["holds"] and len(result["checks"]) == 8
    files = {path: path.stat().st_mtime_ns for path in args.out.glob("*.safetensors")}
    assert len(files) == 9
    lowrank.run(args)
    assert {path: path.stat().st_mtime_ns for path in files} == files, "what is trained already is used again"
