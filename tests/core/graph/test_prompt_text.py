"""Choices, comments and tokens are resolved as ComfyUI's editor resolves them."""

from __future__ import annotations

from datetime import datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rapiddraw.core.graph.convert import to_api
from rapiddraw.core.graph.edit import with_seed
from rapiddraw.core.graph.formats import Graph
from rapiddraw.core.graph.prompt_text import format_date, resolve_choices, resolve_tokens

WHEN = datetime(2026, 3, 4, 5, 6, 7)


@pytest.mark.parametrize(
    ("text", "possible"),
    [
        ("a pear", {"a pear"}),
        ("a {red|green} pear", {"a red pear", "a green pear"}),
        ("{a|b{c|d}}", {"a", "bc", "bd"}),
        ("{one}", {"one"}),
        ("{a|}b", {"ab", "b"}),
        (r"\{a\|b\}", {"{a|b}"}),
        ("a // to the end\nb", {"a \nb"}),
        ("a /* over\nlines */b", {"a b"}),
        ("{a|b", {"a", "b"}),
        ("a}b", {"a}b"}),
        ("end\\", {"end\\"}),
        ("a \\n b", {"a \\n b"}),
    ],
)
def test_choices_and_comments(text, possible):
    assert {resolve_choices(text, seed) for seed in range(40)} == possible


@given(st.text("ab{}|\\/* \n", max_size=60), st.integers())
def test_any_prompt_resolves_to_the_same_text_again(text, seed):
    assert resolve_choices(text, seed) == resolve_choices(text, seed)


@pytest.mark.parametrize("text", ["{" * 200_000, "{a|" * 50_000 + "}" * 50_000, "/*" * 100_000, "\\" * 200_001])
def test_long_hostile_prompts_come_back_soon(text):
    assert isinstance(resolve_choices(text, 1), str)


@pytest.mark.parametrize(
    ("pattern", "text"),
    [
        ("yyyy-MM-dd", "2026-03-04"),
        ("yy M d", "26 3 4"),
        ("hhmmss", "050607"),
        ("h:m:s", "5:6:7"),
        ("yyy", "yyy"),
        ("", ""),
        ("day", "4ay"),
    ],
)
def test_dates(pattern, text):
    assert format_date(pattern, WHEN) == text


def test_tokens():
    values = {("Pear", "size"): 3.0, ("Pear", "name"): "a/b:c", ("Pear", "ripe"): True, ("Pear", "none"): None}

    def value_of(node, widget):
        return values[node, widget]

    text = "%date:yyyy%/%Pear.size%_%Pear.name%_%Pear.ripe%%Pear.none%"
    assert resolve_tokens(text, value_of, WHEN) == "2026/3_a_b_c_true"
    for kept in ("%width%", "%year%", "%Plum.size%", "%Pear.colour%", "%a.b.c%", "100%", "%%"):
        assert resolve_tokens(kept, value_of, WHEN) == kept


class Prompt:
    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"text": ("STRING", {"dynamicPrompts": True}), "seed": ("INT", {"default": 0})}}

    RETURN_TYPES = ("INT",)
    FUNCTION = "execute"


def test_a_prompt_is_resolved_once_for_each_seed_and_stays_as_written_in_the_editors_form():
    registry = {"Prompt": Prompt}
    graph = Graph(ui={"nodes": [{"id": 1, "type": "Prompt", "widgets_values": ["a {red|green} pear", 1, "randomize"]}], "links": []})
    texts = {}
    for seed in range(30):
        seeded = with_seed(graph, registry, seed)
        texts[seed] = to_api(seeded.ui, registry)["1"]["inputs"]["text"]
        assert to_api(seeded.ui, registry)["1"]["inputs"]["text"] == texts[seed]
        assert seeded.ui["nodes"][0]["widgets_values"][0] == "a {red|green} pear"
    assert set(texts.values()) == {"a red pear", "a green pear"}


def test_only_what_the_editor_resolves_is_resolved():
    registry = {"Prompt": Prompt, "SaveImage": Prompt}
    stored = {"id": 1, "type": "Prompt", "widgets_values": {"text": "%date:yyyy%", "seed": 1}}
    assert to_api({"nodes": [stored], "links": []}, registry)["1"]["inputs"]["text"] == "%date:yyyy%"
    api = {"1": {"class_type": "Prompt", "inputs": {"text": "{a|b}", "seed": 1}}}
    assert Graph(api=api).to_api(registry)["1"]["inputs"]["text"] == "{a|b}", "a graph in API format is sent as it is"
