"""Knowledge on the CLIP of a user's own checkpoint: SD 1.5's, SDXL's and the refiner's classes of ComfyUI; see probe_knowledge.py."""

from __future__ import annotations

from typing import Any

import pytest

KINDS = {"SD 1.5": {"l": 768}, "SD 1.5 in half": {"l": 768}, "SDXL": {"l": 768, "g": 1280}, "SDXL refiner": {"g": 1280}}


@pytest.fixture(params=sorted(KINDS))
def kind(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def found(probe: dict[str, Any], kind: str) -> dict[str, Any]:
    return probe["knowledge"][kind]


def test_without_a_fit_the_node_says_so(probe: dict[str, Any], kind: str) -> None:
    said = probe["knowledge"]["errors"][f"{kind}, no fit"]
    assert said.startswith("KnowledgeError: this CLIP was not trained to read knowledge graphs") and "Fit Knowledge Projection" in said
    assert all(f"{key} (width {width})" in said for key, width in KINDS[kind].items())


def test_every_encoder_gets_the_w_that_its_names_were_made_with(found: dict[str, Any], kind: str) -> None:
    assert found["widths"] == {key: [width, 8] for key, width in KINDS[kind].items()}
    assert found["recovered"] < (1e-3 if "half" in kind else 1e-6)
    assert "better than the mean name" in found["report"] and found["saved"] in found["report"]


def test_a_projection_that_does_not_fit_is_refused_by_name(probe: dict[str, Any], kind: str) -> None:
    errors = probe["knowledge"]["errors"]
    name = kind.replace(" ", "-")
    assert errors[f"{kind}, another graph"].startswith(f"KnowledgeError: {name}.safetensors was fitted to the vectors of another")
    if KINDS[kind] != KINDS["SD 1.5"]:
        assert errors[f"{kind}, of SD 1.5"].startswith("KnowledgeError: SD-1.5.safetensors was fitted for a CLIP with l (width 768), this")


@pytest.mark.parametrize("case", ["scale 0", "no entity", "empty", "without a vector", "carried_is_saved", "source unchanged"])
def test_it_is_bit_identical(found: dict[str, Any], case: str) -> None:
    assert found[case]


def test_the_equation_holds_on_the_tokens_of_the_name_and_nowhere_else(found: dict[str, Any], kind: str) -> None:
    assert found["equation"] and set(found["places"]) == set(KINDS[kind])
    assert found["unchanged before the name"] and found["changed at the name"] > 1e-3 and found["pooled changed"] > 1e-3


def test_names_are_found_as_the_tokenizer_spells_them(found: dict[str, Any]) -> None:
    assert found["spelled right"]


def test_a_new_thing_from_its_facts_is_known_through_the_same_projection(found: dict[str, Any]) -> None:
    assert found["extended"] == [True, True], "a new name adds knowledge, and those that were known before are as before"


def test_weights_long_prompts_and_clip_skip_keep_working(found: dict[str, Any]) -> None:
    assert set(found["weight kept"].split("1.3")) == {""}
    assert found["rows"] > 1 and found["first row equal"] and found["last row changed"] > 1e-3
    assert found["skip"]


def test_a_lora_works_before_and_after(found: dict[str, Any]) -> None:
    assert found["lora"] == {"any order": True, "matters": True, "gone again": True}


def test_comfyui_manages_its_memory(found: dict[str, Any]) -> None:
    assert found["managed"]
