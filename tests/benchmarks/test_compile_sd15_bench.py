"""`bench compile-sd15` on a small U-Net. No duration is asserted, and nothing is compiled."""

from __future__ import annotations

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
    outcome = bench.measure(network, 128, 1, 30.0, 1)
    assert [row["setting"] for row in outcome["rows"]] == list(bench.NAMES.values())
    assert outcome["rows"][0]["gain"] == 1 and all(row["difference"] < bench.MOST_APART for row in outcome["rows"])
    assert outcome["rows"][1]["difference"] < 1e-4 and "U-Net" in outcome["reports"]["+ bf16"]
    pytest.importorskip("matplotlib")
    bench.plot(outcome, tmp_path / "plot.png")
