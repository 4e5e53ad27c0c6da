"""Distillation in ComfyUI's own process, on our models and on others; see probe_distill.py."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture(scope="module")
def distilled(weights: Path, run_inside: Callable[[str, Path], dict[str, Any]]) -> dict[str, Any]:
    return run_inside("probe_distill.py", weights)


def test_the_student_is_a_low_rank_model_that_learned(distilled: dict[str, Any]) -> None:
    assert distilled["classes"] == ["LowRankPatcher", "LowRankRapidDrawModel"] and distilled["factored"] > 10
    noise = [line["noise"] for line in distilled["log"]]
    assert sum(noise[-5:]) < 0.9 * sum(noise[:5]) and {"features", "task"} <= set(distilled["log"][0])
    assert distilled["student_differs"] > 1e-3 and distilled["trainable_left"] == 0
    assert "20 steps on 4 pictures" in distilled["report"] and distilled["plot"][-1] == 3


def test_the_teacher_is_as_before_and_the_file_is_the_student(distilled: dict[str, Any]) -> None:
    assert distilled["teacher_unchanged"] and distilled["reloaded"] < 2e-2  # stored in half precision


def test_a_cancel_keeps_what_was_learned_and_the_next_run_goes_on(distilled: dict[str, Any]) -> None:
    assert distilled["interrupt"] == "InterruptProcessingException" and distilled["unfinished"]
    assert distilled["kept"] and all(name.startswith("checkpoint-0000000") for name in distilled["kept"])
    assert distilled["resumed"] < 1e-5


def test_loras_are_taught_and_work_on_the_student(distilled: dict[str, Any]) -> None:
    assert distilled["lora_is_taught"] < 1e-4 and distilled["lora_on_student"] > 1e-3


def test_a_model_that_is_not_ours_is_distilled_in_its_own_dtype(distilled: dict[str, Any]) -> None:
    noise = [line["noise"] for line in distilled["foreign_log"]]
    assert all(value == value for value in noise) and distilled["foreign_reloaded"] < 2e-2
    assert distilled["foreign_dtype"] == "torch.float32" and distilled["half_dtypes"] == ["torch.float16"] and distilled["half_samples"]


def test_stock_nodes_take_the_student_for_what_it_is(distilled: dict[str, Any]) -> None:
    assert distilled["stock_lora"] < 1e-5
    same, half = distilled["stock_merge"]
    assert same < 2e-4 and half > 1e-3
    full, none = distilled["stock_control"]
    assert full > 1e-3 and none == 0
