"""`bench control`: IoU over drawn pictures, and what its checks are of. No adapter is trained."""

from __future__ import annotations

import argparse

import pytest
import torch
from rapiddraw.benchmarks import control, control_quality
from rapiddraw.benchmarks.checks import CHOSEN
from rapiddraw.benchmarks.control_quality import iou, iou_ratio, overlaps
from rapiddraw.core.metrics.control import mean_iou


def test_pixels_by_picture_give_the_iou_of_the_batch():
    generator = torch.Generator().manual_seed(0)
    found, truth = (torch.randint(0, 4, (8, 16, 16), generator=generator) for _ in range(2))
    pixels = overlaps(found, truth, 5)
    assert pixels.shape == (2, 8, 5) and iou(pixels.sum(1)) == pytest.approx(mean_iou(found, truth, 5))
    same = iou_ratio(pixels, pixels)
    assert same.value == same.low == same.high == 1 and same.units == 8
    better = iou_ratio(overlaps(truth, truth, 5), pixels)
    assert better.low is not None and better.low > 1


def test_edges_are_judged_with_a_tolerance_and_time_is_judged_too():
    wanted = control.expectations(argparse.Namespace(count=48))
    claims = [one.claim for one in wanted.values()]
    assert len(set(claims)) == len(claims) == 24
    assert sum("edge F-score over the full" in claim for claim in claims) == sum("edge NMSE" in claim for claim in claims) == 2
    for key, least in (("ceiling", 0.8), ("segments", 0.85)):
        stated = [wanted[f"{kind} {key}"] for kind in ("shipped", *control.FORMATS)]
        assert all(one.bound.low == least and one.origin == CHOSEN for one in stated)
    assert "frozen copy + Kronecker, this U-Net: seconds an iteration over the full copy's" in claims


def test_quality_without_an_adapter_beside_that_of_renders(monkeypatch):
    monkeypatch.setattr(control_quality, "STEPS", 1)
    rows, found = control_quality.quality({}, 2)
    assert [row["format"] for row in rows] == ["no control", "renders through the VAE"] and set(found) == {"none", "ceiling"}
    ceiling = found["ceiling"]
    assert ceiling.f_score.mean() == pytest.approx(rows[1]["edge F-score"], abs=1e-4)
    estimate = control_quality.mean_iou(ceiling.segments)
    assert estimate.value == pytest.approx(rows[1]["IoU"], abs=1e-4) and estimate.units == 2
    assert rows[1]["edge F-score"] > rows[0]["edge F-score"] and rows[1]["IoU"] > rows[0]["IoU"]
    assert found["none"].nmse.shape == found["none"].f_score.shape == (2,) and rows[1]["FID-A"] is None
