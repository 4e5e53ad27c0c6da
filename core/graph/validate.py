"""Checks of a graph before anything runs: ComfyUI's own checks and error types, one readable line for each problem.

Only what the output nodes need is checked, as in ComfyUI. A node of an unknown class counts where an output needs it or where it takes
links, because it may itself be an output; a label of the editor does not. Unlike ComfyUI, which runs the good outputs and drops the bad
ones, every problem counts: a headless run should not half succeed.
"""

from __future__ import annotations

import inspect
import json
import logging
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any

from ..errors import InvalidGraphError
from .formats import Graph, as_api
from .inputs import AUTOGROW, InputSpec, Registry, SpecsOf, coerce, describe, is_link, links_of, nearest, one_line, title_of, unwrap

log = logging.getLogger("rapiddraw")
_SHOWN = 8  # values of a list that a message names
_GUESSES = 20  # unknown classes for which a known one that looks alike is searched


@dataclass(frozen=True)
class Problem:
    """One reason why a graph cannot run.

    `type` is ComfyUI's error type where it has one (`value_not_in_list`, `required_input_missing`, `return_type_mismatch` ...).
    `given` and `allowed` are short texts; `message` is the whole story on one line.
    """

    type: str
    message: str
    node_id: str = ""
    class_type: str = ""
    title: str = ""
    input_name: str = ""
    given: str = ""
    allowed: str = ""

    def __str__(self) -> str:
        return self.message


def validate(graph: Graph | Mapping[str, Any], registry: Registry, outputs: Iterable[str] | None = None) -> list[Problem]:
    """Return all problems of `graph`, in the order of its nodes; an empty list means that it can run.

    `outputs` limits the check to what these nodes need; by default it is every output node of the graph.
    """
    api = as_api(graph, registry)
    if outputs is None:
        wanted = output_nodes(api, registry)
    else:
        wanted = [str(output) for output in outputs]
        missing = [output for output in wanted if output not in api]
        if missing:
            text = f"there is no node {one_line(missing[0], 40)}; the graph has {_some(api)}"
            return [Problem("bad_output", text, given=missing[0], allowed=_some(api))]
    needed = reachable(api, wanted)
    unknown = [node_id for node_id, node in api.items() if node.get("class_type") not in registry]
    counting = [node_id for node_id in unknown if _counts(node_id, api, needed, outputs is None)]
    if counting or (unknown and not wanted):
        return _unknown_classes(counting or unknown, api, registry)
    if not wanted:
        return [_no_outputs(api)]
    cycle = find_cycle(api, wanted)
    problems = [_cycle(api, cycle)] if cycle else []
    checks = _Checks(api, registry)
    for node_id in api:
        if node_id in needed:
            problems += _Node(node_id, checks).problems()
    return problems


def passed_over(graph: Graph | Mapping[str, Any], registry: Registry) -> list[Problem]:
    """Return a warning for each node of an unknown class that no output needs and that takes no link, such as a label of the editor."""
    api = as_api(graph, registry)
    needed = reachable(api, output_nodes(api, registry))
    unknown = [node_id for node_id, node in api.items() if node.get("class_type") not in registry]
    return _unknown_classes([node_id for node_id in unknown if not _counts(node_id, api, needed, True)], api, registry)


def _counts(node_id: str, api: Mapping[str, Any], needed: set[str], is_whole_graph: bool) -> bool:
    """Whether a node of an unknown class keeps the graph from running: something needs it, it may itself be an output, because it takes
    links, or it says no class at all."""
    node = api[node_id]
    return node_id in needed or (is_whole_graph and (bool(links_of(node)) or not node.get("class_type")))


def check(graph: Graph | Mapping[str, Any], registry: Registry, outputs: Iterable[str] | None = None) -> None:
    """Raise :class:`InvalidGraphError` with every problem of `graph`, if there is one. Nodes that are passed over are logged."""
    api = as_api(graph, registry)
    problems = validate(api, registry, outputs)
    if problems:
        raise InvalidGraphError(problems)
    for problem in passed_over(api, registry):
        log.warning("%s. No output needs it, so it is left out", problem)


