"""The prompt enhancer as a node."""

from __future__ import annotations

import pytest
from rapiddraw.core.errors import BundleError
from rapiddraw.core.operations.enhance import GRAMMAR
from rapiddraw.nodes.enhance import PromptEnhancer
from rapiddraw.tests import helpers

INPUTS = {"text": "a mirado", "model": GRAMMAR, "num_candidates": 2, "temperature": 0.7, "seed": 1, "language": "auto", "best_of": "first"}


def test_it_shows_what_it_says(tiny_pack):
    shown = PromptEnhancer().execute(**INPUTS, knowledge=helpers.tiny_graph())
    assert (
        shown["ui"]["text"] == [shown["result"][0]]
        and "mirado" in shown["result"][0]
        and "kept letter by letter: mirado" in shown["result"][1]
    )
    assert PromptEnhancer.INPUT_TYPES()["required"]["model"][0] == ["tiny-prompt.safetensors", GRAMMAR]


def test_a_bundle_writes_as_well_and_ranks_by_clip(tiny_pack):
    inputs = {**INPUTS, "model": "tiny-prompt.safetensors", "best_of": "clip", "scorer": "tiny-text.safetensors"}
    text, report = PromptEnhancer().execute(**inputs)["result"]
    assert "mirado" in text and report
    assert PromptEnhancer.IS_CHANGED("tiny-prompt.safetensors") != PromptEnhancer.IS_CHANGED(GRAMMAR)


@pytest.mark.parametrize("name", ["gone", "../x", "x.safetensors", ""])
def test_an_unknown_model_is_an_error_with_its_name(tiny_pack, name):
    with pytest.raises((BundleError, ValueError)):
        PromptEnhancer().execute(**{**INPUTS, "model": name})
