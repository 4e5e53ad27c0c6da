"""Attention patches in a real ComfyUI, with LoRA, ControlNet and VAE; see probe_attention.py."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

SAME = 2e-4  # of the largest value, after two steps of a random network that sharpens rounding


@pytest.fixture(scope="module")
def inside(run_inside: Callable[..., dict[str, Any]], weights: Path) -> dict[str, Any]:
    return run_inside("probe_attention.py", weights)


def test_everything_the_patch_relies_on_is_there(inside: dict[str, Any]) -> None:
    assert inside["host"] == "comfy" and inside["missing"] == []


@pytest.mark.parametrize("backend", ["auto", "tiled", "sdpa_flash"])
def test_the_picture_is_the_same_and_the_source_unchanged(inside: dict[str, Any], backend: str) -> None:
    assert inside[f"{backend} differs"] < SAME and inside[f"{backend} source unchanged"]
    calls = inside[f"{backend} calls"]
    assert sum(calls.values()) > 0 and (backend == "auto" or set(calls) == {f"self {backend}", f"cross {backend}"})


def test_patch_lora_and_controlnet_stack(inside: dict[str, Any]) -> None:
    assert inside["lora changes"] > 1e-3 and inside["control changes"] > 1e-3
    assert inside["patch, lora, control differs"] < SAME and inside["lora, patch, control differs"] < SAME
    assert inside["stack calls"]["self tiled"] > 0


def test_two_patches_stack(inside: dict[str, Any]) -> None:
    assert inside["stacked differs"] < SAME
    first, second = inside["stacked calls"]
    assert set(first) == {"self tiled"} and set(second) == {"cross sdpa_math"}


def test_a_kernel_that_turns_bad_does_not_reach_the_picture_nor_lose_the_controlnet(inside: dict[str, Any]) -> None:
    assert inside["nan differs"] < SAME and inside["nan off"] == ["flaky"]


def test_the_vae_is_patched_on_a_copy(inside: dict[str, Any]) -> None:
    assert inside["decoded differs"] < SAME and inside["encoded differs"] < SAME
    assert inside["vae calls"] == {"VAE tiled": 3} and inside["vae unchanged"] and inside["no attention to patch"]