def output_nodes(api: Mapping[str, Any], registry: Registry) -> list[str]:
    """Return the ids of the nodes that a run is for: those that save, preview or report."""
    return [node_id for node_id, node in api.items() if getattr(registry.get(node.get("class_type", "")), "OUTPUT_NODE", False)]


def reachable(api: Mapping[str, Any], outputs: Iterable[str]) -> set[str]:
    """Return every node that `outputs` need, themselves included."""
    found: set[str] = set()
    waiting = list(outputs)
    while waiting:
        node_id = waiting.pop()
        if node_id not in found and node_id in api:
            found.add(node_id)
            waiting += [source for source, _ in links_of(api[node_id]).values()]
    return found


def find_cycle(api: Mapping[str, Any], outputs: Iterable[str]) -> list[str]:
    """Return the node ids of one dependency cycle that `outputs` run into, in the order of the data, or an empty list."""
    done: set[str] = set()
    for output in outputs:
        path: dict[str, Iterator[str]] = {}
        if output in api and output not in done:
            path[output] = iter([source for source, _ in links_of(api[output]).values()])
        while path:
            node_id = next(reversed(path))
            source = next(path[node_id], None)
            if source is None:
                done.add(node_id)
                del path[node_id]
            elif source in path:
                order = list(path)
                return order[order.index(source) :][::-1]
            elif source in api and source not in done:
                path[source] = iter([origin for origin, _ in links_of(api[source]).values()])
    return []


def types_fit(given: Any, accepted: Any) -> bool:
    """Return whether an output of type `given` may feed an input of type `accepted`: equal, `*`, or unions `"A,B"` that share a type."""
    if not (given != accepted) or "*" in (given, accepted):  # noqa: SIM202 (some packs' wildcard types override `!=` only)
        return True
    if isinstance(given, list | tuple):
        return accepted == "COMBO"
    if not isinstance(given, str) or not isinstance(accepted, str):
        return False
    left, right = ({kind.strip() for kind in union.split(",")} for union in (given, accepted))
    return bool(left & right) or "*" in left | right


class _Checks:
    """A graph under check, with what is looked up for many nodes."""

    def __init__(self, api: Mapping[str, Any], registry: Registry) -> None:
        self.api, self.registry, self.specs_of = api, registry, SpecsOf(registry)
        self._givers: dict[str, list[str]] = {}

    def giver(self, kind: str, but: str) -> str | None:
        """Return a node that could feed an input of type `kind`, other than the node `but`."""
        if kind not in self._givers:
            found = (node_id for node_id, node in self.api.items() if kind in self.kinds(node.get("class_type", "")))
            self._givers[kind] = list(islice(found, 2))
        return next((node_id for node_id in self._givers[kind] if node_id != but), None)

    def kinds(self, class_type: str) -> tuple[Any, ...]:
        """Return the types of a class's outputs."""
        return getattr(self.registry.get(class_type), "RETURN_TYPES", ())


