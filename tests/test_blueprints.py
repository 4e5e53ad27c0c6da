"""The blueprints in subgraphs/: well formed, described, and each draws something with tiny random weights."""

from __future__ import annotations

import json
import uuid
from pathlib import Path

import pytest
from rapiddraw.core import paths
from rapiddraw.core.graph.edit import apply_changes, parse_assignment
from rapiddraw.core.graph.execute import execute
from rapiddraw.core.graph.formats import read_graph
from rapiddraw.core.graph.inputs import input_specs
from rapiddraw.core.graph.layout import widget_entries
from rapiddraw.core.graph.validate import validate

from .blueprints import BLUEPRINTS, blueprint, wrapped
from .repository.test_english import INSTEAD, odd_words
from .test_workflows import FEWER, nodes, orchard  # noqa: F401 (fixtures)

NAMES = ["Hand over to a second model", "Image variation", "Knowledge text to image", "Two experts", "Upscale to a size"]
SMALL = FEWER | {"ImageScale": {"width": 96, "height": 64}}


def parts(name):
    """(node that uses the definition, definition) of a blueprint."""
    graph = blueprint(name)
    (host,), (definition,) = graph["nodes"], graph["definitions"]["subgraphs"]
    return host, definition


def test_the_blueprints_are_there():
    assert BLUEPRINTS == NAMES


@pytest.mark.parametrize("name", BLUEPRINTS)
def test_the_editor_can_list_it(name):
    graph, (host, definition) = blueprint(name), parts(name)
    assert host["type"] == definition["id"] and host["title"] == definition["name"] == name, "the editor names a blueprint after its file"
    assert definition["category"] == "RapidDraw" and definition["description"] == graph["extra"]["BlueprintDescription"]
    assert len(graph["extra"]["BlueprintSearchAliases"]) >= 4
    for number in (graph["id"], definition["id"], *(slot["id"] for slot in definition["inputs"] + definition["outputs"])):
        assert str(uuid.UUID(number)) == number
    said = [definition["description"], *(slot["label"] for slot in definition["inputs"]), *(node["title"] for node in definition["nodes"])]
    assert not odd_words(" ".join(said)), f"write instead: {INSTEAD}"


def test_no_two_blueprints_share_an_id():
    ids = [parts(name)[1]["id"] for name in BLUEPRINTS]
    assert len(set(ids)) == len(ids)


@pytest.mark.parametrize("name", BLUEPRINTS)
def test_its_outside_is_its_inside(name):
    host, definition = parts(name)
    inside = {node["id"]: node for node in definition["nodes"]}
    for kind in ("inputs", "outputs"):
        assert [(slot["name"], slot["type"]) for slot in host[kind]] == [(slot["name"], slot["type"]) for slot in definition[kind]]
        assert all(slot["linkIds"] for slot in definition[kind]), "every input and output of the subgraph leads somewhere"
    for link in definition["links"]:
        number, source, slot, target, place = (link[key] for key in ("id", "origin_id", "origin_slot", "target_id", "target_slot"))
        begins = definition["inputs"][slot]["linkIds"] if source == -10 else inside[source]["outputs"][slot]["links"]
        ends = definition["outputs"][place]["linkIds"] if target == -20 else [inside[target]["inputs"][place]["link"]]
        assert number in begins and number in ends
    for place, slot in enumerate(host["inputs"]):
        ends = [inside[link["target_id"]]["inputs"][link["target_slot"]] for link in definition["links"]
                if (link["origin_id"], link["origin_slot"]) == (-10, place)]  # fmt: skip
        assert {end["type"] for end in ends} == {slot["type"]} and {"widget" in end for end in ends} == {"widget" in slot}


@pytest.mark.parametrize("name", BLUEPRINTS)
def test_widgets_inside_have_a_value_for_every_place(name, nodes):  # noqa: F811
    for node in parts(name)[1]["nodes"]:
        specs = [spec for spec in input_specs(nodes[node["type"]]).values() if spec.is_widget]
        assert len(node["widgets_values"]) == sum(len(widget_entries(spec, None)) for spec in specs)


@pytest.mark.parametrize("name", BLUEPRINTS)
def test_it_unfolds_and_draws(name, nodes):  # noqa: F811
    host, definition = parts(name)
    graph = read_graph(wrapped(name))
    api = graph.to_api(nodes)
    assert {f"{host['id']}:{node['id']}" for node in definition["nodes"]} <= set(api)
    assert validate(graph, nodes) == []
    small = [
        parse_assignment(f"{node_id}.{key}={json.dumps(value)}", api, nodes)
        for node_id, node in api.items()
        for key, value in SMALL.get(node["class_type"], {}).items()
    ]
    changed = apply_changes(graph, nodes, small)
    inner = {kind: entry["inputs"] for entry in changed.to_api(nodes).values() if (kind := entry["class_type"]) in SMALL}
    assert all(inner[kind].items() >= SMALL[kind].items() for kind in inner), "the values reach the nodes inside"
    result = execute(changed, nodes)
    saved = [image for shown in result.outputs.values() for image in shown.get("images", ()) if image["type"] == "output"]
    assert len(saved) == sum(output["type"] == "IMAGE" for output in host["outputs"])
    assert all((Path(paths.output_dir()) / image["subfolder"] / image["filename"]).is_file() for image in saved)
