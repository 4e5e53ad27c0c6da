"""The bridges between models of different families, inside ComfyUI; see probe_families_bridge.py."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture(scope="module")
def bridges(weights: Path, run_inside: Callable[..., dict[str, Any]]) -> dict[str, Any]:
    return run_inside("probe_families_bridge.py", weights)


def test_strength_0_is_model_a_bit_for_bit_in_every_family(bridges: dict[str, Any]) -> None:
    assert len(bridges["zero"]) >= 20 and all(same is True for same in bridges["zero"].values()), bridges["zero"]


def test_every_family_is_fused_with_one_of_the_other_convention(bridges: dict[str, Any]) -> None:
    for name, said in bridges["fused"].items():
        assert not isinstance(said, str), f"{name}: {said}"
        assert said[0] and said[3] > 1e-3, f"{name}: {said}"


def test_models_of_other_numbers_of_frames_are_refused_in_one_line(bridges: dict[str, Any]) -> None:
    assert bridges["frames"] and all("the same number of frames" in said for said in bridges["frames"].values()), bridges["frames"]


def test_model_b_alone_is_itself_at_levels_of_the_same_ratio(bridges: dict[str, Any]) -> None:
    assert all(error < 1e-5 for error in bridges["b_alone"].values()), bridges["b_alone"]


def test_a_hand_over_to_another_family_has_that_familys_noise(bridges: dict[str, Any]) -> None:
    for pair, said in bridges["noise"].items():
        assert not isinstance(said, str), f"{pair}: {said}"
        assert abs(said["mean"]) < 0.02 and abs(said["std"] - 1) < 0.02 and abs(said["lag"]) < 0.02 and abs(said["said"] - 1) < 0.02, pair
        assert said["levels"][0] == pytest.approx(said["levels"][1], rel=1e-4), pair


def test_pictures_and_videos_are_drawn_across_families(bridges: dict[str, Any]) -> None:
    for pair, said in bridges["across"].items():
        assert said[0] is True and said[1][0] == 2 and said[2][0] in (2, 10), f"{pair}: {said}"


def test_masks_keep_their_part_in_both_models(bridges: dict[str, Any]) -> None:
    for pair, (kept_a, drawn_a, kept_b, drawn_b) in bridges["masked"].items():
        assert kept_a < 1e-4 and kept_b < 1e-4 and drawn_a > 0.1 and drawn_b > 0.1, pair


def test_a_flow_trained_bundle_is_a_flow_model_in_both_hosts(bridges: dict[str, Any]) -> None:
    found = bridges["flow_bundle"]
    assert found["flow"] == [True, True] and found["levels"] < 1e-6 and found["pictures"] < 1e-3, found
