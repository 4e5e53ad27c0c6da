"""Conversion from the API format to the UI format: every node gets a place, so that the graph is easy to read in ComfyUI's editor."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator, Mapping
from typing import Any

from .inputs import InputSpec, Registry, SpecsOf, is_link, links_of, title_of, unwrap
from .widgets import NOT_STORED, live_specs

COLUMN_GAP, ROW_GAP, TITLE_HEIGHT, SLOT_HEIGHT, WIDGET_HEIGHT, TEXT_HEIGHT = 80, 50, 34, 22, 26, 120


def to_ui(api: Mapping[str, Any], registry: Registry) -> dict[str, Any]:
    """Return the UI form of a graph in API format, laid out from left to right in the order of the data.

    Nodes of unknown classes keep their links and their constants (by name). The workflow id is a UUID made from the content, so
    that the same graph always gives the same file.
    """
    columns, specs_of = _columns(api), SpecsOf(registry)
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
    _place(api, nodes, columns)
    placed = sorted(nodes.items(), key=lambda item: (columns[item[0]], item[1]["pos"][1]))
    for order, (_, node) in enumerate(placed):
        node["order"] = order
    numbers = [node["id"] for node in nodes.values() if isinstance(node["id"], int)]
    return {
        "id": str(uuid.uuid5(uuid.NAMESPACE_URL, json.dumps(api, sort_keys=True))),
        "revision": 0,
        "last_node_id": max(numbers, default=0),
        "last_link_id": len(links),
        "nodes": [node for _, node in placed],
        "links": links,
        "groups": [],
        "config": {},
        "extra": {"ds": {"scale": 1.0, "offset": [0, 0]}},
        "version": 0.4,
    }


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
        "size": _size(specs, inputs, node_class),
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


def _size(specs: Mapping[str, InputSpec], inputs: list[dict[str, Any]], node_class: type | None) -> list[int]:
    widgets = [spec for spec in specs.values() if spec.is_widget]
    texts = sum(1 for spec in widgets if spec.options.get("multiline"))
    extra = sum(1 for spec in widgets if spec.is_seed or spec.is_upload)
    sockets = max(len(inputs), len(getattr(node_class, "RETURN_TYPES", ())), 1)
    height = sockets * SLOT_HEIGHT + (len(widgets) - texts + extra) * WIDGET_HEIGHT + texts * TEXT_HEIGHT + 12
    if node_class is not None and getattr(node_class, "OUTPUT_NODE", False):
        height += 240  # room for the picture it will show
    return [400 if texts else 320, height]


def _columns(api: Mapping[str, Any]) -> dict[str, int]:
    """The column of every node: right of all that feeds it, and directly left of the first node that it feeds."""
    column: dict[str, int] = {}
    for start in api:  # longest path, each node after all that feeds it; a link that closes a cycle does not count
        path: dict[str, Iterator[str]] = {start: _sources(api, start)} if start not in column else {}
        while path:
            node_id = next(reversed(path))
            source = next(path[node_id], None)
            if source is None:
                column[node_id] = max((column[one] + 1 for one in _sources(api, node_id) if one in column), default=0)
                del path[node_id]
            elif source not in column and source not in path:
                path[source] = _sources(api, source)
    consumers: dict[str, list[str]] = {}
    for node_id, node in api.items():
        for source, _slot in links_of(node).values():
            consumers.setdefault(source, []).append(node_id)
    for node_id in sorted(api, key=lambda key: -column[key]):
        if node_id in consumers:
            column[node_id] = max(0, min(column[other] for other in consumers[node_id]) - 1)
    return column


def _sources(api: Mapping[str, Any], node_id: str) -> Iterator[str]:
    return (source for source, _ in links_of(api[node_id]).values() if source in api)


def _place(api: Mapping[str, Any], nodes: Mapping[str, dict[str, Any]], columns: Mapping[str, int]) -> None:
    """Give every node its place; in a column, nodes stand at the height of what feeds them, so that few links cross."""
    rows: dict[int, list[str]] = {}
    for node_id in nodes:
        rows.setdefault(columns[node_id], []).append(node_id)
    x = 0
    for column, members in sorted(rows.items()):
        heights = {}
        for node_id in members:
            above = [nodes[source]["pos"][1] for source, _ in links_of(api[node_id]).values() if columns.get(source, column) < column]
            heights[node_id] = sum(above) / len(above) if above else float("inf")
        y = 0
        for node_id in sorted(members, key=heights.__getitem__):
            nodes[node_id]["pos"] = [x, y + TITLE_HEIGHT]
            y += TITLE_HEIGHT + nodes[node_id]["size"][1] + ROW_GAP
        x += max(nodes[node_id]["size"][0] for node_id in members) + COLUMN_GAP


def _ui_id(node_id: str) -> int | str:
    return int(node_id) if node_id.isdecimal() and node_id == str(int(node_id)) else node_id
