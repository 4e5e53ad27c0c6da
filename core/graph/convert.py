"""From the UI format to the API format, by the rules of ComfyUI's editor (`graphToPrompt`).

Widget values are stored by position, in the order of the node class's inputs, with one more entry behind every seed (what to do
after a run) and behind every upload button. Muted nodes (mode 2) vanish with their links; bypassed nodes (mode 4) pass an input of
the same type through; Reroute, PrimitiveNode and notes exist in the editor only.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..errors import GraphError
from .inputs import CONTROL_VALUES, InputSpec, Registry, input_specs

MUTED, BYPASSED = 2, 4
NOTES = ("Note", "MarkdownNote")
VIRTUAL = ("Reroute", "PrimitiveNode", *NOTES)


def to_api(ui: Mapping[str, Any], registry: Registry) -> dict[str, Any]:
    """The API form of a graph in UI format.

    A node whose class is not in `registry` keeps its links and loses its widget values: only the class knows their names, and
    validation will name the node. Raises :class:`GraphError` for a graph with subgraphs or with malformed links.
    """
    return _Converter(ui, registry).convert()


def widget_values(node: Mapping[str, Any], specs: Mapping[str, InputSpec]) -> dict[str, Any]:
    """Widget values of one UI node by input name. Values that are missing at the end take their defaults."""
    stored = node.get("widgets_values")
    widgets = [spec for spec in specs.values() if spec.is_widget]
    if isinstance(stored, Mapping):  # some packs store them by name
        return {spec.name: stored.get(spec.name, spec.default) for spec in widgets}
    stored = list(stored or [])
    values: dict[str, Any] = {}
    for spec, position in zip(widgets, widget_positions(node, specs), strict=True):
        values[spec.name] = stored[position] if position < len(stored) else spec.default
    return values


def widget_positions(node: Mapping[str, Any], specs: Mapping[str, InputSpec]) -> list[int]:
    """Where each widget's value stands in `widgets_values`. Files from before an extra entry existed are read as well."""
    stored = node.get("widgets_values")
    stored = stored if isinstance(stored, list) else []
    positions, position = [], 0

    def next_is(*allowed: str) -> bool:
        return position < len(stored) and stored[position] in allowed

    for spec in specs.values():
        if not spec.is_widget:
            continue
        positions.append(position)
        position += 1
        if spec.is_seed and next_is(*CONTROL_VALUES):
            position += 1
            if spec.type == "COMBO":
                position += 1  # a combo gets a filter text as well
        elif spec.is_upload and next_is("image"):
            position += 1
    return positions


class _Converter:
    def __init__(self, ui: Mapping[str, Any], registry: Registry) -> None:
        self.registry = registry
        subgraphs = {entry.get("id") for entry in ((ui.get("definitions") or {}).get("subgraphs") or []) if isinstance(entry, Mapping)}
        self.nodes: dict[str, Mapping[str, Any]] = {}
        for node in ui.get("nodes", []):
            if node["type"] in subgraphs:
                raise GraphError(
                    f"node {node['id']} is a subgraph, which the headless runner cannot unfold: "
                    "in ComfyUI unpack it, or export the API format"
                )
            self.nodes[str(node["id"])] = node
        self.links = {link[0]: link[1:] for link in map(_link_fields, ui.get("links") or [])}

    def convert(self) -> dict[str, Any]:
        ordered = sorted(self.nodes.items(), key=lambda item: _number(item[1].get("order")))
        return {node_id: self._node(node) for node_id, node in ordered if self._runs(node)}

    def _runs(self, node: Mapping[str, Any]) -> bool:
        return node.get("mode", 0) not in (MUTED, BYPASSED) and node["type"] not in VIRTUAL

    def _node(self, node: Mapping[str, Any]) -> dict[str, Any]:
        node_class = self.registry.get(node["type"])
        specs = input_specs(node_class) if node_class else {}
        inputs: dict[str, Any] = {name: _constant(value) for name, value in widget_values(node, specs).items()}
        for slot in node.get("inputs") or []:
            link = slot.get("link")
            if link is None or (specs and slot.get("name") not in specs):
                continue
            origin = self._origin(link)
            if origin is None:
                continue
            source, value = origin
            inputs[slot["name"]] = [source, value] if source is not None else _constant(value)
        title = node.get("title") or getattr(node_class, "DISPLAY_NAME", None) or node["type"]
        return {"class_type": node["type"], "inputs": inputs, "_meta": {"title": title}}

    def _origin(self, link: Any) -> tuple[str | None, Any] | None:
        """What feeds a link once virtual and bypassed nodes are gone: (node id, slot), (None, constant), or nothing."""
        seen: set[Any] = set()
        while link is not None:
            if link in seen:
                raise GraphError(f"link {link} runs in a circle through reroutes or bypassed nodes")
            seen.add(link)
            if link not in self.links:
                return None
            source, slot = str(self.links[link][0]), self.links[link][1]
            node = self.nodes.get(source)
            if node is None or node.get("mode", 0) == MUTED:
                return None
            if node["type"] == "PrimitiveNode":
                values = node.get("widgets_values") or [None]
                return None, values[0]
            if node["type"] == "Reroute":
                link = _slot_link(node, 0)
            elif node.get("mode", 0) == BYPASSED:
                link = _bypass(node, slot, self.links[link][4])
            else:
                return source, slot
        return None


def _bypass(node: Mapping[str, Any], slot: int, kind: Any) -> Any:
    """The link that feeds a bypassed node's output: the input at the same place if it fits, else the first of the same type."""
    inputs, outputs = node.get("inputs") or [], node.get("outputs") or []
    wanted = outputs[slot].get("type", kind) if slot < len(outputs) else kind
    if wanted == "*":
        return _slot_link(node, slot if slot < len(inputs) else 0)
    order = [*([slot] if slot < len(inputs) else []), *range(len(inputs))]
    for accepted in (wanted, "*"):
        for index in order:
            if inputs[index].get("type") == accepted:
                return inputs[index].get("link")
    return None


def _slot_link(node: Mapping[str, Any], slot: int) -> Any:
    inputs = node.get("inputs") or []
    return inputs[slot].get("link") if slot < len(inputs) else None


def _link_fields(link: Any) -> tuple[Any, ...]:
    """(id, from node, from slot, to node, to slot, type) of a link in either spelling."""
    if isinstance(link, Mapping):
        link = [link.get(key) for key in ("id", "origin_id", "origin_slot", "target_id", "target_slot", "type")]
    if not isinstance(link, list) or len(link) < 5 or not all(isinstance(link[index], int) for index in (2, 4)):
        raise GraphError(f"malformed link {str(link)[:80]}: expected [id, from node, from slot, to node, to slot, type]")
    return (*link[:5], link[5] if len(link) > 5 else "*")


def _constant(value: Any) -> Any:
    """A widget value as the API format stores it: a list is wrapped, because a bare list means a link."""
    return {"__value__": value} if isinstance(value, list) else value


def _number(value: Any) -> float:
    return value if isinstance(value, int | float) else 0
