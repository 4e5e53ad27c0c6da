"""`bench upscale` at its smallest, without ComfyUI: rows, the difference to the bare network, the seam. No duration is asserted."""

from __future__ import annotations

import argparse

import pytest
import torch
from rapiddraw.benchmarks import upscale
from rapiddraw.core.errors import InputError


def test_sizes_methods_and_checks(monkeypatch):
    monkeypatch.delenv("COMFYUI_PATH", raising=False)
    monkeypatch.setattr(upscale, "LARGE", 64)
    monkeypatch.setattr(upscale, "seam", lambda model: 0.0)
    outcome = upscale.run(argparse.Namespace(comfyui=None, repeats=1, sizes=[64, 72], weights=upscale.WEIGHTS))
    assert [(row["input"], row["method"]) for row in outcome["rows"]] == [(64, "RapidDraw"), (64, "spandrel"), (72, "RapidDraw")]
    assert all(row["off_one_piece_255"] <= 1 for row in outcome["rows"]) and outcome["rows"][1]["off_one_piece_255"] == 0
    assert len(outcome["checks"]) == 3 and not any("ComfyUI" in check["claim"] for check in outcome["checks"])
    with pytest.raises(InputError, match=r"main\.py"):
        upscale.run(argparse.Namespace(comfyui="/nowhere", repeats=1, sizes=None, weights=upscale.WEIGHTS))


def test_pictures_are_of_the_size_that_was_asked_for():
    assert upscale.photo(72).shape == (1, 72, 72, 3)
    large = upscale.photo(1024)
    assert large.shape == (1, 1024, 1024, 3) and 0 <= large.min() < large.max() <= 1
    assert not torch.equal(large[:, :512, :512], large[:, 512:, 512:])
