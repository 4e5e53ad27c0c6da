"""Changes of widget values without the editor: `NODE.INPUT=VALUE` assignments and seeds.

Both forms of the graph are kept in step, so that the workflow written into a picture is the one that made it.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from itertools import takewhile
from typing import Any, cast

from ..errors import InputError
from .editor import definitions, entries
from .formats import Graph
from .inputs import (
    DYNAMIC_COMBO,
    MAX_SEED,
    InputSpec,
    Registry,
    SpecsOf,
    coerce,
    describe,
    input_specs,
    is_link,
    nearest,
    one_line,
    title_of,
    unwrap,
)
from .layout import widget_entries
from .subgraphs import Level, find_place, open_file
from .widgets import live_specs, takes_link, widget_positions, widget_values


@dataclass(frozen=True)
class Change:
    """One new widget value."""

    node_id: str
    input_name: str
    value: Any


def parse_assignment(text: str, api: Mapping[str, Any], registry: Registry, ways: Mapping[str, str] | None = None) -> Change:
    """Return the change that `NODE.INPUT=VALUE` asks for in `api`.

    NODE is a node's id, class or title, in this order of preference; class and title must fit one node only. A node inside a subgraph is
    named after it too, as `Subgraph title/Node title`, by `ways`: the titles of the subgraphs around each node, by its id
    (:func:`~.subgraphs.ways_inside`). An input of a dynamic combo's option is `combo.input`. VALUE is read as JSON and else as plain
    text; for a text input it is plain text unless it is a quoted JSON text. Raises :class:`InputError` listing the choices.
    """
    target, equals, raw = text.partition("=")
    target = target.strip()
    splits = [(target[:place], target[place + 1 :]) for place, letter in enumerate(target) if letter == "."][::-1]
    if not equals or not splits or not all(splits[0]):
        raise InputError(f"cannot read {one_line(text)!r}: write NODE.INPUT=VALUE, for example KSampler.steps=20 or 3.seed=7")
    known = next((split for split in splits if _named(split[0], api, ways or {})), splits[0])
    node_id, name = find_node(known[0], api, ways), known[1]
    node = api[node_id]
    node_class = registry.get(node.get("class_type", ""))
    if node_class is None:
        raise InputError(f"{text!r}: {describe(node_id, node)} is of an unknown class, so its inputs are not known")
    specs = _specs_now(node, input_specs(node_class))
    widgets = [spec.name for spec in specs.values() if spec.is_widget]
    if name not in specs:
        near = nearest(name, widgets)
        guess = f"did you mean {near}? " if near else ""
        raise InputError(f"{describe(node_id, node)} has no input {name!r}; {guess}It has {', '.join(widgets) or 'no values to set'}")
    if not specs[name].is_widget:
        raise InputError(f"input {name!r} of {describe(node_id, node)} takes a link from a {specs[name].type} output, not a value")
    return Change(node_id, name, _read_value(raw, specs[name]))


def find_node(selector: str, api: Mapping[str, Any], ways: Mapping[str, str] | None = None) -> str:
    """Return the id of the one node that `selector` names; `ways` as in :func:`parse_assignment`. Raises :class:`InputError` listing the
    choices where there is none or several."""
    ways = ways or {}
    found = _named(selector, api, ways)
    if len(found) == 1:
        return found[0]

    def shown(node_id: str) -> str:
        inside = f" in {one_line(ways[node_id], 60)!r}" if node_id in ways else ""
        return f"{describe(node_id, api[node_id])}{inside}"

    if found:
        raise InputError(f"{len(found)} nodes are called {selector!r}; say which by its id: {', '.join(map(shown, found[:8]))}")
    known = [*api, *(node.get("class_type", "") for node in api.values()), *filter(None, map(title_of, api.values()))]
    near = nearest(selector, [*known, *(f"{way}/{title_of(api[node_id])}" for node_id, way in ways.items() if node_id in api)])
    guess = f"; did you mean {near}?" if near else "."
    choices = ", ".join(map(shown, list(api)[:12]))
    raise InputError(f"no node has the id, class or title {one_line(selector)!r}{guess} The graph has {choices}")


def _named(selector: str, api: Mapping[str, Any], ways: Mapping[str, str]) -> list[str]:
    """The ids of the nodes that `selector` names."""
    if selector in api:
        return [selector]
    for key in (lambda node: node.get("class_type", ""), title_of):
        for fold in (str, str.lower):
            found = [node_id for node_id, node in api.items() if fold(key(node)) == fold(selector)]
            if found:
                return found
    for place in (place for place in range(len(selector) - 1, 0, -1) if selector[place] == "/"):
        way = selector[:place].lower()
        inside = {node_id: node for node_id, node in api.items() if ways.get(node_id, "").lower() == way}
        if inside and (found := _named(selector[place + 1 :], inside, {})):
            return found
    return []


def _specs_now(node: Mapping[str, Any], declared: Mapping[str, InputSpec]) -> dict[str, InputSpec]:
    """The inputs that a node of the API format has with the options that are chosen in it."""
    return live_specs({"widgets_values": {name: unwrap(value) for name, value in node.get("inputs", {}).items()}}, declared)


def apply_changes(graph: Graph, registry: Registry, changes: Iterable[Change]) -> Graph:
    """Return a copy of `graph` with new widget values, in each form that it has. A link into a changed input is removed."""
    api = copy.deepcopy(graph.to_api(registry))
    ui = copy.deepcopy(graph.ui)
    top = open_file(ui) if ui is not None else None
    for change in changes:
        _change_api(api[change.node_id], registry, change)
        if ui is not None and top is not None:
            top = _change_ui(ui, top, registry, change)
    return replace(graph, api=api, ui=ui)


def _change_api(node: dict[str, Any], registry: Registry, change: Change) -> None:
    """Write a new value. Another option of a dynamic combo brings its own inputs, with their defaults, in the place of the old ones."""
    inputs, name = node["inputs"], change.input_name
    inputs[name] = {"__value__": change.value} if isinstance(change.value, list) else change.value
    node_class = registry.get(node.get("class_type", ""))
    declared = input_specs(node_class) if node_class else {}
    specs = _specs_now(node, declared)
    if name in specs and specs[name].type == DYNAMIC_COMBO:
        for old in [key for key in inputs if key.startswith(f"{name}.") and not takes_link(key, specs)]:
            del inputs[old]
        inputs |= {key: spec.default for key, spec in specs.items() if key.startswith(f"{name}.") and spec.is_widget and key not in inputs}


def with_seed(graph: Graph, registry: Registry, seed: int) -> Graph:
    """Return a copy of `graph` in which every seed widget holds `seed` (0..2**64-1); linked seeds keep their link."""
    if not 0 <= seed <= MAX_SEED:
        raise InputError(f"seed {seed} is out of range: give a whole number from 0 to {MAX_SEED}")
    changes, specs_of = [], SpecsOf(registry)
    for node_id, node in graph.to_api(registry).items():
        for spec in specs_of[node.get("class_type", "")].values():
            if spec.type == "INT" and spec.is_seed and not is_link(node.get("inputs", {}).get(spec.name)):
                changes.append(Change(node_id, spec.name, min(seed, spec.options.get("max", MAX_SEED))))
    return apply_changes(graph, registry, changes)


def _read_value(raw: str, spec: InputSpec) -> Any:
    try:
        value = json.loads(raw)
    except (ValueError, RecursionError):
        value = raw
    if spec.type in ("STRING", "COMBO") and not isinstance(value, str):
        value = next((choice for choice in spec.choices or () if choice == value), raw)
    try:
        coerce(value, spec)
    except (TypeError, ValueError, OverflowError) as error:
        raise InputError(f"input {spec.name!r} needs a value of type {spec.type}, not {one_line(raw)!r} ({one_line(error)})") from error
    return value


def _change_ui(ui: dict[str, Any], top: Level, registry: Registry, change: Change) -> Level:
    """Write a new value where the editor will look for it: into the node, or into the subgraph that promotes the widget. Returns the
    root of the graph's levels for the next change."""
    place = find_place(ui, top, change.node_id, change.input_name)
    if place is None:
        return top
    node = place.node
    raw = cast(dict[str, Any], node.raw)
    if place.position is not None:
        values = [*node.values, *[None] * (place.position + 1 - len(node.values))]
        values[place.position] = change.value
        raw["widgets_values"] = values
        return place.top
    node_class = registry.get(node.type)
    declared = input_specs(node_class) if node_class else {}
    specs = live_specs(raw, declared)
    if change.input_name not in specs:  # the two forms of a graph from somewhere else need not agree
        return place.top
    if isinstance(raw.get("widgets_values"), dict):
        raw["widgets_values"][change.input_name] = change.value
    else:
        stored, position = list(node.values), widget_positions(raw, declared)[change.input_name]
        if specs[change.input_name].type == DYNAMIC_COMBO:  # the values behind it are those of another option
            chosen = {"widgets_values": widget_values(raw, declared) | {change.input_name: change.value}}
            known, now = widget_values(chosen, declared), live_specs(chosen, declared)
            raw["widgets_values"] = [entry for spec in now.values() if spec.is_widget for entry in widget_entries(spec, known[spec.name])]
            return place.top
        if position >= len(stored):  # a file from before this input existed: write every value out
            known, widgets = widget_values(raw, declared), [spec for spec in specs.values() if spec.is_widget]
            stored = [entry for spec in widgets for entry in widget_entries(spec, known[spec.name])]
            before = takewhile(lambda spec: spec.name != change.input_name, widgets)
            position = sum(len(widget_entries(spec, None)) for spec in before)
        stored[position] = change.value
        raw["widgets_values"] = stored
    for slot in entries(raw.get("inputs")):
        if slot.get("name") == change.input_name and slot.get("link") is not None:
            _drop_link(_holder(ui, place.level), str(slot["link"]))
            cast(dict[str, Any], slot)["link"] = None
    return place.top


def _holder(ui: dict[str, Any], level: Level) -> dict[str, Any]:
    """The object of the file that holds the nodes and links of a level."""
    if level.user is None:
        return ui
    return cast(dict[str, Any], next(entry for entry in definitions(ui) if str(entry["id"]) == level.user.type))


def _drop_link(holder: dict[str, Any], number: str) -> None:
    def is_other(link: Any) -> bool:
        return link is None or str(link.get("id") if isinstance(link, dict) else link[0]) != number

    stored = holder.get("links") or []
    holder["links"] = [link for link in (stored.values() if isinstance(stored, dict) else stored) if is_other(link)]
    ends = [(output, "links") for node in entries(holder["nodes"]) for output in entries(node.get("outputs"))]
    for entry, key in [*ends, *((entry, "linkIds") for entry in entries(holder.get("inputs")))]:
        if isinstance(entry.get(key), list):
            cast(dict[str, Any], entry)[key] = [link for link in entry[key] if str(link) != number]
