"""`bench esrgan` on two pairs with a tiny random network: the shape of its result, and that a bad network is told so."""

from __future__ import annotations

import argparse
import json

from rapiddraw.benchmarks import esrgan


def test_the_result_has_the_documented_shape(tiny_pack):
    result = esrgan.run(argparse.Namespace(count=2, weights="tiny-esrgan.safetensors", drawn=0))
    assert set(result) >= {"name", "command", "environment", "rows", "checks"} and result["name"] == "esrgan"
    assert {(row["input"], row["method"]) for row in result["rows"]} == {
        (i, m) for i in ("reduced", "softened") for m in ("bicubic", "trained")
    }
    assert all({"claim", "value", "expected", "holds", "origin", "count", "interval"} <= set(check) for check in result["checks"])
    assert not any(check["holds"] for check in result["checks"]), "random weights, and too few pairs for an interval"
    assert result["checks"][0]["count"] == "2 held-out pairs, 1 seed"
    json.dumps(result)


def test_the_crisp_upscaler_is_judged_on_drawn_pictures():
    result = esrgan.run(argparse.Namespace(count=1, weights=esrgan.WEIGHTS, crisp=esrgan.CRISP, drawn=2))
    energy = {row["method"]: row["gradient energy"] for row in result["rows"] if row["input"] == "drawn, 128 px"}
    assert energy["crisp"] > energy["trained"] > energy["bicubic"]
    crisp, invented = result["checks"][-2:]
    assert abs(crisp["value"] - energy["crisp"]) < 1e-3 and crisp["count"] == invented["count"] == "2 pictures, 1 seed"


def test_pairs_are_always_the_same_and_hold_the_fruit():
    first, again = (list(esrgan.pictures(2)) for _ in range(2))
    for a, b in zip(first, again, strict=True):
        assert a.shape == (256, 256, 3) and (a == b).all()
