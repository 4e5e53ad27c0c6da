"""Inputs that a node of the editor has at the moment, and where a file stores their values."""

from __future__ import annotations

from typing import Any

import pytest
from rapiddraw.api.engines import changed
from rapiddraw.core.errors import InputError
from rapiddraw.core.graph.convert import to_api
from rapiddraw.core.graph.edit import Change, apply_changes
from rapiddraw.core.graph.formats import Graph
from rapiddraw.core.graph.layout import to_ui
from rapiddraw.core.graph.validate import validate

FIT = {
    "required": {"width": ("INT", {"default": 8}), "seed": ("INT", {"default": 3}), "images": ("COMFY_AUTOGROW_V3", {"template": {}})},
    "optional": {"crop": (["no", "middle"], {})},
}


class Resize:
    """A dynamic combo with an option inside an option, between two plain widgets."""

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        deep = {"options": [{"key": "low", "inputs": {}}, {"key": "high", "inputs": {"required": {"steps": ("INT", {"default": 5})}}}]}
        options = [
            {"key": "scale", "inputs": {"required": {"factor": ("FLOAT", {"default": 2.0})}}},
            {"key": "fit", "inputs": FIT},
            {"key": "deep", "inputs": {"required": {"quality": ("COMFY_DYNAMICCOMBO_V3", deep)}}},
            {"key": "none", "inputs": {}},
        ]
        return {
            "required": {
                "name": ("STRING", {"default": "a"}),
                "mode": ("COMFY_DYNAMICCOMBO_V3", {"options": options}),
                "last": ("INT", {"default": 1}),
            },
            "optional": {"more": ("COMFY_AUTOGROW_V3", {"template": {}})},
        }

    RETURN_TYPES = ("INT",)
    OUTPUT_NODE = True
    FUNCTION = "execute"


class Drawn:
    """Widgets that the editor draws for types of its own."""

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {
                "view": ("IMAGECOMPARE", {}),
                "box": ("BOUNDING_BOX", {}),
                "scene": ("LOAD_3D", {}),
                "color": ("COLOR", {}),
                "mask": ("STRING,MASK", {"widgetType": "STRING", "default": "m"}),
                "curve": ("CURVE", {"forceInput": True}),
            }
        }

    RETURN_TYPES = ()
    OUTPUT_NODE = True
    FUNCTION = "execute"


REGISTRY: dict[str, type] = {"Resize": Resize, "Drawn": Drawn}


def graph(values: Any, kind: str = "Resize", slots: tuple[tuple[str, int], ...] = ()) -> dict[str, Any]:
    """One node of `kind` with these values; each of `slots` is (name, link), fed by output 0 of the node 9, a Drawn."""
    inputs = [{"name": name, "type": "INT", "link": number} for name, number in slots]
    nodes = [{"id": 1, "type": kind, "widgets_values": values, "inputs": inputs, "outputs": []}]
    if slots:
        nodes.append({"id": 9, "type": "Resize", "widgets_values": [], "inputs": [], "outputs": [{"name": "x", "type": "INT"}]})
    return {"nodes": nodes, "links": [[number, 9, 0, 1, place, "INT"] for place, (_, number) in enumerate(slots)]}


@pytest.mark.parametrize(
    ("values", "wanted"),
    [
        (["b", "scale", 4.0, 7], {"name": "b", "mode": "scale", "mode.factor": 4.0, "last": 7}),
        (
            ["b", "fit", 64, 5, "no", 7],
            {"name": "b", "mode": "fit", "mode.width": 64, "mode.seed": 5, "mode.crop": "no", "last": 7},
        ),
        (["b", "deep", "high", 9, 7], {"name": "b", "mode": "deep", "mode.quality": "high", "mode.quality.steps": 9, "last": 7}),
        (["b", "deep"], {"name": "b", "mode": "deep", "mode.quality": "low", "last": 1}),
        (["b", "none", 7], {"name": "b", "mode": "none", "last": 7}),
        (["b", "not there", 7], {"name": "b", "mode": "not there", "last": 7}),
        ([], {"name": "a", "mode": "scale", "mode.factor": 2.0, "last": 1}),
        (
            {"mode": "deep", "mode.quality": "high"},
            {"name": "a", "mode": "deep", "mode.quality": "high", "mode.quality.steps": 5, "last": 1},
        ),
    ],
)
def test_a_dynamic_combo_is_followed_by_the_inputs_of_its_option(values: Any, wanted: dict[str, Any]) -> None:
    assert to_api(graph(values), REGISTRY)["1"]["inputs"] == wanted


