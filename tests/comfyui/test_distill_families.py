"""Distillation of flow models and other transformers in ComfyUI's own process; see probe_distill_families.py."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture(scope="module")
def distilled(weights: Path, run_inside: Callable[[str, Path], dict[str, Any]]) -> dict[str, Any]:
    return run_inside("probe_distill_families.py", weights)


def test_a_student_of_a_flow_model_learns_and_its_file_is_the_student(distilled: dict[str, Any]) -> None:
    students = {name: said for name, said in distilled.items() if name not in ("refused", "profile", "fused kernel")}
    assert len(students) >= 5
    for name, said in students.items():
        noise = said["noise"]
        assert len(noise) == 20 and sum(noise[-5:]) < 0.9 * sum(noise[:5]), name
        assert said["finite"] and said["reloaded"] < 5e-3, name
        assert "20 steps on 4 pictures" in said["report"], name


def test_what_cannot_be_distilled_is_refused_before_any_layer_is_factored(distilled: dict[str, Any]) -> None:
    refused = distilled["refused"]
    for name, (message, factored) in refused.items():
        assert message.startswith("InputError") and factored == 0, name
    assert "takes more than a text" in refused["SD 1.5 inpainting"][0] and "takes more than a text" in refused["Wan 2.2 image"][0]
    # Where ComfyUI computes Cosmos by a kernel that has no gradients, that is said first.
    said = "rms_rope_split_half, a kernel that has no gradients" if distilled["fused kernel"] else "flow models"
    assert said in refused["Cosmos Predict 2"][0]
    assert "set features to 0" in refused["Flux"][0]


def test_the_profile_of_a_transformer_has_rows_for_its_layers(distilled: dict[str, Any]) -> None:
    for name, rows in distilled["profile"].items():
        assert "transformer loop" in rows and "U-Net loop" not in rows, name
        wanted = {"attention projections", "feed-forward", "modulation"} | ({"attention and feed-forward"} if name == "Flux" else set())
        assert wanted == {row for row, (inside, _, _) in rows.items() if inside}, name
        for row in wanted:
            assert rows[row][1] > 0 and rows[row][2] > 0, f"{name}: {row}"
        assert sum(rows[row][2] for row in wanted) < rows["transformer loop"][2], name
