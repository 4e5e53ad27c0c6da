"""Low-rank MODELs of every family in ComfyUI's own hands; see probe_lowrank_families.py and probe_lowrank_quantized.py."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

SAME, HALF = 2e-5, 5e-3  # of sums in another order; of weights that were stored in half precision
NO_MODULATION = ("JoyImage",)  # its scales and shifts are parameters, not layers
SLOW = ("Anima",)  # its text adapter is as wide in a small model as in a large one


@pytest.fixture(scope="module")
def families(weights: Path, run_inside: Callable[..., dict[str, Any]]) -> dict[str, Any]:
    found = run_inside("probe_lowrank_families.py", weights, "not", *SLOW)
    for name, said in found.items():
        assert "error" not in said, f"{name}: {said['trace']}"
    assert len(found) >= 20
    return found


@pytest.fixture(scope="module")
def quantized(weights: Path, run_inside: Callable[..., dict[str, Any]]) -> dict[str, Any]:
    return run_inside("probe_lowrank_quantized.py", weights)


def test_full_rank_is_the_dense_model_and_a_lower_one_is_not(families: dict[str, Any]) -> None:
    for name, said in families.items():
        assert said["finite"] and said["full rank"] < SAME, name
        assert said["low differs"] > 1e-5 and said["source unchanged"], name
        assert said["merged back"] < SAME, name


def test_layers_of_every_role_are_found(families: dict[str, Any]) -> None:
    for name, said in families.items():
        assert {"attention", "feed_forward"} <= set(said["roles"]), name
        assert ("modulation" in said["roles"]) == (name not in NO_MODULATION), name
        assert "multiply-adds" in said["report"] and "step ms" in said["report"], name


def test_loras_in_each_layout_of_keys_do_what_they_do_to_the_dense_model(families: dict[str, Any]) -> None:
    for name, said in families.items():
        assert len(said["loras"]) >= 2, name
        assert max(changed for _, changed, _, _ in said["loras"].values()) > 1e-3, name
        for layout, (difference, _, patches, dense) in said["loras"].items():
            assert difference < SAME and patches > 0, f"{name}: {layout}"
            assert dense <= 1, f"{name}: {layout}: parts of a fused weight stay low-rank"


def test_saved_and_reloaded_they_are_the_same(families: dict[str, Any]) -> None:
    for name, said in families.items():
        assert said["reloaded"] < HALF and said["dense reloaded"] < HALF, name


def test_weights_that_no_factor_replaces_are_held_once(families: dict[str, Any]) -> None:
    for name, said in families.items():
        assert said["shared"] == 1.0, name


def test_a_model_that_needs_a_prompt_to_be_measured_says_so(families: dict[str, Any]) -> None:
    refused = {name: said["refused"] for name, said in families.items() if "refused" in said}
    assert len(refused) >= 15
    for name, message in refused.items():
        assert message.startswith("InputError") and "link positive" in message, name


def test_quantized_layers_are_left_alone_with_a_line_that_says_so(quantized: dict[str, Any]) -> None:
    assert quantized["finite"]
    for key in ("all quantized", "stored in 8 bits"):
        assert quantized[key].startswith("InputError: all ") and "quantized (float8_e4m3fn)" in quantized[key]
    assert quantized["factored"] == ["single_blocks.0.linear1", "single_blocks.0.linear2"]
    assert quantized["report"].count("quantized (float8_e4m3fn), left alone") == 8
    assert quantized["low differs"] > 1e-3 and quantized["merged back"] < SAME
    assert quantized["reloaded"] < HALF and quantized["still quantized"] == 10


def test_it_works_where_comfyui_streams_weights(quantized: dict[str, Any]) -> None:
    streamed = quantized["streamed"]
    if streamed is None:
        pytest.skip("this ComfyUI does not stream weights")
    assert streamed["low differs"] > 1e-3
    assert streamed["merged back"] < SAME and streamed["reloaded"] < HALF and streamed["bundle"] < SAME
