"""Conversion from the UI format to the API format, by the rules of ComfyUI's editor (`graphToPrompt`).

Muted nodes (mode 2) vanish with their links; bypassed nodes (mode 4) pass an input of the same type
through; Reroute, PrimitiveNode, GetNode, SetNode, notes and labels exist in the editor only. A subgraph is unfolded: its nodes appear
under ids such as `5:12`, node 12 inside node 5.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ..errors import GraphError
from .editor import BYPASSED, MUTED, EditorGraph, EditorNode, Slot
from .inputs import InputSpec, Registry, SpecsOf, is_link
from .prompt_text import TOKENS_IN, resolve_choices, resolve_tokens, seed_of
from .subgraphs import Level, open_file, promoted_widgets
from .widgets import live_specs, takes_link, widget_values

NOTES = ("Note", "MarkdownNote")
REROUTES = ("Reroute", "Reroute (rgthree)")
DECORATIONS = (
    "Label (rgthree)", "Bookmark (rgthree)", "Fast Muter (rgthree)", "Fast Bypasser (rgthree)", "Fast Groups Muter (rgthree)",
    "Fast Groups Bypasser (rgthree)", "Fast Actions Button (rgthree)", "Node Collector (rgthree)", "Mute / Bypass Repeater (rgthree)",
    "Mute / Bypass Relay (rgthree)", "Random Unmuter (rgthree)",
)  # fmt: skip
VIRTUAL = ("PrimitiveNode", "GetNode", "SetNode", *REROUTES, *NOTES, *DECORATIONS)
"""Node classes that exist in the editor only and are never sent to a server."""
_REPLACES = "Run widget replace on values"


def to_api(ui: Mapping[str, Any], registry: Registry) -> dict[str, Any]:
    """Return the API form of a graph in UI format.

    A node whose class is not in `registry` keeps its links and loses its widget values: only the class knows their names. Validation
    names the node where something needs it. Raises :class:`GraphError` for links that are malformed or run in a circle, and for
    subgraphs that contain themselves or unfold into too many nodes.
    """
    return _Converter(ui, registry).convert()


@dataclass(frozen=True)
class _Output:
    """Output `slot` of the node whose id in the API format is `node_id`."""

    node_id: str
    slot: int


@dataclass(frozen=True)
class _Value:
    """A value instead of a link. `is_final`: the editor sends it as it is, without resolving choices in a prompt."""

    value: Any
    is_final: bool


class _Converter:
    def __init__(self, ui: Mapping[str, Any], registry: Registry) -> None:
        self.registry, self.specs_of = registry, SpecsOf(registry)
        self.root = open_file(ui)
        self.named: dict[tuple[str, str], tuple[Level, EditorNode]] | None = None
        self.seed = seed_of(self._seeds())

    def convert(self) -> dict[str, Any]:
        api = {level.path + node.id: self._node(level, node) for level, node in self.root.nodes() if self._runs(node)}
        for node in api.values():  # a link to a node that does not run is no link
            node["inputs"] = {name: value for name, value in node["inputs"].items() if not is_link(value) or value[0] in api}
        return api

    def _runs(self, node: EditorNode) -> bool:
        return node.mode not in (MUTED, BYPASSED) and node.type not in VIRTUAL

    def _node(self, level: Level, node: EditorNode) -> dict[str, Any]:
        declared = self.specs_of[node.type]
        specs = live_specs(node.raw, declared)
        values: dict[str, _Value | _Output] = {name: _Value(value, False) for name, value in widget_values(node.raw, declared).items()}
        values |= {name: _Value(value, True) for name, value in level.promoted.get(node.id, {}).items() if name in specs}
        for slot in node.inputs:
            if slot.link is not None and (not specs or takes_link(slot.name, specs)) and (origin := self._origin(level, slot)) is not None:
                values[slot.name] = origin
        inputs = {name: self._sent(level, node, specs.get(name), name, value) for name, value in values.items()}
        return {"class_type": node.type, "inputs": inputs, "_meta": {"title": self._title(node)}}

    def _title(self, node: EditorNode) -> str:
        return node.title or getattr(self.registry.get(node.type), "DISPLAY_NAME", None) or node.type

    def _sent(self, level: Level, node: EditorNode, spec: InputSpec | None, name: str, given: _Value | _Output) -> Any:
        """A value as the API format has it: resolved as the editor resolves it, and a list wrapped, because a bare list means a link."""
        if isinstance(given, _Output):
            return [given.node_id, given.slot]
        value = given.value
        if isinstance(value, str) and not given.is_final:
            if node.type in TOKENS_IN and name == "filename_prefix":
                value = resolve_tokens(value, self._value_of)
            elif spec is not None and spec.options.get("dynamicPrompts"):
                value = resolve_choices(value, f"{self.seed} {level.path}{node.id} {name}")
        return {"__value__": value} if isinstance(value, list) else value

    def _value_of(self, wanted: str, widget: str) -> Any:
        """The value of `widget` of the first node that has the name `wanted` for search and replace, else of the first with that title."""
        if self.named is None:
            self.named = {}
            for level, node in self.root.nodes():
                self.named.setdefault(("title", self._title(node)), (level, node))
                self.named.setdefault(("name", str(node.properties.get("Node name for S&R"))), (level, node))
        level, node = self.named.get(("name", wanted)) or self.named["title", wanted]
        slot = node.slot(widget)
        origin = self._origin(level, slot) if slot is not None and slot.link is not None else None
        return origin.value if isinstance(origin, _Value) else widget_values(node.raw, self.specs_of[node.type])[widget]

    def _seeds(self) -> Iterator[Any]:
        for _, node in self.root.nodes():
            declared = self.specs_of[node.type]
            values = widget_values(node.raw, declared)
            yield from (values[name] for name, spec in live_specs(node.raw, declared).items() if spec.is_widget and spec.is_seed)

    def _origin(self, level: Level, slot: Slot) -> _Output | _Value | None:
        """What feeds a linked input once everything that exists in the editor only is gone: an output, a value, or nothing."""
        number, kind, start = slot.link, slot.type, level
        seen: set[tuple[str, str]] = set()
        while number is not None and (link := level.graph.links.get(number)) is not None:
            if (level.path, number) in seen:
                raise GraphError(f"link {number} runs in a circle through reroutes, bypassed nodes or subgraphs")
            seen.add((level.path, number))
            if level.parent is not None and link.source == level.graph.input_side:
                outer = level.outer_slot(link.slot)
                if outer is None or outer.link is None:
                    return self._host_value(level, outer.name) if outer is not None else None
                level, number, kind = level.parent, outer.link, outer.type
                continue
            node = level.graph.nodes.get(link.source)
            if node is None:
                return None
            if node.type == "PrimitiveNode":  # muted or not: the editor writes its value into the widgets that it is linked to,
                return self._primitive(level, node) if level is start else None  # but not into or out of a subgraph
            if node.mode == MUTED:
                return None
            if node.mode == BYPASSED:
                passed = _passed_through(node, link.slot, kind)
                number, kind = (passed.link, passed.type) if passed is not None else (None, kind)
            elif node.type in REROUTES:
                number = node.inputs[0].link if node.inputs else None
            elif node.type in ("GetNode", "SetNode"):
                number = _variable(level.graph, node, link.slot)
            elif (inner := level.inner.get(node.id)) is not None:
                outputs = inner.graph.outputs
                level, number = inner, outputs[link.slot] if 0 <= link.slot < len(outputs) else None
            elif node.type in VIRTUAL:
                return None
            else:
                return _Output(level.path + node.id, link.slot)
        return None

    def _host_value(self, level: Level, name: str) -> _Value | None:
        """The value of the widget that the using node shows for input `name`; without a value of its own, that of the first widget inside,
        however deep the node of that widget lies."""
        if name in level.host:
            return _Value(level.host[name], True)
        while (found := next(promoted_widgets(level, name), None)) is not None:
            owner, slot = found
            if (inner := level.inner.get(owner)) is not None:
                level, name = inner, slot.name
                continue
            node = level.graph.nodes[owner]
            values = widget_values(node.raw, self.specs_of[node.type]) | level.promoted.get(owner, {})
            return _Value(values[slot.widget], True) if slot.widget in values else None
        return None

    def _primitive(self, level: Level, node: EditorNode) -> _Value | None:
        if promoted := level.promoted.get(node.id):
            return _Value(next(iter(promoted.values())), True)
        if not node.values:
            return None  # it has never been given a value: the widget that it is linked to keeps its own
        value = node.values[0]
        if isinstance(value, str) and node.properties.get(_REPLACES):
            value = resolve_tokens(value, self._value_of)
        return _Value(value, False)


def _passed_through(node: EditorNode, slot: int, kind: Any) -> Slot | None:
    """The input that a bypassed node passes on as output `slot`: the one at the same place if it fits, else the first that does."""
    inputs = node.inputs
    there = inputs[slot] if 0 <= slot < len(inputs) else None
    if kind in ("*", ""):
        return there or (inputs[0] if inputs else None)
    given = node.outputs[slot] if 0 <= slot < len(node.outputs) else kind
    if there is not None and _connects(there.type, given) and _connects(there.type, kind):
        return there
    alike = [one for one in inputs if one.type == kind]
    return next(iter(alike or [one for one in inputs if _connects(one.type, given) and _connects(one.type, kind)]), None)


def _connects(one: Any, other: Any) -> bool:
    """Whether the editor links these types: equal without regard to case, a wildcard, or unions ("A,B") that share a type."""
    if one == other or not {str(one), str(other)}.isdisjoint(("*", "", "0")):
        return True
    return not {kind.strip() for kind in str(one).lower().split(",")}.isdisjoint(kind.strip() for kind in str(other).lower().split(","))


def _variable(graph: EditorGraph, node: EditorNode, slot: int) -> str | None:
    """The link behind a pair of SetNode and GetNode, which share a name instead of a line."""
    setter = graph.setters.get(str(node.values[0])) if node.type == "GetNode" and node.values else node
    return setter.inputs[slot].link if setter is not None and 0 <= slot < len(setter.inputs) else None
