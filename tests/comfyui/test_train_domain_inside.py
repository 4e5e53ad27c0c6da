"""Training of LoRAs in ComfyUI's own process, for a U-Net and for flow transformers; see probe_train_domain.py."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture(scope="module")
def trained(weights: Path, run_inside: Callable[[str, Path], dict[str, Any]]) -> dict[str, Any]:
    return run_inside("probe_train_domain.py", weights)


@pytest.mark.parametrize("family", ["SD 1.5", "Flux", "Z-Image", "Qwen-Image"])
def test_a_lora_is_what_stock_load_lora_gives_and_the_base_is_as_before(trained: dict[str, Any], family: str) -> None:
    if family not in trained:
        pytest.skip("this ComfyUI has no such family")
    one = trained[family]
    if "error" in one:  # a host whose apply_rope has no gradients says so before it has encoded a picture
        assert trained["version"].startswith("0.8.") and one["encoded"] == 0
        assert "apply_rope, a kernel that has no gradients" in one["error"] and "\n" not in one["error"]
        return
    assert one["unchanged"] and one["left"] == [] and one["learned"] > 1e-4 and one["stock"] < 1e-5
    assert one["same_file"] and one["finite"] and one["samples"][-1] == 3
    assert "3 steps on 12 pictures: 1 for test, 10 for train, 1 for validation" in one["report"]


@pytest.mark.parametrize("family", ["SD 1.5", "Z-Image"])
def test_a_time_decoupled_pair_is_two_loras_that_stock_load_lora_reads(trained: dict[str, Any], family: str) -> None:
    if family not in trained["pair"]:
        pytest.skip("this ComfyUI has no such family")
    pair = trained["pair"][family]
    assert pair["unchanged"] and min(pair["learned"]) > 1e-4 and pair["differ"] > 1e-4
    assert max(*pair["stock"], *pair["loaded"]) < 1e-5 and pair["switch"] == 500
    assert "pair-structure.safetensors and pair-texture.safetensors in loras" in pair["report"] and "pair.json" in pair["report"]


def test_the_text_encoder_and_a_projection_are_what_stock_load_lora_and_apply_knowledge_give(trained: dict[str, Any]) -> None:
    texts = trained["texts"]
    assert texts["unchanged"] and texts["learned"] > 1e-3 and texts["lora_alone"] > 1e-3
    assert texts["stock"] < 1e-3 and texts["drawn"] < 1e-3


def test_a_workflow_for_the_editor_lies_among_the_users(trained: dict[str, Any]) -> None:
    workflow = trained["workflow"]
    assert workflow["where"] == "user/default/workflows" and workflow["lora"] == ["tuned.safetensors", 1.0, 1.0]
    assert {"CheckpointLoaderSimple", "LoraLoader", "KSampler", "VAEDecode", "SaveImage"} <= set(workflow["types"])


def test_a_base_in_half_precision_is_trained(trained: dict[str, Any]) -> None:
    assert trained["half"] > 1e-4


def test_parts_of_other_models_are_refused_by_name(trained: dict[str, Any]) -> None:
    assert "link the VAE of the model" in trained["refused"]["vae"] or "error" in trained["Flux"]
    assert "link the CLIP that belongs to the model" in trained["refused"]["clip"]
