"""`bench templates`: how two conversions are compared. No ComfyUI and no browser is started."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from rapiddraw.benchmarks.templates import differences, registry_of, unknown_nodes
from rapiddraw.cli import main
from rapiddraw.core.graph.inputs import input_specs

INFO = {
    "Sampler": {"input": {"required": {"seed": ["INT", {}], "model": ["MODEL"]}, "optional": {"grow": ["X", {}]}}, "display_name": "S"},
}
OURS: dict[str, Any] = {
    "1": {"class_type": "Sampler", "inputs": {"seed": 1, "model": ["2", 0], "grow.a": True}, "_meta": {"title": "x"}},
    "2": {"class_type": "Sampler", "inputs": {}},
}


def test_titles_whole_numbers_and_inputs_of_the_editors_own_are_not_compared() -> None:
    theirs = copy.deepcopy(OURS)
    theirs["1"] |= {"_meta": {"title": "y"}}
    theirs["1"]["inputs"] |= {"seed": 1.0, "preview": "shown"}
    assert list(differences(OURS, theirs, INFO)) == []


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("seed", 2, "value: 1 Sampler.seed is 1, the editor's is 2"),
        ("seed", True, "value: 1 Sampler.seed is 1, the editor's is true"),
        ("model", ["2", 1], 'value: 1 Sampler.model is ["2", 0], the editor\'s is ["2", 1]'),
        ("grow.b", 3, "input only in the editor's: 1 Sampler.grow.b = 3"),
    ],
)
def test_what_differs_is_named(name: str, value: Any, said: str) -> None:
    theirs = copy.deepcopy(OURS)
    theirs["1"]["inputs"][name] = value
    assert list(differences(OURS, theirs, INFO)) == [said]


def test_nodes_of_one_side_and_other_classes_are_named() -> None:
    theirs = {"1": {"class_type": "Other", "inputs": {}}, "3": OURS["2"]}
    assert list(differences(OURS, theirs, INFO)) == [
        "class: 1 is Sampler, the editor's is Other",
        "node only in ours: 2 Sampler",
        "node only in the editor's: 3 Sampler",
    ]
    del theirs["1"]
    assert "node only in ours: 1 Sampler" in list(differences(OURS, theirs, INFO))


def test_listed_classes_have_their_inputs() -> None:
    listed = registry_of(INFO)["Sampler"]
    assert list(input_specs(listed)) == ["seed", "model", "grow"] and listed.DISPLAY_NAME == "S"


def test_unknown_nodes_are_those_that_the_editor_does_not_have_either() -> None:
    nodes = [{"id": place, "type": kind} for place, kind in enumerate(("Sampler", "Note", "Reroute", "Foreign", "sub"))]
    held = {"subgraphs": [{"id": "sub", "nodes": [{"id": 9, "type": "Deeper"}], "links": []}]}
    assert unknown_nodes({"nodes": nodes, "links": [], "definitions": held}, INFO) == ["Deeper", "Foreign"]


def test_it_needs_a_comfyui(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.delenv("COMFYUI_PATH", raising=False)
    assert main(["bench", "templates"]) == 1
    assert "needs a ComfyUI" in capsys.readouterr().err
