"""`bench coop_latent`, `coop_resolution` and `history` with tiny random networks: the shape of their results, and what must hold of any."""

from __future__ import annotations

import argparse
import json
import shutil

import pytest
from rapiddraw.benchmarks import coop_latent, coop_resolution, history
from rapiddraw.core import paths
from rapiddraw.core.bundles.format import LatentSpace
from rapiddraw.tests import helpers


@pytest.fixture(scope="module")
def orchard(tmp_path_factory):
    """Tiny random bundles under the names of the shipped ones, two latent spaces among them, and the shipped judge."""
    folder = tmp_path_factory.mktemp("coop")
    for name in ("unet", "text", "vae", "kg"):
        getattr(helpers, f"write_{name}")(folder / f"orchard-{name}.safetensors")
    helpers.write_esrgan(folder / "orchard-esrgan-x4.safetensors")
    space = LatentSpace(channels=4, factor=4, scale=0.7, shift=0.1)
    blocks = {"down_block_types": ["DownEncoderBlock2D"] * 3, "up_block_types": ["UpDecoderBlock2D"] * 3}
    helpers.write_unet(folder / "orchard-unet-64.safetensors", seed=7, latent=space)
    helpers.write_vae(folder / "orchard-vae-f4.safetensors", latent=space, block_out_channels=[32, 32, 32], **blocks)
    shutil.copy(paths.pack_root() / "weights" / "orchard-judge.safetensors", folder)
    return folder


@pytest.fixture(autouse=True)
def tiny(orchard, monkeypatch):
    monkeypatch.setattr(paths, "weights_dirs", lambda: [orchard])


def held(result, name):
    """The checks of a result by claim, its shape looked at."""
    assert set(result) >= {"name", "command", "environment", "rows", "checks"} and result["name"] == name and result["rows"]
    json.dumps(result)
    return {check["claim"]: check["holds"] for check in result["checks"]}


def test_the_latent_bridge_is_model_a_at_strength_0():
    result = coop_latent.run(argparse.Namespace(count=2, steps=2))
    checks = held(result, "coop_latent")
    assert checks["pictures at d = 0 that differ from model A's in any bit"] and checks["calls of a VAE at d = 0"]
    rows = [row for row in result["rows"] if row["table"] == "prompts"]
    assert [row["d"] for row in rows] == list(coop_latent.STRENGTHS) and rows[1]["calls of a VAE"] == 4, "of two steps one is fused"


def test_the_resolution_bridge_is_measured_in_both_settings():
    args = argparse.Namespace(count=6, steps=6, upscaler=coop_resolution.UPSCALER)
    result = coop_resolution.run(args)
    checks = held(result, "coop_resolution")
    assert checks["its standard deviation"] and not any("FID" in claim for claim in checks), "six pictures are too few for FID-A"
    assert set(checks) == {one.claim for one in coop_resolution.expectations(args).values()}
    ways = [row["way"] for row in result["rows"] if row.get("setting") == "pair"]
    assert ways[0] == "renders, 128 px" and "all at 128 px" in ways and len(ways) == 1 + len(coop_resolution.T_LOWS["pair"]) + 5
    assert ways[-2:] == ["64 px, bicubic, equal time", "64 px, ESRGAN, equal time"]
    steps = {row["way"]: row["steps"] for row in result["rows"] if row.get("setting") == "pair" and "steps" in row}
    assert steps["64 px, bicubic"] == 6 and steps[ways[-1]] >= coop_resolution.LEAST_STEPS


@pytest.mark.parametrize(
    ("seconds", "once", "twice", "expected"),
    [(3.0, 3.0, 5.0, 20), (5.0, 3.0, 5.0, 40), (2.0, 3.0, 5.0, 10), (0.5, 3.0, 5.0, 4), (9e9, 3.0, 5.0, 400), (4.0, 3.0, 2.9, 400)],
)
def test_the_steps_at_equal_time_follow_from_two_timings(seconds, once, twice, expected):
    assert coop_resolution.steps_that_fill(seconds, 20, once, twice) == expected


def test_a_fresh_start_is_measured():
    checks = held(history.run(argparse.Namespace(steps=[8])), "history")
    assert all(checks.values())
