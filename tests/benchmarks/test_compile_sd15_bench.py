"""`bench compile-sd15` on a small U-Net. No duration is asserted, and nothing is compiled."""

from __future__ import annotations

import argparse

import pytest
from rapiddraw.benchmarks import compile_sd15 as bench
from rapiddraw.benchmarks.lowrank_speed import SD15
from rapiddraw.core.speed import accelerator
from rapiddraw.tests.helpers import seeded


def test_every_row_of_a_network_has_its_gain_and_difference(monkeypatch, tmp_path):
    from diffusers import UNet2DConditionModel

    monkeypatch.setattr(accelerator, "missing_compiler", lambda device: "none is wanted here")
    config = {**SD15, "block_out_channels": (32, 32, 32, 32), "cross_attention_dim": 16, "layers_per_block": 1}
    network = seeded(lambda: UNet2DConditionModel(**config).eval().requires_grad_(False))
    outcome = bench.measure(network, argparse.Namespace(size=128, repeats=1, budget=30.0))
    assert [row["setting"] for row in outcome["rows"]] == list(bench.NAMES.values())
    assert outcome["rows"][0]["gain"] == 1 and all(row["difference"] < 0.02 for row in outcome["rows"])
    assert outcome["rows"][1]["difference"] < 1e-4 and "U-Net" in outcome["reports"]["+ bf16"]
    assert "over the row above" in outcome["rows"][2] and outcome["checks"][2]["holds"]
    assert not outcome["checks"][0]["holds"] and outcome["checks"][0]["interval"] is None, "one turn has no interval"
    pytest.importorskip("matplotlib")
    bench.plot(outcome, tmp_path / "plot.png")
