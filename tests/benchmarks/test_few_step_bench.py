"""`bench few-step` on tiny networks: students of every kind of use are trained, drawn and compared."""

from __future__ import annotations

import argparse
import json

import pytest
from rapiddraw.benchmarks import few_step, few_step_students
from rapiddraw.tests import helpers


@pytest.fixture
def small(orchard, monkeypatch):
    monkeypatch.setattr(few_step_students, "SETTINGS", {"rank": 2, "batch_size": 2, "drawn": 4, "size": 32, "targets": ("attention",)})
    monkeypatch.setattr(few_step, "SCALES", (1.0, 5.0))
    return argparse.Namespace(
        count=6, few=[4, 1], methods=["trajectory", "vanilla", "cfg_aware", "consistency"], train_steps=1, students=orchard / "students",
        teacher_steps=[1, 4, 50],
    )  # fmt: skip


def test_students_are_trained_once_and_compared(small, tmp_path):
    outcome = few_step.run(small)
    files = sorted(small.students.glob("*.safetensors"))
    assert len(files) == 8
    rows = [row for row in outcome["rows"] if row["split"] == "unseen"]
    assert len(outcome["rows"]) == 2 * len(rows)
    by_name = {(row["model"], row["steps"], row["scale"]): row for row in rows}
    assert by_name["trajectory", 4, 4.0]["evaluations"] == 4 and by_name["teacher, ddim", 50, 4.0]["evaluations"] == 100
    assert by_name["cfg_aware", 4, 5.0]["evaluations"] == 8 and by_name["vanilla", 4, 1.0]["evaluations"] == 4
    claims = [check["claim"] for check in outcome["checks"]]
    assert len(claims) == 4 and any("cfg_aware less vanilla" in claim for claim in claims)
    assert set(few_step.expectations(small)) == {"four", "one", "unseen", "aware", "told"}
    small.count = 1000
    assert "fid" in few_step.expectations(small)
    json.dumps(outcome)
    pytest.importorskip("matplotlib")
    few_step.plot(outcome, tmp_path / "plot.png")
    assert (tmp_path / "plot.png").stat().st_size > 1000


def test_shipped_students_are_compared_where_there_are_any(small, orchard):
    helpers.write_student(orchard / "weights" / "orchard-4-steps.safetensors", 4)
    small.methods, small.teacher_steps, small.few = ["shipped"], [1, 4], [4, 2]
    outcome = few_step.run(small)
    assert [row["steps"] for row in outcome["rows"] if row["model"] == "shipped"] == [4, 4]
    assert not small.students.exists() and outcome["checks"] == []
    assert outcome["command"].endswith("few-step --count 6 --few 4 2 --methods shipped --teacher-steps 1 4")
