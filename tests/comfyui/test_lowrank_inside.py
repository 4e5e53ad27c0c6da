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


def test_patches_that_depend_on_the_weight_see_the_patches_before_them(lowrank: dict[str, Any]) -> None:
    assert lowrank["weighty changes"] > 1e-2 and len(lowrank["in any order"]) == 25
    for order, difference in lowrank["in any order"].items():
        assert difference < SAME, order


def test_comfyuis_other_lora_nodes_work_on_the_dense_equivalent(lowrank: dict[str, Any]) -> None:
    stock = lowrank["stock"]
    if stock["bypass"] is not None:  # ComfyUI 0.8.0 has no such node
        assert stock["bypass"] < SAME and stock["bypass is the LoRA"] < 5 * SAME and stock["bypass gone again"] < SAME
    for kind in ("STANDARD", "FULL_DIFF"):
        same, count = stock[f"{kind} shapes"]
        assert same and count > 30, kind
    assert stock["FULL_DIFF drawn"] < SAME and stock["FULL_DIFF is what was added"] < 1e-2  # stored in half precision
    assert stock["STANDARD drawn"] < 0.2, "ComfyUI clamps singular vectors by a quantile that depends on their signs"


def test_newer_versions_get_a_model_with_weights_of_its_own(lowrank: dict[str, Any]) -> None:
    for difference, shared, same_class in lowrank["own weights"] or []:  # None where ComfyUI does not ask
        assert difference < SAME and shared == 0 and same_class


def test_merging_with_another_model_works_both_ways(lowrank: dict[str, Any]) -> None:
    assert lowrank["merge_into_low"] < SAME and lowrank["merge_low_into"] < SAME


def test_a_hook_lora_is_refused_with_what_to_do(lowrank: dict[str, Any]) -> None:
    assert lowrank["hook"].startswith("InputError") and "merge the model back to dense" in lowrank["hook"]


def test_saved_and_reloaded_it_is_the_same(lowrank: dict[str, Any]) -> None:
    assert lowrank["reloaded"] < 2e-2 and lowrank["reloaded_layers"] == lowrank["layers"]  # stored in half precision
    assert lowrank["foreign"] < 2e-2 and lowrank["evaluates"]
