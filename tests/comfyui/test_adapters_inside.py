"""Kronecker adapters and image prompts in ComfyUI's own hands; see probe_adapters.py."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

SAME = 2e-4  # of sums in another order, through a whole U-Net


@pytest.fixture(scope="module")
def adapters(weights: Path, run_inside: Callable[[str, Path], dict[str, Any]]) -> dict[str, Any]:
    return run_inside("probe_adapters.py", weights)


def test_an_adapter_is_a_patch_like_any_other(adapters: dict[str, Any]) -> None:
    assert adapters["strength_0_is_the_model"] and adapters["source_unchanged"] and adapters["changes"] > 1e-3
    for name in ("twice_half_is_one", "there_and_back", "lowvram", "merge_is_exact", "on_low_rank", "with_a_lora_in_any_order"):
        assert adapters[name] < SAME, name
    assert adapters["saved"] < 2e-2  # stored in half precision


def test_another_models_adapter_is_refused_by_layer(adapters: dict[str, Any]) -> None:
    assert adapters["other_model"].startswith("BundleError") and "was made for another one" in adapters["other_model"]


def test_a_picture_prompts_the_model_alone_and_after_a_text(adapters: dict[str, Any]) -> None:
    assert adapters["prompted"] == [True, True]
    assert "no projection was trained for this CLIP_VISION (1024 features)" in adapters["clip_vision"]
