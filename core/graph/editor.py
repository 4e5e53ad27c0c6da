"""Graphs of the editor (UI format) as plain records, whatever spelling the file uses.

Files of different ages spell the same thing in different ways: a link is a list or an object, an id is a number or a text, a field is
missing or null. :func:`read_editor_graph` reads all of these; what it cannot use (a null link, a slot without a name) it leaves out.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import count as count_from
from typing import Any

from ..errors import GraphError

MUTED, BYPASSED = 2, 4
COPY_OF = "rapiddraw_copy_of"
"""Name in `extra` of a definition under which a copy names the definition that it was made from."""
_NUMBER = re.compile(r"0|-?[1-9]\d{0,14}")
INPUT_SIDE, OUTPUT_SIDE = "-10", "-20"
"""Node ids that a link of a subgraph names where it begins at the subgraph's inputs or ends at its outputs."""


@dataclass(frozen=True)
class Slot:
    """An input of a node or of a subgraph. `widget` is the name of the widget that it replaces, `link` the id of the link into it."""

    name: str
    type: Any
    link: str | None = None
    widget: str | None = None


@dataclass(frozen=True)
class Link:
    """A link from output `slot` of the node `source` to input `target_slot` of the node `target`."""

    source: str
    slot: int
    target: str
    target_slot: int
    type: Any


@dataclass(frozen=True)
class EditorNode:
    """A node as the editor stores it. `raw` is the node's own object in the file."""

    id: str
    type: str
    mode: Any
    order: float
    title: str
    inputs: tuple[Slot, ...]
    outputs: tuple[Any, ...]
    raw: Mapping[str, Any]

    @property
    def properties(self) -> Mapping[str, Any]:
        """The node's properties, empty where there are none."""
        found = self.raw.get("properties")
        return found if isinstance(found, Mapping) else {}

    @property
    def values(self) -> list[Any]:
        """The values of the node's widgets by position, empty where there are none or the file has them by name."""
        found = self.raw.get("widgets_values")
        return found if isinstance(found, list) else []

    def slot(self, name: str) -> Slot | None:
        """Return the input called `name`."""
        return next((slot for slot in self.inputs if slot.name == name), None)


@dataclass(frozen=True)
class EditorGraph:
    """The nodes and links of one level: a whole graph, or the definition of a subgraph with its inputs and outputs.

    `outputs` holds, for each output of a subgraph, the link that feeds it; `setters` the SetNode of each name; `renamed` the new ids of
    nodes by the ids in the file (:func:`new_ids`).
    """

    name: str
    nodes: Mapping[str, EditorNode]
    links: Mapping[str, Link]
    inputs: tuple[Slot, ...] = ()
    outputs: tuple[str | None, ...] = ()
    input_side: str = INPUT_SIDE
    fed: Mapping[tuple[str, int], tuple[Link, ...]] = field(default_factory=dict)
    setters: Mapping[str, EditorNode] = field(default_factory=dict)
    renamed: Mapping[str, str] = field(default_factory=dict)

    def links_from(self, node_id: str, slot: int) -> tuple[Link, ...]:
        """Return the links that begin at one output, in the order of the file."""
        return self.fed.get((node_id, slot), ())

    def in_order(self) -> list[EditorNode]:
        """Return the nodes in the order in which the editor would run them."""
        return sorted(self.nodes.values(), key=lambda node: node.order)


def read_editor_graph(data: Mapping[str, Any], renamed: Mapping[str, str] | None = None) -> EditorGraph:
    """Read one level of a graph; its nodes take the ids in `renamed`.

    Raises :class:`GraphError` for a node without an id or type, and for a link that cannot be read.
    """
    renamed = renamed or {}
    nodes = {node.id: node for node in (_node(entry, renamed) for entry in entries(data.get("nodes")))}
    links = dict(_link(stored, renamed) for stored in _links(data.get("links")))
    fed: dict[tuple[str, int], list[Link]] = {}
    for link in links.values():
        fed.setdefault((link.source, link.slot), []).append(link)
    inside, outside = _side(data, "inputNode", INPUT_SIDE), _side(data, "outputNode", OUTPUT_SIDE)
    feeds = {link.target_slot: number for number, link in reversed(links.items()) if link.target == outside}
    outputs: list[str | None] = []
    for place, output in enumerate(entries(data.get("outputs"))):
        named = [str(number) for number in output.get("linkIds") or () if str(number) in links] if _has_list(output, "linkIds") else []
        outputs.append(named[0] if named else feeds.get(place))
    return EditorGraph(
        str(data.get("name") or "subgraph"),
        nodes,
        links,
        tuple(_slot(entry) for entry in entries(data.get("inputs"))),
        tuple(outputs),
        inside,
        {key: tuple(found) for key, found in fed.items()},
        {str(node.values[0]): node for node in reversed(nodes.values()) if node.type == "SetNode" and node.values},
        renamed,
    )


