"""`bench time_decoupled` and `bench style` with a tiny budget: the shape of their results; and that half a U-Net is half of it."""

from __future__ import annotations

import argparse
import json

import pytest
from rapiddraw.benchmarks import style, time_decoupled
from rapiddraw.benchmarks.time_decoupled import half_of
from rapiddraw.core.errors import InputError


def shaped(result, name):
    assert set(result) >= {"name", "command", "environment", "rows", "checks"} and result["name"] == name
    assert all({"claim", "value", "expected", "holds", "origin", "count", "interval"} <= set(check) for check in result["checks"])
    json.dumps(result)
    return result


def test_a_pair_is_trained_judged_and_swept(orchard):
    given = {"data": None, "pictures": 4, "steps": 2, "batch": 2, "widths": "32,64", "count": 2, "size": 64, "data_rows": True}
    given |= {"foreground": 2.0, "rows": "baseline,half,equal"}
    args = argparse.Namespace(**given, out=orchard / "runs")
    result = shaped(time_decoupled.run(args), "time_decoupled")
    rows = [row for row in result["rows"] if row["table"] == "pairs"]
    names = [row["model"] for row in rows]
    assert names == ["baseline", "half", "equal", "48% low-resolution", "high-resolution only", "texture at half size"]
    assert [row["t_struct"] for row in result["rows"] if row["table"] == "switch"] == list(time_decoupled.SWEEP)
    by_name = {row["model"]: row for row in rows}
    assert by_name["half"]["GMAC a step"] < by_name["baseline"]["GMAC a step"]
    files = {path: path.stat().st_mtime_ns for path in args.out.glob("*.safetensors")}
    time_decoupled.run(argparse.Namespace(**{**given, "data_rows": False, "rows": "equal"}, out=args.out))
    assert {path: path.stat().st_mtime_ns for path in files} == files, "what is trained already is used again"
    with pytest.raises(InputError, match="half or equal"):
        time_decoupled.run(argparse.Namespace(**{**given, "rows": "all"}, out=args.out))


def test_half_of_the_shipped_size_is_half_within_five_percent():
    half = half_of((64, 96, 160))
    share = time_decoupled._parameters(half, 128) / time_decoupled._parameters((64, 96, 160), 128)
    assert share == pytest.approx(0.5, rel=0.05) and all(width % 32 == 0 for width in half)


def test_style_is_measured_over_its_scale(orchard):
    result = shaped(style.run(argparse.Namespace(count=2)), "style")
    assert [row["style_scale"] for row in result["rows"]] == list(style.SCALES)
    assert {"cartoons", "AA"} <= set(result["rows"][0])
