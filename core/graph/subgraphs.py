"""Subgraphs of the editor, unfolded: each place where a definition is used becomes a level of its own.

A node of the editor whose type is the id of a definition stands for the nodes of that definition. One definition may be used in many
places; each place may give other values to the widgets that the subgraph promotes to its own surface.
"""

from __future__ import annotations

import copy
import re
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, cast

from ..errors import GraphError
from .editor import BYPASSED, COPY_OF, MUTED, EditorGraph, EditorNode, Slot, definitions, entries, new_ids, read_editor_graph

MAX_NODES, MAX_DEPTH = 100_000, 64
_LEGACY = re.compile(r"^(?:\d+\s*:\s*)+")


@dataclass
class Level:
    """One use of one definition; the root has no parent.

    `path` begins the ids of its nodes (`"5:"` inside node 5). `host` holds the values that the using node gives to promoted widgets, by
    the names of the subgraph's inputs. `promoted` holds values for widgets that are promoted without an input (files of older editors),
    by node and widget. `inner` holds the levels inside, by the id of the node that uses them.
    """

    graph: EditorGraph
    path: str = ""
    parent: Level | None = None
    user: EditorNode | None = None
    host: dict[str, Any] = field(default_factory=dict)
    promoted: dict[str, dict[str, Any]] = field(default_factory=dict)
    inner: dict[str, Level] = field(default_factory=dict)

    def nodes(self) -> Iterator[tuple[Level, EditorNode]]:
        """Yield every node with its level, in the order of running. In the place of a node that uses a subgraph come the nodes inside,
        as in the editor: a muted or bypassed one is left closed at the root only."""
        waiting: list[tuple[Level, Iterator[EditorNode]]] = [(self, iter(self.graph.in_order()))]
        while waiting:
            level, rest = waiting[-1]
            node = next(rest, None)
            if node is None:
                waiting.pop()
            elif (inside := level.inner.get(node.id)) is None:
                yield level, node
            elif level.parent is not None or node.mode not in (MUTED, BYPASSED):
                waiting.append((inside, iter(inside.graph.in_order())))

    def outer_slot(self, number: int) -> Slot | None:
        """Return the input of the using node that belongs to input `number` of the definition."""
        if self.user is None or not 0 <= number < len(self.graph.inputs):
            return None
        name = self.graph.inputs[number].name
        return self.user.slot(name) or Slot(name, self.graph.inputs[number].type)


def open_levels(root: EditorGraph, found: Mapping[str, Mapping[str, Any]], renamed: Mapping[str, Mapping[str, str]] | None = None) -> Level:
    """Return the level of a whole graph, with a level for each use of a definition in `found` (by id), its nodes under their new ids.

    Raises :class:`GraphError` for a definition that contains itself, or where more than 100,000 nodes would come out.
    """
    graphs: dict[str, EditorGraph] = {}
    top = Level(root)
    waiting: list[tuple[Level, tuple[str, ...]]] = [(top, ())]
    count = len(root.nodes)
    while waiting:
        level, above = waiting.pop()
        for node in level.graph.nodes.values():
            if node.type not in found:
                continue
            if node.type in above or len(above) >= MAX_DEPTH:
                raise GraphError(f"node {level.path}{node.id}: its subgraph contains itself, so it cannot be unfolded")
            if node.type not in graphs:
                graphs[node.type] = read_editor_graph(found[node.type], (renamed or {}).get(node.type))
            inside = level.inner[node.id] = Level(graphs[node.type], f"{level.path}{node.id}:", level, node)
            count += len(inside.graph.nodes)
            if count > MAX_NODES:
                raise GraphError(f"its subgraphs unfold into more than {MAX_NODES} nodes; use fewer of them")
            waiting.append((inside, (*above, node.type)))
    for level in reversed(list(_all(top))):  # a level after those inside: the outermost value of a widget counts
        if level.user is not None:
            _take_host_values(level, level.user)
    return top


def _all(top: Level) -> Iterator[Level]:
    waiting = [top]
    while waiting:
        level = waiting.pop()
        yield level
        waiting += level.inner.values()


