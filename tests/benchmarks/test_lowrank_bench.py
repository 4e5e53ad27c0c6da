"""`bench lowrank` with a tiny budget: every row is there, and what was trained is kept."""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path

import pytest
import torch
from rapiddraw.benchmarks import lowrank
from rapiddraw.core import paths
from rapiddraw.core.bundle import BundleInfo, save_bundle
from rapiddraw.core.metrics.judge import Judge


@pytest.fixture
def orchard(tiny_weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "weights"
    folder.mkdir()
    for kind in ("unet", "text", "vae", "kg"):
        shutil.copy(tiny_weights / f"tiny-{kind}.safetensors", folder / f"orchard-{kind}.safetensors")
    config = {"width": 4, "features": 8}
    with torch.random.fork_rng(devices=[]):
        judge = Judge(**config)
    save_bundle(folder / "orchard-judge.safetensors", judge.state_dict(), BundleInfo("judge", config=config))
    monkeypatch.setattr(paths, "weights_dirs", lambda: [folder])
    return tmp_path


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
