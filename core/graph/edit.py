"""Change widget values of a graph without the editor: `NODE.INPUT=VALUE` assignments and seeds.

Both forms of the graph are kept in step, so that the workflow written into a picture is the one that made it.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from ..errors import InputError
from .convert import widget_positions, widget_values
from .formats import Graph
from .inputs import MAX_SEED, InputSpec, Registry, coerce, describe, input_specs, is_link, nearest, one_line, title_of
from .layout import widget_entries


@dataclass(frozen=True)
class Change:
    """One new widget value."""

    node_id: str
    input_name: str
    value: Any


def parse_assignment(text: str, api: Mapping[str, Any], registry: Registry) -> Change:
    """The change that `NODE.INPUT=VALUE` asks for in `api`.

    NODE is a node's id, class or title, in this order of preference; class and title must fit one node only. VALUE is read as JSON and
    else as plain text; for a text input it is plain text unless it is a quoted JSON text. Raises :class:`InputError` listing the choices.
    """
    target, equals, raw = text.partition("=")
    selector, dot, name = target.strip().rpartition(".")
    if not equals or not dot or not selector or not name:
        raise InputError(f"cannot read {one_line(text)!r}: write NODE.INPUT=VALUE, for example KSampler.steps=20 or 3.seed=7")
    node_id = find_node(selector, api)
    node = api[node_id]
    node_class = registry.get(node.get("class_type", ""))
    if node_class is None:
        raise InputError(f"{text!r}: {describe(node_id, node)} is of an unknown class, so its inputs are not known")
    specs = input_specs(node_class)
    widgets = [spec.name for spec in specs.values() if spec.is_widget]
    if name not in specs:
        near = nearest(name, widgets)
        guess = f"did you mean {near}? " if near else ""
        raise InputError(f"{describe(node_id, node)} has no input {name!r}; {guess}It has {', '.join(widgets) or 'no values to set'}")
    if not specs[name].is_widget:
        raise InputError(f"input {name!r} of {describe(node_id, node)} takes a link from a {specs[name].type} output, not a value")
    return Change(node_id, name, _read_value(raw, specs[name]))


def find_node(selector: str, api: Mapping[str, Any]) -> str:
    """The id of the one node that `selector` names. Raises :class:`InputError` listing the choices where there is none or several."""
    if selector in api:
        return selector
    for key in (lambda node: node.get("class_type", ""), title_of):
        for fold in (str, str.lower):
            found = [node_id for node_id, node in api.items() if fold(key(node)) == fold(selector)]
            if len(found) > 1:
                choices = ", ".join(describe(node_id, api[node_id]) for node_id in found[:8])
                raise InputError(f"{len(found)} nodes are called {selector!r}; say which by its id: {choices}")
            if found:
                return found[0]
    known = [*api, *(node.get("class_type", "") for node in api.values()), *filter(None, map(title_of, api.values()))]
    near = nearest(selector, known)
    guess = f"; did you mean {near}?" if near else "."
    choices = ", ".join(describe(node_id, node) for node_id, node in list(api.items())[:12])
    raise InputError(f"no node has the id, class or title {one_line(selector)!r}{guess} The graph has {choices}")


def apply_changes(graph: Graph, registry: Registry, changes: Iterable[Change]) -> Graph:
    """A copy of `graph` with new widget values, in each form that it has. A link into a changed input is removed."""
    api = copy.deepcopy(graph.to_api(registry))
    ui = copy.deepcopy(graph.ui)
    for change in changes:
        value = {"__value__": change.value} if isinstance(change.value, list) else change.value
        api[change.node_id]["inputs"][change.input_name] = value
        if ui is not None:
            _change_ui(ui, registry, change)
    return replace(graph, api=api, ui=ui)


def with_seed(graph: Graph, registry: Registry, seed: int) -> Graph:
    """A copy of `graph` in which every seed widget holds `seed` (0..2**64-1); linked seeds keep their link."""
    if not 0 <= seed <= MAX_SEED:
        raise InputError(f"seed {seed} is out of range: give a whole number from 0 to {MAX_SEED}")
    changes = []
    for node_id, node in graph.to_api(registry).items():
        node_class = registry.get(node.get("class_type", ""))
        for spec in input_specs(node_class).values() if node_class else ():
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


def _change_ui(ui: dict[str, Any], registry: Registry, change: Change) -> None:
    node = next((node for node in ui["nodes"] if str(node["id"]) == change.node_id), None)
    if node is None:
        return
    specs = input_specs(registry[node["type"]])
    if isinstance(node.get("widgets_values"), dict):
        node["widgets_values"][change.input_name] = change.value
    else:
        widgets = [spec for spec in specs.values() if spec.is_widget]
        index = [spec.name for spec in widgets].index(change.input_name)
        stored, position = list(node.get("widgets_values") or []), widget_positions(node, specs)[index]
        if position >= len(stored):  # a file from before this input existed: write every value out
            values = widget_values(node, specs)
            stored = [entry for spec in widgets for entry in widget_entries(spec, values[spec.name])]
            position = sum(len(widget_entries(spec, None)) for spec in widgets[:index])
        stored[position] = change.value
        node["widgets_values"] = stored
    for slot in node.get("inputs") or []:
        if slot.get("name") == change.input_name and slot.get("link") is not None:
            _drop_link(ui, slot["link"])
            slot["link"] = None


def _drop_link(ui: dict[str, Any], number: Any) -> None:
    ui["links"] = [link for link in ui.get("links") or [] if (link.get("id") if isinstance(link, dict) else link[0]) != number]
    for node in ui["nodes"]:
        for output in node.get("outputs") or []:
            output["links"] = [link for link in output.get("links") or [] if link != number]
