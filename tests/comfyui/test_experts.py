"""Two experts in one run against two KSamplerAdvanced: in Wan 2.2's shape and for every family; see probe_experts.py."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

ROUNDING = 1e-5
UNITS = ("step", "share of the steps", "sigma", "model timestep")
UNMIXED = ("IMG_TO_IMG", "IMG_TO_IMG_FLOW")  # these start from a picture, not from noise


@pytest.fixture(scope="module")
def experts(weights: Path, run_inside: Callable[[str, Path], dict[str, Any]]) -> dict[str, Any]:
    return run_inside("probe_experts.py", weights)


def test_every_part_of_the_probe_ran(experts: dict[str, Any]) -> None:
    assert [text for name, text in experts.items() if name.startswith("failed")] == []


def test_one_node_equals_two_ksamplers_at_the_published_boundaries(experts: dict[str, Any]) -> None:
    assert len(experts["wan"]) == 16
    for name, (difference, split, logged) in experts["wan"].items():
        assert difference < ROUNDING, name
        steps = int(name.split()[-1])
        assert 0 < split < steps and len(logged) == 1, name
        ends = f"step{'s 1 to' if split > 1 else ''} {split} of {steps}"
        assert f"stage 1 draws {ends}" in logged[0], (name, logged)


def test_the_first_models_memory_is_freed_at_the_hand_over_where_asked(experts: dict[str, Any]) -> None:
    kept, freed = experts["memory"]["False"], experts["memory"]["True"]
    assert kept[0] == ["structure", "texture"] and freed[0] == ["texture"]
    assert kept[1] == freed[1]


def test_models_that_one_conditioning_cannot_serve_are_no_single_model(experts: dict[str, Any]) -> None:
    assert len(experts["refusals"]) == 4 and all(experts["refusals"].values()), experts["refusals"]
    assert "model_type t2v against i2v" in experts["refusals"]["Wan 2.2 with Wan 2.2 image"]
    assert "one conditioning cannot serve both" in experts["refusals"]["Flux with Z-Image"]


def test_the_same_model_twice_is_the_stock_sampler_for_every_family(experts: dict[str, Any]) -> None:
    assert len(experts["families"]) >= 20
    assert [name for name, row in experts["families"].items() if not row.get("same")] == []


def test_two_models_equal_two_samplers_for_every_family_in_every_unit(experts: dict[str, Any]) -> None:
    for name, row in experts["families"].items():
        assert row["spread"] > 100 * ROUNDING, "the two models must differ"
        for unit in (*UNITS, "composite"):
            assert isinstance(row[unit], float) and row[unit] < ROUNDING, (name, unit, row[unit])


def test_a_timestep_is_refused_in_one_line_where_a_family_counts_otherwise(experts: dict[str, Any]) -> None:
    for name, row in experts["families"].items():
        assert isinstance(row["timestep"], float) or "does not count timesteps from 0 to 1000" in row["timestep"], name
    assert isinstance(experts["families"]["Wan 2.2"]["timestep"], float)
    assert isinstance(experts["families"]["Flux"]["timestep"], str) and isinstance(experts["families"]["Stable Cascade"]["timestep"], str)


def test_every_sampling_class_is_inverted(experts: dict[str, Any]) -> None:
    assert len(experts["classes"]) >= 8
    for name, row in experts["classes"].items():
        assert len(row) == 3 and row[0] < 1e-4, (name, row)


def test_every_way_of_mixing_noise_has_the_common_form(experts: dict[str, Any]) -> None:
    assert len(experts["mixing"]) >= 5
    for name, (flow, worst) in experts["mixing"].items():
        assert flow == (name in ("CONST", "IMG_TO_IMG_FLOW")), name
        assert worst < ROUNDING or name in UNMIXED, (name, worst)