class _Node:
    """The checks of one node whose class is known."""

    def __init__(self, node_id: str, checks: _Checks) -> None:
        self.id, self.api, self.checks = node_id, checks.api, checks
        self.node = self.api[node_id]
        self.node_class = checks.registry[self.node["class_type"]]
        self.specs = checks.specs_of[self.node["class_type"]]
        self.given = self.node.get("inputs", {})
        checker = getattr(self.node_class, "VALIDATE_INPUTS", None)
        signature = inspect.getfullargspec(checker) if checker else None
        self.checker = checker
        self.own_names = set(signature.args) - {"cls", "s", "self"} if signature else set()
        self.own_all = bool(signature and signature.varkw)

    def problems(self) -> list[Problem]:
        found = [problem for spec in self.specs.values() if (problem := self._input(spec))]
        if not found and self.checker:
            found = self._own_check()
        return found

    def _input(self, spec: InputSpec) -> Problem | None:
        if spec.type == AUTOGROW:
            return None  # its inputs are linked under other names
        if spec.name not in self.given:
            return self._missing(spec) if spec.category == "required" else None
        value = self.given[spec.name]
        if isinstance(value, list):
            return self._link(spec, value)
        if not spec.is_widget:
            if spec.category == "optional" and value is None:
                return None
            return self._problem(
                "required_input_missing", spec, _show(value), _output(spec.type),
                f"needs {_output(spec.type)}, not the value {_show(value)}",
            )  # fmt: skip
        try:
            converted = coerce(value, spec)
        except (TypeError, ValueError, OverflowError) as error:
            text = f"is {_show(value)}, which is no {spec.type} ({one_line(error)})"
            return self._problem("invalid_input_type", spec, _show(value), spec.type, text)
        if spec.name in self.own_names or self.own_all:
            return None  # as in ComfyUI: a node that checks an input itself switches the built-in checks off
        return self._range(spec, converted)

    def _range(self, spec: InputSpec, value: Any) -> Problem | None:
        low, high, shown = spec.options.get("min"), spec.options.get("max"), _show(value)
        if low is not None and value < low:
            text = f"is {shown}, smaller than the least allowed value {low}"
            return self._problem("value_smaller_than_min", spec, shown, f">= {low}", text)
        if high is not None and value > high:
            text = f"is {shown}, bigger than the largest allowed value {high}"
            return self._problem("value_bigger_than_max", spec, shown, f"<= {high}", text)
        if spec.choices is not None and value not in spec.choices and _with_slashes(value) not in spec.choices:
            allowed = _some(spec.choices) or "nothing, the list is empty"
            hint = nearest(value, spec.choices) if isinstance(value, str) else None
            guess = f"; did you mean {_show(hint)}?" if hint else "."
            text = f"is {shown}, which is not in the list{guess} Allowed: {allowed}"
            return self._problem("value_not_in_list", spec, shown, allowed, text)
        return None

    def _missing(self, spec: InputSpec) -> Problem:
        if spec.is_widget:
            allowed = _some(spec.choices) if spec.choices else spec.type
            return self._problem("required_input_missing", spec, "nothing", allowed, f"is required and missing. Allowed: {allowed}")
        allowed = _output(spec.type)
        giver = self.checks.giver(spec.type, self.id)
        hint = f", such as {describe(giver, self.api[giver])}" if giver is not None else ""
        return self._problem("required_input_missing", spec, "nothing", allowed, f"is required and not linked. It takes {allowed}{hint}")

    def _kinds(self, node_id: str) -> tuple[Any, ...]:
        return self.checks.kinds(self.api[node_id].get("class_type", ""))

    def _link(self, spec: InputSpec, value: list[Any]) -> Problem | None:
        form = "[node id, output number]"
        if not is_link(value):
            return self._problem("bad_linked_input", spec, _show(value), form, f"is {_show(value)}, which is no link. A link is {form}")
        source, slot = value
        if source not in self.api:
            return self._problem(
                "bad_linked_input", spec, _show(value), _some(self.api),
                f"is linked to node {one_line(source, 40)}, which is not in the graph. It has {_some(self.api)}",
            )  # fmt: skip
        origin = self.api[source]
        kinds = self._kinds(source)
        if not 0 <= slot < len(kinds):
            outputs = ", ".join(f"{index} ({kind})" for index, kind in enumerate(kinds)) or "none"
            return self._problem(
                "bad_linked_input", spec, _show(value), outputs,
                f"is linked to output {slot} of {describe(source, origin)}, which does not exist. Its outputs: {outputs}",
            )  # fmt: skip
        if "input_types" not in self.own_names and not types_fit(kinds[slot], spec.type):
            given = kinds[slot] if isinstance(kinds[slot], str) else "COMBO"
            text = f"takes {spec.type}, but output {slot} of {describe(source, origin)} gives {given}"
            return self._problem("return_type_mismatch", spec, given, spec.type, text)
        return None

    def _own_check(self) -> list[Problem]:
        """Call the node's VALIDATE_INPUTS the way ComfyUI does: constants by name, `None` for links."""
        values: dict[str, Any] = {}
        types: dict[str, Any] = {}
        for name, value in self.given.items():
            spec = self.specs.get(name)
            if spec is None:
                continue
            if is_link(value):
                types[name] = self._kinds(value[0])[value[1]]
            if name in self.own_names or self.own_all:
                values[name] = None if is_link(value) else coerce(value, spec)
        if "input_types" in self.own_names:
            values["input_types"] = types
        if not values:
            return []
        try:
            verdict = self.checker(**values)  # type: ignore[misc]
        except Exception as error:
            verdict = f"its own check failed with {type(error).__name__}: {error}"
        if verdict is True:
            return []
        names = ", ".join(name for name in values if name != "input_types")
        given = ", ".join(f"{name} = {_show(value)}" for name, value in values.items() if name != "input_types" and value is not None)
        reason = one_line(verdict, 300) if isinstance(verdict, str) else "the node refuses it"
        choices = [spec.choices for name, spec in self.specs.items() if name in values and spec.choices]
        allowed = _some(choices[0]) if len(choices) == 1 else ""
        hint = f". Allowed: {allowed}" if allowed else ""
        message = f"{describe(self.id, self.node)}: {reason} (given: {given or 'links only'}){hint}"
        return [Problem("custom_validation_failed", message, self.id, self.node["class_type"], title_of(self.node), names, given, allowed)]

    def _problem(self, kind: str, spec: InputSpec, given: str, allowed: str, text: str) -> Problem:
        message = f"{describe(self.id, self.node)}: input '{spec.name}' {text}"
        return Problem(kind, message, self.id, self.node["class_type"], title_of(self.node), spec.name, given, allowed)


