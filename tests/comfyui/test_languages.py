"""Knowledge at the token embeddings of T5, umT5, Qwen, Gemma and Llama, through ComfyUI's own classes; see probe_languages.py."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

WIDTHS = {
    "Flux": {"l": 768, "t5xxl": 48}, "Wan": {"umt5xxl": 48}, "Z-Image": {"qwen3_4b": 64}, "Qwen-Image": {"qwen25_7b": 64},
    "Lumina 2": {"gemma2_2b": 64}, "Llama": {"llama": 64},
}  # fmt: skip
CASED = {"plain": 1, "first": 1, "capital": 1, "shouted": 1, "bracket": 1, "chinese": 1, "part of a word": 0, "frame": 0, "two": 2}


@pytest.fixture(scope="module")
def languages(weights: Path, run_inside: Callable[[str, Path], dict[str, Any]]) -> dict[str, Any]:
    return run_inside("probe_languages.py", weights)


@pytest.mark.parametrize("kind", WIDTHS)
def test_every_encoder_is_read_by_its_own_width(languages: dict[str, Any], kind: str) -> None:
    assert languages[kind]["widths"] == languages[kind]["tables"] == WIDTHS[kind]
    assert languages[kind]["unfitted"].startswith("KnowledgeError") and "Fit Knowledge Projection" in languages[kind]["unfitted"]


@pytest.mark.parametrize("kind", WIDTHS)
def test_names_are_found_however_they_stand_in_the_prompt_and_not_around_it(languages: dict[str, Any], kind: str) -> None:
    links = languages[kind]["links"]
    if kind == "Flux":  # CLIP-L and T5 each report a name, at other places; T5's vocabulary has no Chinese
        assert {name: min(count, 1) for name, count in links.items()} == {name: min(count, 1) for name, count in CASED.items()}
    else:
        assert links == CASED


@pytest.mark.parametrize("kind", WIDTHS)
def test_the_tokens_that_the_model_reads_move(languages: dict[str, Any], kind: str) -> None:
    said = languages[kind]
    assert said["tokens moved"] > 1e-3 and said["same shape"] and said["equation"] and said["node"]


@pytest.mark.parametrize("kind", WIDTHS)
@pytest.mark.parametrize("case", ["scale 0", "no entity", "empty"])
def test_it_is_bit_identical(languages: dict[str, Any], kind: str, case: str) -> None:
    assert languages[kind][case]


def test_a_projection_for_clip_alone_still_informs_clip_alone(languages: dict[str, Any]) -> None:
    assert languages["Flux"]["old"] == [True, False]
