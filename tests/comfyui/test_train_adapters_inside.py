"""Training of adapters in ComfyUI's own process, for MODELs of SD 1.5's and SDXL's shape; see probe_train_adapters.py."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture(scope="module")
def trained(weights: Path, run_inside: Callable[[str, Path], dict[str, Any]]) -> dict[str, Any]:
    return run_inside("probe_train_adapters.py", weights)


@pytest.mark.parametrize("what", ["kronecker SD 1.5", "kronecker SDXL", "control SD 1.5", "control SDXL"])
def test_what_is_trained_is_loaded_by_its_node_and_the_base_is_as_before(trained: dict[str, Any], what: str) -> None:
    one = trained[what]
    assert one["changes"] > 1e-4 and one["as_returned"] < 1e-5 and one["off"] and one["unchanged"] and one["same_file"]
    assert one["samples"][-1] == 3 and "3 steps on 4 pictures" in one["report"] and "tuned.json in your workflows" in one["report"]


@pytest.mark.parametrize("what", ["tokens SD 1.5", "tokens SDXL"])
def test_a_picture_is_a_prompt_by_the_clip_vision_that_it_was_trained_with(trained: dict[str, Any], what: str) -> None:
    one = trained[what]
    assert one["changes"] > 1e-4 and one["off"] and one["unchanged"] and one["same_file"] and one["samples"][-1] == 3
    assert "projection of 24 features to 3 tokens of" in one["report"] and "tuned.json in your workflows" in one["report"]
    assert "another CLIP_VISION of 24 features" in one["other"] and "no projection was trained for this CLIP_VISION (40" in one["wider"]
    assert {"LoadImage", "RapidDrawImageVariationEncode", "KSampler"} <= set(trained["workflow of tokens"])


def test_a_users_clip_gives_texts_their_projected_vectors(trained: dict[str, Any]) -> None:
    found = trained["beside"]
    assert found["shape"] == [2, 32] and found["projected"] < 1e-5 and found["changed"] > 0.1 and found["left"] is False
    assert "vectors of 32 features and the CLIP_VISION vectors of 40" in found["wider"]


def test_the_ready_workflow_draws_by_the_maps_of_a_picture(trained: dict[str, Any]) -> None:
    wanted = {"CheckpointLoaderSimple", "RapidDrawControlAdapterLoader", "RapidDrawControlAdapterApply", "LoadImage", "KSampler"}
    assert wanted <= set(trained["workflow of control"]) and trained["workflow of control"].count("RapidDrawConditionMapExtractor") == 2


def test_another_family_is_refused_by_a_control_trainer_before_any_work(trained: dict[str, Any]) -> None:
    assert "a U-Net such as those of SD 1.5 and SDXL is needed here" in trained["refused"]


def test_diffusers_config_of_a_users_unet_makes_the_same_encoder(trained: dict[str, Any]) -> None:
    assert trained["config"] == [True, True]
