"""Places for the nodes of a graph in UI format: four coloured groups from left to right, close to the shape of a screen.

Model, prompt, draw and results: a node belongs to the group of what it gives, or to a later one where what feeds it stands there. In a
group the nodes stand in columns, in the order of the data. How high a column may be is chosen so that the whole fits a wide screen.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from .convert import NOTES
from .inputs import InputSpec, Registry, SpecsOf
from .widgets import live_specs

NODE_GAP, COLUMN_GAP, GROUP_GAP, TITLE_HEIGHT, MARGIN, HEADER = 32, 40, 40, 34, 20, 60
PADDING, SOCKET, SHOWN = 26, 24, 240
"""Pixels of a node's parts in either look of the editor; `SHOWN` is a picture or a text."""
WIDGET, TEXT, BUTTON = 36, 120, 24
"""Pixels of a widget and of a text as Nodes 2.0 draws them, which folds advanced widgets behind a button."""
CLASSIC_WIDGET, CLASSIC_TEXT = 24, 60
"""Pixels of a widget and of a text on the classic canvas, which keeps room for advanced widgets too."""
CANVAS = (1860, 980)
"""What a screen of 1920 x 1080 shows of a graph, in pixels."""
GROUPS = (("1 Model", "#3f789e"), ("2 Prompt", "#88A"), ("3 Draw", "#8A8"), ("4 Result", "#b58b2a"))
"""Titles and the editor's own colours."""
_MODEL, _PROMPT, _DRAW, _RESULT = range(4)
_DRAWN = {"LATENT", "NOISE", "GUIDER", "SAMPLER", "SIGMAS"}
_WRITTEN = {"CONDITIONING", "STRING", "INT", "FLOAT", "BOOLEAN", "COMBO"}
_SEEN = {"IMAGE", "MASK", "VIDEO", "AUDIO"}


def arrange(graph: dict[str, Any], registry: Registry) -> dict[str, Any]:
    """Return `graph`, in UI format, with new places for its nodes, room for what they show, and new groups.

    Nothing else changes, and `graph` stays as it is. Notes stand left of everything. The insides of subgraphs stay as they are.
    """
    results, specs_of = {name for name, node_class in registry.items() if getattr(node_class, "OUTPUT_NODE", False)}, SpecsOf(registry)
    nodes = {node["id"]: {**node, "size": _size(node, specs_of[node["type"]], results)} for node in graph["nodes"]}
    feeds = _sources(graph["links"], nodes)
    depth = _depths(feeds)
    section = _sections(nodes, feeds, sorted(feeds, key=lambda one: depth[one]), results)
    order = sorted(section, key=lambda one: (section[one], depth[one]))  # runs along every link
    x = _place_notes([node for node in nodes.values() if node["type"] in NOTES])
    groups: list[dict[str, Any]] = []
    height = _best_height([[nodes[one] for one in order if section[one] == number] for number in range(len(GROUPS))], x)
    for number, (title, colour) in enumerate(GROUPS):
        members = [nodes[one] for one in order if section[one] == number]
        if members:
            box = _place(members, x, height)
            groups.append({"id": len(groups) + 1, "title": title, "bounding": box, "color": colour, "font_size": 32, "flags": {}})
            x = box[0] + box[2] + GROUP_GAP
    for place, one in enumerate(order):
        nodes[one]["order"] = place
    return {**graph, "nodes": [nodes[node["id"]] for node in graph["nodes"]], "groups": groups}


def _sources(links: Sequence[Any], nodes: Mapping[Any, Any]) -> dict[Any, list[Any]]:
    """Return the nodes that feed each node. A link is a list (number, source, slot, target, slot, type) or an object."""
    feeds: dict[Any, list[Any]] = {one: [] for one in nodes if nodes[one]["type"] not in NOTES}
    for link in links:
        source, target = (link["origin_id"], link["target_id"]) if isinstance(link, Mapping) else (link[1], link[3])
        if source in feeds and target in feeds:
            feeds[target].append(source)
    return feeds


def _depths(feeds: Mapping[Any, list[Any]]) -> dict[Any, int]:
    """Return the length of the longest path that leads to each node; a link that closes a circle does not count."""
    depth: dict[Any, int] = {}
    for start in feeds:
        path: dict[Any, Iterator[Any]] = {start: iter(feeds[start])} if start not in depth else {}
        while path:
            one = next(reversed(path))
            source = next(path[one], None)
            if source is None:
                depth[one] = max((depth[other] + 1 for other in feeds[one] if other in depth), default=0)
                del path[one]
            elif source not in depth and source not in path:
                path[source] = iter(feeds[source])
    return depth


