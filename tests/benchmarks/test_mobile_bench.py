"""`bench mobile`: sizes beside the papers' tables, and the parts that train, on tiny networks."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import pytest
from rapiddraw.benchmarks import common, mobile, mobile_decoder, mobile_sizes, mobile_slim, mobile_total
from rapiddraw.core.errors import InputError
from rapiddraw.core.slim.switches import SWITCHES


def arguments(**given: Any) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    mobile.add_arguments(parser)
    return argparse.Namespace(**{**vars(parser.parse_args([])), **given})


@pytest.fixture
def small(orchard: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Settings of a run that takes seconds; results lie in a folder of the test."""
    monkeypatch.setattr(mobile_decoder, "SHARES", (1.0,))
    monkeypatch.setattr(mobile_slim, "MEASURE", "multiply-adds")  # times of a tiny network are noise
    monkeypatch.setattr(mobile_slim, "TARGET", 0.75)
    tiny = {"rank": 2, "batch_size": 2, "drawn": 4, "teacher_steps": 4, "targets": ("attention",)}
    monkeypatch.setattr(mobile_total, "STUDENT", tiny)
    monkeypatch.setattr(mobile_total, "TEACHER_STEPS", 2)
    monkeypatch.setattr(common, "results_dir", lambda: orchard / "results")
    return {"count": 4, "pictures": 16, "train_steps": 1, "folder": orchard / "mobile"}


def test_sizes_are_counted_without_memory() -> None:
    rows, checks = mobile_sizes.measure()
    by_name = {row["model"]: row for row in rows}
    assert by_name["SD 1.5"]["parameters M"] == 859.5 and by_name["MobileDiffusion"]["parameters M"] == 403.7
    assert len(rows) == 4 + 8 and by_name["relu for softmax"]["GMAC"] == by_name["SD 1.5"]["GMAC"]
    failed = [check["claim"] for check in checks if not check["holds"]]
    assert len(checks) == len(mobile_sizes.expectations())
    assert failed == [f"{what} of SnapFusion, by the paper's" for what in ("parameters", "GFLOPs")]


def test_expectations_and_parts() -> None:
    assert len(mobile.expectations(arguments(parts="sizes"))) == 13
    every, untimed = mobile.expectations(arguments()), mobile.expectations(arguments(repeats=0))
    assert len(every) == 13 + 10 and set(every) - set(untimed) == {"tricks faster", "slim time", "decoder faster", "total faster"}
    assert len({one.claim for one in every.values()}) == len(every), "a check is found again by its claim"
    with pytest.raises(InputError, match="no part is named 'colours'"):
        mobile.expectations(arguments(parts="sizes,colours"))
    with pytest.raises(InputError, match="count must be"):
        mobile.run(arguments(parts="tricks", count=1))


def test_each_trick_is_trained_once_and_measured(small: dict[str, Any]) -> None:
    outcome = mobile.run(arguments(parts="tricks", repeats=0, **small))
    rows = {row["model"]: row for row in outcome["rows"]}
    assert set(rows) == {"the shipped U-Net", *SWITCHES} and all(row["part"] == "tricks" for row in rows.values())
    assert rows["trimmed feed-forward"]["parameters M"] < rows["the shipped U-Net"]["parameters M"]
    assert rows["more transformers in the middle"]["held-out loss before"] == 0 < rows["relu for softmax"]["held-out loss before"]
    assert len(outcome["checks"]) == 2 and outcome["checks"][1]["holds"]
    files = {path: path.stat().st_mtime_ns for path in (small["folder"] / "rapiddraw").glob("trick-*.safetensors")}
    assert len(files) == 8
    mobile.run(arguments(parts="tricks", repeats=0, **small))
    assert {path: path.stat().st_mtime_ns for path in files} == files


def test_a_whole_picture_is_compared_and_other_parts_are_kept(small: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="needs slim-unet.safetensors, decoder-1.safetensors"):
        mobile.run(arguments(parts="total", **small))
    common.save_result(mobile.run(arguments(parts="slim,decoder", repeats=2, **small)))
    outcome = mobile.run(arguments(parts="total", repeats=2, **small))
    assert {row["part"] for row in outcome["rows"]} == {"slim", "decoder", "total"}
    assert "--parts slim,decoder,total" in outcome["command"] and len(outcome["checks"]) == 2 + 3 + 2
    slim = [row for row in outcome["rows"] if row["part"] == "slim"]
    assert slim[1]["GMAC"] < slim[0]["GMAC"] and "removed" in slim[1]["changes"]
    whole, four, one = (row for row in outcome["rows"] if row.get("component") == "total")
    assert whole["times as fast"] == 1 and {four["times as fast"], one["times as fast"]} and one["ms"] > 0
    evaluations = [row["evaluations"] for row in outcome["rows"] if row.get("component") == "AA"]
    assert evaluations == [4, 4, 1]
    json.dumps(outcome)
