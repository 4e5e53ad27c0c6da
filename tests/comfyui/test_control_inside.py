"""Control adapters in ComfyUI's own hands: stock nodes, chains, ranges, memory, stops; see probe_control.py."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

SAME = 2e-4  # of sums in another order, through a whole U-Net


@pytest.fixture(scope="module")
def control(weights: Path, run_inside: Callable[[str, Path], dict[str, Any]]) -> dict[str, Any]:
    return run_inside("probe_control.py", weights)


def test_no_training_and_no_strength_change_nothing(control: dict[str, Any]) -> None:
    assert control["is_control_base"] and control["untrained_is_base"] and control["strength_0"]


def test_stock_nodes_apply_chain_and_time_it(control: dict[str, Any]) -> None:
    assert control["changes"] > 1e-3 and control["stock_equals_ours"] and control["stock_alone"] < SAME
    assert control["chain"] < SAME and control["after_the_end"] and min(control["half"]) > 1e-4 and control["other_size_and_batch"]


def test_it_is_loaded_cleaned_and_left_as_it_was(control: dict[str, Any]) -> None:
    assert control["again"] and control["cleaned"] and control["models"] and control["original_untouched"]


def test_both_hosts_compute_the_same(control: dict[str, Any]) -> None:
    assert control["hosts_agree"] < SAME


def test_low_rank_models_low_rank_adapters_and_low_memory(control: dict[str, Any]) -> None:
    assert control["on_low_rank_model"] > 1e-3 and control["factored_adapter"] > 5 and control["factored_changes"] > 1e-3
    assert control["low_vram"] < SAME


def test_a_stopped_run_leaves_nothing_behind(control: dict[str, Any]) -> None:
    assert control["stopped"] == "InterruptProcessingException" and control["seen_by_wrappers"] == [True, True]
    assert control["after_a_stop"]


def test_what_does_not_fit_is_refused_by_name(control: dict[str, Any]) -> None:
    assert control["other_model"].startswith("InputError") and "another U-Net" in control["other_model"]
    assert "no condition is given" in control["no_condition"] and "edges, segmentation, sketch" in control["unknown_condition"]
    assert all(line.startswith("BundleError: bad.safetensors") for line in control["refused"])