def test_links_reach_inputs_that_grow_and_those_of_the_option_chosen() -> None:
    slots = (("more.item0", 11), ("mode.images.image_1", 12), ("mode.width", 13), ("mode.factor", 14), ("mode.imagesx", 15))
    sent = to_api(graph(["b", "fit", 64, 5, "no", 7], slots=slots), REGISTRY)["1"]["inputs"]
    assert {name for name, value in sent.items() if value == ["9", 0]} == {"more.item0", "mode.images.image_1", "mode.width"}
    assert validate(to_api(graph(["b", "scale", 4.0, 7], slots=slots[:1]), REGISTRY), REGISTRY) == []


def test_widgets_of_the_editors_own_types_store_more_or_less_than_their_value() -> None:
    box = {"x": 1, "y": 2, "width": 3, "height": 4}
    wanted = {"view": {"__value__": ["", ""]}, "box": box, "scene": "s", "color": "#ffffff", "mask": "n"}
    buttons = ["upload3dmodel", "uploadExtraResources", "clear"]
    assert to_api(graph([box, 1, 2, 3, 4, *buttons, "s", "#ffffff", "n"], "Drawn"), REGISTRY)["1"]["inputs"] == wanted
    assert to_api(graph([box, 1, 2, 3, 4, "s", "#ffffff", "n"], "Drawn"), REGISTRY)["1"]["inputs"] == wanted
    fresh = to_api(graph([], "Drawn"), REGISTRY)["1"]["inputs"]
    assert fresh["box"] == {"x": 0, "y": 0, "width": 512, "height": 512} and (fresh["color"], fresh["mask"]) == ("#000000", "m")


@pytest.mark.parametrize("values", [["b", "fit", 64, 5, "middle", 7], ["b", "deep", "high", 9, 7], ["b", "scale", 4.0, 7]])
def test_the_layout_writes_what_the_conversion_reads(values: list[Any]) -> None:
    api = to_api(graph(values), REGISTRY)
    assert {key: node["inputs"] for key, node in to_api(to_ui(api, REGISTRY), REGISTRY).items()} == {"1": api["1"]["inputs"]}


@pytest.mark.parametrize(("stored", "name"), [(["b", "fit", 64, 5, "no", 7], "mode.crop"), (["b", "deep", "high"], "mode.quality.steps")])
def test_a_change_reaches_an_input_of_the_option_chosen(stored: list[Any], name: str) -> None:
    ui = graph(stored)
    before = to_api(ui, REGISTRY)["1"]["inputs"]
    changed = apply_changes(Graph(ui=ui), REGISTRY, [Change("1", name, "new")])
    assert changed.ui is not None
    assert to_api(changed.ui, REGISTRY)["1"]["inputs"] == before | {name: "new"}


@pytest.mark.parametrize(
    ("stored", "text", "wanted"),
    [
        (["b", "scale", 4.0, 7], "Resize.mode.factor=3", {"mode": "scale", "mode.factor": 3}),
        (["b", "deep", "high", 9, 7], "1.mode.quality.steps=8", {"mode": "deep", "mode.quality": "high", "mode.quality.steps": 8}),
        (["b", "scale", 4.0, 7], "1.mode=deep", {"mode": "deep", "mode.quality": "low"}),
        (["b", "deep", "low", 7], "1.mode.quality=high", {"mode": "deep", "mode.quality": "high", "mode.quality.steps": 5}),
        (["b", "deep", "high", 9, 7], "1.mode=none", {"mode": "none"}),
    ],
)
def test_an_assignment_reaches_a_dynamic_combo_and_its_options(stored: list[Any], text: str, wanted: dict[str, Any]) -> None:
    changed = changed_by(Graph(ui=graph(stored)), text)
    assert changed.ui is not None and changed.api is not None
    assert changed.api["1"]["inputs"] == to_api(changed.ui, REGISTRY)["1"]["inputs"] == {"name": "b", "last": 7} | wanted
    assert validate(changed.api, REGISTRY) == []


def test_an_option_that_is_chosen_brings_inputs_for_the_next_assignment() -> None:
    start = Graph(ui=graph(["b", "none", 7]))
    assert changed_by(start, "1.mode=scale", "1.mode.factor=3").api["1"]["inputs"]["mode.factor"] == 3
    with pytest.raises(InputError, match=r"has no input 'mode.factor'.*It has name, mode, last"):
        changed_by(start, "1.mode.factor=3", "1.mode=scale")


def changed_by(start: Graph, *assignments: str) -> Graph:
    return changed(start, REGISTRY, assignments, None)
