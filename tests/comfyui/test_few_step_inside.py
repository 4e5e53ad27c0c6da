"""Few-step students in ComfyUI's own process, on an SD 1.5-shaped, an SDXL-shaped and a flow model; see probe_few_step.py."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture(scope="module")
def few(weights: Path, run_inside: Callable[[str, Path], dict[str, Any]]) -> dict[str, Any]:
    return run_inside("probe_few_step.py", weights)


@pytest.mark.parametrize("name", ["sd15", "sdxl", "sd3"])
def test_a_student_is_trained_and_stock_load_lora_reads_it(few: dict[str, Any], name: str) -> None:
    said = few[name]
    assert said["unchanged"] and said["strength_0"] and said["differs"] > 1e-4
    assert said["ours_is_stock"] == 0 and said["node_is_file"] == 0 and said["layers"] >= 5
    assert "trajectory: 2 steps" in said["report"] and said["plot"][-1] == 3
    assert (said["sigmas"], said["sampler"], said["cfg"]) == (3, "KSAMPLER", 1.0)


@pytest.mark.parametrize("name", ["sd15", "sdxl", "sd3"])
def test_a_merged_fine_tune_takes_it(few: dict[str, Any], name: str) -> None:
    assert few[name]["merged"] == 0 and few[name]["on_merged"] > 1e-5


def test_a_consistency_student_gets_the_stock_patch(few: dict[str, Any]) -> None:
    assert few["lcm"] == [5, 50, "sample_lcm"]


def test_a_student_that_is_told_its_scale_draws_by_it(few: dict[str, Any]) -> None:
    assert few["told"] > 1e-5


def test_another_base_is_refused(few: dict[str, Any]) -> None:
    wide, flux = few["refused"]
    assert wide.startswith("BundleError") and "is for a weight of" in wide and "student of another model" in wide
    assert flux.startswith("BundleError") and "predicts eps on 4 latent channels" in flux


def test_a_cancel_keeps_what_was_learned_and_the_next_run_ends_the_same(few: dict[str, Any]) -> None:
    assert few["interrupt"] == "InterruptProcessingException" and few["unfinished"]
    assert few["resumed"] < 1e-3
