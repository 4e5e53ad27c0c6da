"""Slimmed U-Nets in ComfyUI's own hands: bundles, SD 1.5's and SDXL's shapes, LoRAs on kept blocks; see probe_slim.py."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

SAME, HALF = 2e-4, 2e-2  # of sums in another order; of weights stored in half precision
FAMILIES = ("bundle", "sd15", "sdxl")


@pytest.fixture(scope="module")
def slim(weights: Path, run_inside: Callable[[str, Path], dict[str, Any]]) -> dict[str, Any]:
    return run_inside("probe_slim.py", weights)


@pytest.mark.parametrize("family", FAMILIES)
def test_copies_change_nothing_and_skipping_leaves_the_source_alone(slim: dict[str, Any], family: str) -> None:
    found = slim[family]
    assert found["copies change nothing"] and found["source unchanged"] and found["skipping changes"] > 1e-3


def test_blocks_have_the_names_that_diffusers_gives_them(slim: dict[str, Any]) -> None:
    assert slim["sd15"]["removed"] == [
        "down_blocks.0.attentions.0", "down_blocks.0.resnets.1", "mid_block.attentions.0.transformer_blocks.0.attn2",
        "up_blocks.0.resnets.1", "up_blocks.1.resnets.1",
    ]  # fmt: skip
    assert "down_blocks.1.attentions.1.transformer_blocks.1.ff" in slim["sdxl"]["blocks"]
    assert "down_blocks.0.attentions.0" not in slim["sdxl"]["blocks"] and "up_blocks.1.resnets.2" in slim["sdxl"]["blocks"]


@pytest.mark.parametrize("family", FAMILIES)
def test_a_lora_on_kept_blocks_works_before_and_after(slim: dict[str, Any], family: str) -> None:
    assert slim[family]["lora changes"] > 1e-3 and slim[family]["lora on kept blocks"] < SAME


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("kind", ["skipped", "copied", "every change"])
def test_saved_and_loaded_it_is_the_same(slim: dict[str, Any], family: str, kind: str) -> None:
    difference, same_changes, finite = slim[family][f"{kind} again"]
    assert difference < HALF and same_changes and finite


@pytest.mark.parametrize("family", FAMILIES)
def test_it_is_factored_offloaded_and_refused_by_softmax_kernels(slim: dict[str, Any], family: str) -> None:
    assert slim[family]["factored again"] < HALF and slim[family]["lowvram"] < SAME
    assert slim[family]["relu refused"].startswith("InputError: this model computes relu")


def test_blocks_are_timed(slim: dict[str, Any]) -> None:
    assert slim["latencies"]


def test_a_vaes_decoder_is_pruned_and_loaded(slim: dict[str, Any]) -> None:
    vae = slim["vae"]
    assert vae["exported"] and vae["shape"] and max(vae["source"]) < SAME and vae["encoder"] < HALF and vae["again"] < HALF
    assert 0.3 < vae["smaller"] < 0.9 and vae["changes"] > 1e-3 and "saved as pruned.safetensors" in vae["report"]


@pytest.mark.parametrize("family", ["sd15", "sdxl"])
def test_a_checkpoints_unet_is_slimmed_saved_and_takes_a_lora(slim: dict[str, Any], family: str) -> None:
    made = slim["slim"][family]
    assert made["source"] and made["removed"] and made["share"] <= 0.8
    assert made["again"] < HALF and made["same"] and made["lora"] > 1e-3
