"""Low-rank MODELs in ComfyUI's own hands: patches, merges, saving; see probe_lowrank.py."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

SAME = 2e-4  # of sums in another order, through a whole U-Net


@pytest.fixture(scope="module")
def lowrank(weights: Path, run_inside: Callable[[str, Path], dict[str, Any]]) -> dict[str, Any]:
    return run_inside("probe_lowrank.py", weights)


def test_the_factored_model_is_a_model_of_its_own(lowrank: dict[str, Any]) -> None:
    assert lowrank["classes"] == ["LowRankPatcher", "LowRankRapidDrawModel", "ModelPatcher", "LowRankPatcher"]
    assert lowrank["layers"] > 10 and lowrank["smaller"] < 0.75
    assert lowrank["factored_differs"] > 1e-3 and lowrank["source_unchanged"]


def test_full_rank_and_merging_back_change_nothing(lowrank: dict[str, Any]) -> None:
    assert lowrank["full_rank"] < SAME and lowrank["merged_equals_factored"] < SAME


def test_loras_and_other_patches_do_what_they_do_to_the_dense_weights(lowrank: dict[str, Any]) -> None:
    assert lowrank["lora_keys"] > 30 and lowrank["lora_changes"] > 1e-3
    for name in ("lora_equals_dense", "two_loras", "lora_lowvram", "unpatched_again", "diff_equals_dense"):
        assert lowrank[name] < SAME, name
    assert len(set(lowrank["diff_taken"])) == 1 and lowrank["patched_on_the_way"] > 10


def test_merging_with_another_model_works_both_ways(lowrank: dict[str, Any]) -> None:
    assert lowrank["merge_into_low"] < SAME and lowrank["merge_low_into"] < SAME


def test_a_hook_lora_is_refused_with_what_to_do(lowrank: dict[str, Any]) -> None:
    assert lowrank["hook"].startswith("InputError") and "merge the model back to dense" in lowrank["hook"]


def test_saved_and_reloaded_it_is_the_same(lowrank: dict[str, Any]) -> None:
    assert lowrank["reloaded"] < 2e-2 and lowrank["reloaded_layers"] == lowrank["layers"]  # stored in half precision
    assert lowrank["foreign"] < 2e-2 and lowrank["evaluates"]
