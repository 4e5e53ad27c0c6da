"""Conversion from the API format to the UI format: nodes get sizes and places, so that the graph is easy to read in the editor."""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping
from typing import Any

from .arrange import arrange
from .inputs import InputSpec, Registry, SpecsOf, is_link, links_of, title_of, unwrap
from .widgets import NOT_STORED, live_specs


def to_ui(api: Mapping[str, Any], registry: Registry) -> dict[str, Any]:
    """Return the UI form of a graph in API format, laid out by :func:`~.arrange.arrange`.

    Nodes of unknown classes keep their links and their constants (by name). The workflow id is a UUID made from the content, so
    that the same graph always gives the same file.
    """
    specs_of = SpecsOf(registry)
    nodes = {node_id: _node(node_id, node, registry, specs_of) for node_id, node in api.items()}
    links: list[list[Any]] = []
    for node_id, node in api.items():
        slots = {slot["name"]: index for index, slot in enumerate(nodes[node_id]["inputs"])}
        for name, (source, slot) in links_of(node).items():
            outputs = nodes[source]["outputs"] if source in nodes else []
            while source in nodes and len(outputs) <= slot < 64:  # an unknown class does not say what it gives
                outputs.append({"name": "*", "type": "*", "links": []})
            if not 0 <= slot < len(outputs):
                continue
            number = len(links) + 1
            links.append([number, _ui_id(source), slot, _ui_id(node_id), slots[name], outputs[slot]["type"]])
            outputs[slot]["links"].append(number)
            nodes[node_id]["inputs"][slots[name]]["link"] = number
    numbers = [node["id"] for node in nodes.values() if isinstance(node["id"], int)]
    graph = {
        "id": str(uuid.uuid5(uuid.NAMESPACE_URL, json.dumps(api, sort_keys=True))),
        "revision": 0,
        "last_node_id": max(numbers, default=0),
        "last_link_id": len(links),
        "nodes": list(nodes.values()),
        "links": links,
        "groups": [],
        "config": {},
        "extra": {"ds": {"scale": 1.0, "offset": [0, 0]}},
        "version": 0.4,
    }
    return arrange(graph, registry)


def widget_entries(spec: InputSpec, value: Any) -> list[Any]:
    """Return the entries of `widgets_values` that one widget stores: its value, and the editor's own widget behind it."""
    if spec.type in NOT_STORED:
        return []
    if spec.type == "BOUNDING_BOX":
        return [value, *(value.get(part) if isinstance(value, Mapping) else None for part in ("x", "y", "width", "height"))]
    if spec.is_seed:
        return [value, "fixed", ""] if spec.type == "COMBO" else [value, "fixed"]
    return [value, "image"] if spec.is_upload else [value]


def _node(node_id: str, node: Mapping[str, Any], registry: Registry, specs_of: SpecsOf) -> dict[str, Any]:
    kind = node.get("class_type", "")
    node_class, given = registry.get(kind), node.get("inputs", {})
    specs = live_specs({"widgets_values": {name: unwrap(value) for name, value in given.items()}}, specs_of[kind])
    inputs: list[dict[str, Any]] = []
    values: list[Any] = []
    for spec in specs.values():
        if not spec.is_widget:
            inputs.append({"name": spec.name, "type": spec.type, "link": None})
            continue
        linked = is_link(given.get(spec.name))
        if linked:
            inputs.append({"name": spec.name, "type": spec.type, "widget": {"name": spec.name}, "link": None})
        values += widget_entries(spec, spec.default if linked else unwrap(given.get(spec.name, spec.default)))
    inputs += [{"name": name, "type": "*", "link": None} for name in links_of(node) if name not in specs]
    stored: Any = values if node_class else {name: unwrap(value) for name, value in given.items() if not is_link(value)}
    ui: dict[str, Any] = {
        "id": _ui_id(node_id),
        "type": kind,
        "pos": [0, 0],
        "size": [0, 0],
        "flags": {},
        "order": 0,
        "mode": 0,
        "inputs": inputs,
        "outputs": _outputs(node_class),
        "properties": {"Node name for S&R": kind},
        "widgets_values": stored,
    }
    if title_of(node):
        ui["title"] = title_of(node)
    return ui


def _outputs(node_class: type | None) -> list[dict[str, Any]]:
    kinds = [kind if isinstance(kind, str) else "COMBO" for kind in getattr(node_class, "RETURN_TYPES", ())]
    names = list(getattr(node_class, "RETURN_NAMES", None) or kinds)
    slots = enumerate(zip(names, kinds, strict=True))
    return [{"name": name, "type": kind, "slot_index": index, "links": []} for index, (name, kind) in slots]


def _ui_id(node_id: str) -> int | str:
    return int(node_id) if node_id.isdecimal() and node_id == str(int(node_id)) else node_id
