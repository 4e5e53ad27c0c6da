"""`bench time_decoupled` and `bench style` with a tiny budget: the shape of their results; and that half a U-Net is half of it."""

from __future__ import annotations

import argparse
import json

import pytest
from rapiddraw.benchmarks import style, time_decoupled
from rapiddraw.benchmarks.time_decoupled_models import half_of, parameters_of
from rapiddraw.core.bundles.format import read_info
from rapiddraw.core.errors import InputError


def shaped(result, name):
    assert set(result) >= {"name", "command", "environment", "rows", "checks"} and result["name"] == name
    assert all({"claim", "value", "expected", "holds", "origin", "count", "interval"} <= set(check) for check in result["checks"])
    json.dumps(result)
    return result


def test_a_pair_is_trained_judged_and_swept(orchard):
    given = {"data": None, "pictures": 4, "steps": 2, "batch": 2, "widths": "32,64", "count": 2, "size": 64, "data_rows": True}
    given |= {"foreground": 2.0, "rows": "baseline,half,equal", "seeds": 1}
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


def test_other_strategies_cost_as_much_training_and_every_seed_counts(orchard):
    given = {"data": None, "pictures": 4, "steps": 2, "batch": 2, "widths": "32,64", "count": 2, "size": 64, "data_rows": False}
    args = argparse.Namespace(**given, foreground=2.0, rows="baseline,boost,cascaded,equal", seeds=2, out=orchard / "runs")
    result = shaped(time_decoupled.run(args), "time_decoupled")
    by_name = {row["model"]: row for row in result["rows"] if row["table"] == "pairs"}
    assert list(by_name) == ["baseline", "boost", "cascaded", "equal"]
    assert all(len(row["AA of each seed"].split(", ")) == 2 for row in by_name.values())
    models = time_decoupled._models(args, [*by_name], args.out / "data-4-64", (32, 64), half_of((32, 64)), 0)
    both = {name: {m.structure.path: m.structure, m.texture.path: m.texture}.values() for name, m in models.items()}
    spent = {name: sum(one.training for one in its) for name, its in both.items()}
    assert spent["boost"] == spent["cascaded"] == pytest.approx(spent["baseline"], rel=0.1)
    assert by_name["equal"]["GMAC a picture"] < by_name["cascaded"]["GMAC a picture"] < by_name["boost"]["GMAC a picture"]
    trained = {path.name for path in args.out.glob("*.safetensors")}
    assert {"small-unet.safetensors", "boost-unet.safetensors", "refiner-unet.safetensors", "small-seed1-unet.safetensors"} <= trained
    claims = {check["claim"]: check["count"] for check in result["checks"]}
    assert sum("over resolution boost" in one or "over cascaded" in one for one in claims) == 2
    assert sum(count.endswith("2 seeds") for count in claims.values()) == 4
    assert read_info(args.out / "boost-unet.safetensors").provenance["settings"]["base"] == "small-unet.safetensors"
    with pytest.raises(InputError, match="seeds"):
        time_decoupled.expectations(argparse.Namespace(**{**vars(args), "seeds": 0}))


def test_half_of_the_shipped_size_is_half_within_five_percent():
    half = half_of((64, 96, 160))
    share = parameters_of(half, 128) / parameters_of((64, 96, 160), 128)
    assert share == pytest.approx(0.5, rel=0.05) and all(width % 32 == 0 for width in half)


def test_style_is_measured_over_its_scale(orchard):
    result = shaped(style.run(argparse.Namespace(count=2)), "style")
    assert [row["style_scale"] for row in result["rows"]] == list(style.SCALES)
    assert {"cartoons", "AA"} <= set(result["rows"][0])