def _sections(nodes: Mapping[Any, Any], feeds: Mapping[Any, list[Any]], order: Sequence[Any], results: set[str]) -> dict[Any, int]:
    section: dict[Any, int] = {}
    for one in order:
        own = _section_of(nodes[one], bool(feeds[one]), results)
        section[one] = max([own, *(section.get(source, 0) for source in feeds[one])])
    return section


def _section_of(node: Mapping[str, Any], is_fed: bool, results: set[str]) -> int:
    kinds = {str(output.get("type")) for output in node.get("outputs") or ()}
    if node["type"] in results or not kinds:
        return _RESULT
    if kinds & _DRAWN:
        return _DRAW
    if kinds & _SEEN:
        return _RESULT if is_fed else _PROMPT
    return _PROMPT if kinds <= _WRITTEN or "CONDITIONING" in kinds else _MODEL


def _size(node: Mapping[str, Any], specs: Mapping[str, InputSpec], results: set[str]) -> list[int]:
    """Return the size of a node: what it has, or what its widgets and sockets need in either look of the editor where that is more."""
    width, height = (round(side) for side in node["size"])
    widgets = [spec for spec in live_specs(node, specs).values() if spec.is_widget]
    shown = [spec for spec in widgets if not spec.options.get("advanced")]
    texts, lines = _count(shown)
    all_texts, all_lines = _count(widgets)
    if not specs:  # an unknown class, or a subgraph with widgets from inside
        promoted = [one for one in node.get("inputs") or () if "widget" in one]
        texts = sum(one.get("type") == "STRING" for one in promoted)
        lines = len(promoted) - texts + len([] if promoted else node.get("widgets_values") or ())
    sockets = max(sum("widget" not in one for one in node.get("inputs") or ()), len(node.get("outputs") or ()))
    shows = node["type"] in results or any(spec.is_upload for spec in widgets)
    nodes_2 = lines * WIDGET + texts * TEXT + (BUTTON if len(shown) < len(widgets) else 0)
    classic = all_lines * CLASSIC_WIDGET + all_texts * CLASSIC_TEXT
    needed = PADDING + sockets * SOCKET + max(nodes_2, classic) + (SHOWN if shows else 0)
    return [max(width, 400 if all_texts or texts else 320), max(height, needed)]


def _count(widgets: Sequence[InputSpec]) -> tuple[int, int]:
    """Return how many texts of many lines the widgets are, and how many widgets of one line, those included that the editor adds."""
    texts = sum(1 for spec in widgets if spec.options.get("multiline"))
    return texts, len(widgets) - texts + sum(1 for spec in widgets if spec.is_seed or spec.is_upload)


def _place_notes(notes: Sequence[dict[str, Any]]) -> int:
    """Stack the notes at the left and return where the groups begin."""
    y = 0
    for note in notes:
        note["pos"] = [0, y]
        y += note["size"][1] + NODE_GAP
    return max((round(note["size"][0]) for note in notes), default=-GROUP_GAP) + GROUP_GAP


def _best_height(groups: Sequence[Sequence[Mapping[str, Any]]], start: int) -> int:
    """Return the height of columns at which the whole can be shown largest."""
    tallest = max((_height(node) for members in groups for node in members), default=0)

    def scale(height: int) -> float:
        columns = [_columns(members, height) for members in groups if members]
        width = start + sum(_width(column) + COLUMN_GAP for group in columns for column in group) + GROUP_GAP * len(columns)
        high = max((sum(_height(node) for node in column) for group in columns for column in group), default=1)
        return min(CANVAS[0] / max(1, width), CANVAS[1] / (high + HEADER))

    return max((max(tallest, step * 50) for step in range(8, 60)), key=scale)


def _columns(members: Sequence[Any], height: int) -> list[list[Any]]:
    columns: list[list[Any]] = []
    left = 0
    for node in members:
        if not columns or _height(node) > left:
            columns.append([])
            left = height
        columns[-1].append(node)
        left -= _height(node)
    return columns


def _place(members: Sequence[dict[str, Any]], x: int, height: int) -> list[int]:
    """Place the nodes of one group from `x` on and return its box (x, y, width, height)."""
    left, bottom = x + MARGIN, 0
    for column in _columns(members, height):
        y = HEADER
        for node in column:
            node["pos"] = [left, y + TITLE_HEIGHT]
            y += _height(node)
        bottom = max(bottom, y - NODE_GAP)
        left += _width(column) + COLUMN_GAP
    return [x, 0, left - COLUMN_GAP + MARGIN - x, bottom + MARGIN]


def _height(node: Mapping[str, Any]) -> int:
    """Return what a node takes of a column: its title, its body and the gap below."""
    return TITLE_HEIGHT + round(node["size"][1]) + NODE_GAP


def _width(column: Sequence[Mapping[str, Any]]) -> int:
    return max(round(node["size"][0]) for node in column)