def new_ids(data: Mapping[str, Any]) -> dict[str, dict[str, str]]:
    """Return, for each definition of a file by its id, the nodes that the editor gives another id, with that id.

    In the editor no two nodes of a file share an id. A node inside a subgraph whose id is taken, by the root or by a definition before it
    in the file, gets the next free number. A copy that :mod:`.subgraphs` made of a definition keeps the ids of the original.
    """
    used = {str(node["id"]) for node in entries(data.get("nodes")) if isinstance(node.get("id"), int)}
    state, held = data.get("state"), data.get("definitions")
    counts = [data.get("last_node_id"), state.get("lastNodeId") if isinstance(state, Mapping) else None]
    last = next((count for count in counts if isinstance(count, int) and 0 <= count < 2**53), 0)
    renamed: dict[str, dict[str, str]] = {}
    for definition in entries(held.get("subgraphs")) if isinstance(held, Mapping) else ():
        extra = definition.get("extra")
        original = extra.get(COPY_OF) if isinstance(extra, Mapping) else None
        if isinstance(original, str) and original in renamed:
            renamed[str(definition.get("id"))] = renamed[original]
            continue
        new = renamed.setdefault(str(definition.get("id")), {})
        for node in entries(definition.get("nodes")):
            number = str(node.get("id"))
            if number in used:
                last = next(free for free in count_from(last + 1) if str(free) not in used)
                new[number] = number = str(last)
            elif _NUMBER.fullmatch(number):
                last = max(last, int(number))
            used.add(number)
    return renamed


def definitions(data: Mapping[str, Any], depth: int = 0) -> Iterator[Mapping[str, Any]]:
    """Yield the definitions of subgraphs in a file, those inside other definitions included. They may be defined and never used."""
    held = data.get("definitions")
    for entry in entries(held.get("subgraphs")) if isinstance(held, Mapping) else ():
        if entry.get("id") is not None:
            yield entry
        if depth < 64:
            yield from definitions(entry, depth + 1)


def _node(entry: Mapping[str, Any], renamed: Mapping[str, str]) -> EditorNode:
    if entry.get("id") is None or not isinstance(entry.get("type"), str):
        raise GraphError(f"{str(entry)[:80]} is not a node of a graph: a node needs an 'id' and a 'type'")
    order, title = entry.get("order"), entry.get("title")
    return EditorNode(
        renamed.get(str(entry["id"]), str(entry["id"])),
        entry["type"],
        entry.get("mode", 0),
        float(order) if isinstance(order, int | float) and abs(order) < 2**53 else 0.0,
        title if isinstance(title, str) else "",
        tuple(_slot(slot) for slot in entries(entry.get("inputs"))),
        tuple(output.get("type", "*") for output in entries(entry.get("outputs"))),
        entry,
    )


def _slot(entry: Mapping[str, Any]) -> Slot:
    link, widget = entry.get("link"), entry.get("widget")
    name = widget.get("name") if isinstance(widget, Mapping) else None
    return Slot(
        str(entry.get("name", "")), entry.get("type", "*"), None if link is None else str(link), None if name is None else str(name)
    )


def _links(stored: Any) -> Iterator[Any]:
    """Each link of a file but the null ones, whether the file has a list of links or an object with one under each id."""
    if isinstance(stored, Mapping):
        stored = list(stored.values())
    if stored is not None and not isinstance(stored, list):
        raise GraphError(f"'links' is a {type(stored).__name__}, but a list of links is expected")
    return (link for link in stored or () if link is not None)


def _link(stored: Any, renamed: Mapping[str, str]) -> tuple[str, Link]:
    """(id, link) of a link in either spelling, between nodes under their new ids."""
    fields = stored
    if isinstance(stored, Mapping):
        fields = [stored.get(key) for key in ("id", "origin_id", "origin_slot", "target_id", "target_slot", "type")]
    try:
        number, source, slot, target, target_slot = fields[:5]
        source, target = (renamed.get(str(end), str(end)) for end in (source, target))
        link = Link(source, _whole(slot), target, _whole(target_slot), fields[5] if len(fields) > 5 else "*")
    except (TypeError, ValueError, KeyError, OverflowError) as error:
        raise GraphError(
            f"malformed link {str(stored)[:80]}: expected [id, from node, from slot, to node, to slot, type] with whole numbers as slots"
        ) from error
    return str(number), link


def _whole(value: Any) -> int:
    """A slot's number, also where the file has it as a text ("0"). Raises `ValueError` or `TypeError` for anything else."""
    if isinstance(value, float) and not value.is_integer():
        raise ValueError(f"{value} is no whole number")
    if isinstance(value, str) and len(value) > 9:
        raise ValueError("the slot's number is too long")
    return int(value)


def _side(data: Mapping[str, Any], key: str, default: str) -> str:
    side = data.get(key)
    return str(side["id"]) if isinstance(side, Mapping) and side.get("id") is not None else default


def entries(stored: Any) -> list[Mapping[str, Any]]:
    """Return the objects of a list; anything else in the list, or a thing that is no list, is left out."""
    return [entry for entry in stored if isinstance(entry, Mapping)] if isinstance(stored, list) else []


def _has_list(entry: Mapping[str, Any], key: str) -> bool:
    return isinstance(entry.get(key), list)