def _take_host_values(level: Level, user: EditorNode) -> None:
    """Read the values that the using node stores for promoted widgets: in the order of the promoted inputs, or, in files of older
    editors, in the order of the property `proxyWidgets` (pairs of a node, -1 for the subgraph itself, and a widget)."""
    names = promoted_inputs(level)
    level.host.update({name: value for name, value in zip(names, user.values, strict=False) if value is not None})
    for (owner, widget), value in zip(proxies(level, user), user.values, strict=False):
        name = widget if owner == "-1" else _input_of_widget(level, owner, widget)
        if value is None:
            continue
        if name is not None:
            level.host[name] = value
        else:
            _promote(level, owner, widget, value)


def promoted_inputs(level: Level) -> list[str]:
    """Return the names of the inputs that show a widget from inside, in the order in which the using node stores their values: that of
    the definition. A file need not list all of them at the using node."""
    return [slot.name for slot in level.graph.inputs if any(promoted_widgets(level, slot.name))]


def proxies(level: Level, user: EditorNode) -> list[tuple[str, str]]:
    """Return the (node, widget) pairs that files of older editors list as promoted, without the ids that the oldest put before the name.
    The nodes are those of `level`, which `user` stands for."""
    listed = user.properties.get("proxyWidgets")
    pairs = [entry if isinstance(entry, list) and len(entry) > 1 else ["", ""] for entry in (listed if isinstance(listed, list) else ())]
    return [(level.graph.renamed.get(str(owner), str(owner)), _LEGACY.sub("", str(widget))) for owner, widget, *_ in pairs]


def promoted_widgets(level: Level, name: str) -> Iterator[tuple[str, Slot]]:
    """Yield the nodes inside, each with its input, whose widgets the subgraph's input `name` replaces."""
    slots = ((owner, level.graph.nodes[owner].inputs[place]) for owner, place in _targets(level, name))
    return ((owner, slot) for owner, slot in slots if slot.widget is not None)


def _input_of_widget(level: Level, owner: str, widget: str) -> str | None:
    """The subgraph's input that is linked to a widget of the node `owner` inside."""
    for slot in level.graph.inputs:
        for target, place in _targets(level, slot.name):
            found = level.graph.nodes[target].inputs[place]
            if target == owner and widget in (found.widget, found.name):
                return slot.name
    return None


def _targets(level: Level, name: str) -> list[tuple[str, int]]:
    """The (node, input number) pairs inside that the subgraph's input `name` is linked to."""
    number = next((place for place, slot in enumerate(level.graph.inputs) if slot.name == name), -1)
    links = level.graph.links_from(level.graph.input_side, number)
    nodes = level.graph.nodes
    return [
        (link.target, link.target_slot) for link in links if link.target in nodes and 0 <= link.target_slot < len(nodes[link.target].inputs)
    ]


def _promote(level: Level, owner: str, widget: str, value: Any) -> None:
    """Give a promoted widget inside its value: of a node, or through a nested subgraph that promotes the widget in its turn."""
    inside = level.inner.get(owner)
    if inside is None or inside.user is None:
        level.promoted.setdefault(owner, {})[widget] = value
    elif any(slot.name == widget for slot in inside.graph.inputs):
        inside.host[widget] = value
    else:
        for deeper in [deeper for deeper, name in proxies(inside, inside.user) if name == widget][:1]:
            _promote(inside, deeper, widget, value)


def open_file(ui: Mapping[str, Any]) -> Level:
    """Return the levels of a whole graph in UI format (:func:`open_levels`)."""
    return open_levels(read_editor_graph(ui), {str(entry["id"]): entry for entry in definitions(ui)}, new_ids(ui))


def ways_inside(ui: Mapping[str, Any]) -> dict[str, str]:
    """Return the titles of the subgraphs around each node inside one, from the outermost on (`Two experts/Draw`), by the node's id in the
    API format. A subgraph without a title has its definition's name."""
    names = {str(entry["id"]): str(entry.get("name") or "") for entry in definitions(ui)}
    found: dict[str, str] = {}
    ways = {"": ""}
    for level in _all(open_file(ui)):
        if level.user is not None and level.parent is not None:
            title = level.user.title or names.get(level.user.type, "")
            ways[level.path] = f"{ways[level.parent.path]}/{title}".lstrip("/")
            found |= {level.path + number: ways[level.path] for number in level.graph.nodes}
    return found