def _unknown_classes(node_ids: Iterable[str], api: Mapping[str, Any], registry: Registry) -> list[Problem]:
    """One problem for each of these nodes; the nearest known class is looked up once a class, and for the first classes only."""
    hints: dict[str, str | None] = {}
    problems = []
    for node_id in node_ids:
        node = api[node_id]
        kind, title = node.get("class_type"), title_of(node)
        if not kind:
            named = f'node {node_id} "{one_line(title, 60)}"' if title else f"node {node_id}"
            problems.append(Problem("missing_node_type", f"{named}: it has no class_type; the graph is damaged", node_id, title=title))
            continue
        if kind not in hints:
            hints[kind] = nearest(kind, registry) if len(hints) < _GUESSES else None
        near = hints[kind]
        hint = f"did you mean {near}?" if near else "`python -m rapiddraw nodes` lists the known ones"
        message = f"{describe(node_id, node)}: there is no node class {_show(kind)}; {hint}"
        problems.append(Problem("missing_node_type", message, node_id, str(kind), title, given=str(kind), allowed=near or ""))
    return problems


def _no_outputs(api: Mapping[str, Any]) -> Problem:
    present = one_line(", ".join(sorted({str(node.get("class_type")) for node in api.values()})))
    message = f"the graph has no output node, so nothing would run (it has {present}). Add SaveImage or PreviewImage"
    return Problem("prompt_no_outputs", message, given=present, allowed="SaveImage, PreviewImage")


def _cycle(api: Mapping[str, Any], cycle: list[str]) -> Problem:
    first, before = cycle[0], cycle[-1]
    node, steps = api[first], [*cycle, first]
    path = " -> ".join(f"{node_id} {api[node_id]['class_type']}" for node_id in steps[:_SHOWN])
    path += " -> ..." if len(steps) > _SHOWN else ""
    name = next(name for name, (source, _) in links_of(node).items() if source == before)
    message = f"{describe(first, node)}: input '{name}' closes a dependency cycle: {path}. Remove one of these links"
    return Problem("dependency_cycle", message, first, node["class_type"], title_of(node), name, path, "a graph without cycles")


def _output(kind: str) -> str:
    if kind == "*":
        return "a link from any output"
    return f"a link from {'an' if kind[:1] in 'AEIOU' else 'a'} {kind} output"


def _show(value: Any) -> str:
    """A value as JSON on one short line."""
    try:
        return one_line(json.dumps(unwrap(value), ensure_ascii=False))
    except (TypeError, ValueError):
        return one_line(repr(value))


def _with_slashes(value: Any) -> Any:
    """Return the value as a graph saved on Linux has it: Windows writes the names of models in folders with backslashes."""
    return value.replace("\\", "/") if isinstance(value, str) else value


def _some(values: Collection[Any]) -> str:
    """The first few values, and how many more there are."""
    more = f" and {len(values) - _SHOWN} more" if len(values) > _SHOWN else ""
    return one_line(", ".join(str(value) for value in islice(values, _SHOWN)), 200) + more
