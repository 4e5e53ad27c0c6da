"""`bench compile`: the quality beside its times. No duration is asserted, and nothing is compiled."""

from __future__ import annotations

import argparse

import pytest
import torch
from rapiddraw.benchmarks import compile as bench
from rapiddraw.core.speed import accelerator


def test_rows_have_their_quality_beside_their_time(monkeypatch, tmp_path):
    monkeypatch.setattr(accelerator, "missing_compiler", lambda device: "none is wanted here")
    outcome = bench.run(argparse.Namespace(steps=1, size=32, repeats=1, budget=0.0, judged=1))
    assert [row["setting"] for row in outcome["rows"]] == list(bench.ROWS)
    assert all({"total_ms", "gain", "largest_difference_255", "PSNR_dB", "AA"} <= row.keys() for row in outcome["rows"])
    assert outcome["rows"][1]["AA"] == outcome["rows"][0]["AA"] and outcome["rows"][1]["PSNR_dB"] > 60
    assert outcome["checks"][-1]["claim"].startswith("attribute accuracy lost")
    pytest.importorskip("matplotlib")
    bench.plot(outcome, tmp_path / "plot.png")


def test_decibels():
    picture = torch.zeros(1, 2, 2, 3)
    assert bench.decibels(picture, picture) == bench.MOST_DECIBELS
    assert bench.decibels(picture + 0.1, picture) == pytest.approx(20, abs=1e-3)