@dataclass(frozen=True)
class Place:
    """Where a file stores the value of a widget: in `node` of `level`. `position` is set where the node promotes the widget from inside,
    to the place in its `widgets_values`; else the widget is the node's own. `top` is the root for the next search."""

    top: Level
    level: Level
    node: EditorNode
    position: int | None


def find_place(ui: dict[str, Any], top: Level, node_id: str, widget: str) -> Place | None:
    """Return where to write a value of the node that the API format calls `node_id`. `None` where `ui` has no such node.

    A definition that other nodes use too is copied in `ui` first, so that they stay as they are.
    """
    while (level := _level_of(top, node_id)) is not None:
        node = level.graph.nodes[node_id.removeprefix(level.path)]
        place = _promoting(top, level, node, widget) or Place(top, level, node, None)
        if not _make_own(ui, place.level):
            return place
        top = open_file(ui)
    return None


def _promoting(top: Level, level: Level, node: EditorNode, widget: str) -> Place | None:
    """The outermost node that promotes a widget and is not fed by a link there."""
    found: Place | None = None
    while (user := level.user) is not None and level.parent is not None:
        outer = _outer_input(level, node, widget)
        position = _position(level, user, (node.id, widget), outer)
        if outer is None and position is None:
            break
        is_linked = outer is not None and outer.link is not None
        found = None if position is None or is_linked else Place(top, level.parent, user, position)
        level, node, widget = level.parent, user, outer.name if outer is not None else widget
    return found


def _outer_input(level: Level, node: EditorNode, name: str) -> Slot | None:
    """The input of the using node that is linked to the input `name` of a node inside."""
    slot = node.slot(name)
    link = level.graph.links.get(slot.link) if slot is not None and slot.link is not None else None
    return level.outer_slot(link.slot) if link is not None and link.source == level.graph.input_side else None


def _position(level: Level, user: EditorNode, inside: tuple[str, str], outer: Slot | None) -> int | None:
    """Where the using node stores the value of a promoted widget, by the pair (node, widget) inside or by its own input."""
    pairs, names = proxies(level, user), promoted_inputs(level)
    for wanted in (inside, ("-1", outer.name) if outer is not None else inside):
        if wanted in pairs:
            return pairs.index(wanted)
    return names.index(outer.name) if outer is not None and outer.name in names else None


def _level_of(top: Level, node_id: str) -> Level | None:
    """The level that holds the node which the API format calls `node_id`."""
    level = top
    while node_id.removeprefix(level.path) not in level.graph.nodes:
        inside = [one for one in level.inner.values() if node_id.startswith(one.path)]
        if not inside:
            return None
        level = inside[0]
    return level


def _make_own(ui: dict[str, Any], level: Level) -> bool:
    """Copy the outermost definition on the way to `level` that more than one node uses. False where there is none."""
    if level.parent is None:
        return False
    way = [level]
    while way[-1].parent is not None:
        way.append(way[-1].parent)
    holders = [ui, *definitions(ui)]
    kinds = [node.get("type") for holder in holders for node in entries(holder.get("nodes"))]
    for one in reversed(way):
        if one.user is not None and kinds.count(one.user.type) > 1:
            definition = next(entry for entry in reversed(holders) if str(entry.get("id")) == one.user.type)
            copied = copy.deepcopy(dict(definition)) | {"id": str(uuid.uuid5(uuid.NAMESPACE_URL, f"{one.user.type} {one.path}"))}
            extra = copied.get("extra")
            copied["extra"] = {**(extra if isinstance(extra, dict) else {}), COPY_OF: one.user.type}
            ui["definitions"]["subgraphs"].append(copied)
            cast(dict[str, Any], one.user.raw)["type"] = copied["id"]
            return True
    return False
