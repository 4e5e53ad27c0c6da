"""Graphs in Python: load, change, check, run, save."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..core.errors import GraphError, InputError
from ..core.graph.edit import find_node
from ..core.graph.execute import NodeEvent
from ..core.graph.formats import Graph, read_graph, write_graph
from ..core.graph.inputs import Registry, describe, unwrap
from ..core.graph.validate import Problem
from ..core.graph.validate import validate as problems_of
from ..core.paths import using_dirs
from ..nodes.registry import registry
from .engines import EmbeddedEngine, Engine, changed, shown_by
from .outputs import Outputs, collect

Source = str | os.PathLike[str] | Mapping[str, Any]
"""A graph: the path of a `.json` (UI or API format) or of a `.png` that carries one, a parsed object, or the name of a shipped graph."""
OnNode = Callable[[NodeEvent], None]


def load(graph: Source) -> EditableGraph:
    """Return an editable graph. Raises :class:`GraphError` where `graph` is none; what is wrong inside it is :meth:`validate`'s to say."""
    return EditableGraph(read_graph(graph))


def validate(graph: Source | EditableGraph) -> list[Problem]:
    """Return what is wrong with `graph`, one readable problem each (`str(problem)` is a line); an empty list means that it can run."""
    try:
        return (graph if isinstance(graph, EditableGraph) else load(graph)).validate()
    except GraphError as error:
        return [Problem("invalid_prompt", str(error))]


def run(
    graph: Source | EditableGraph,
    set: Mapping[str, Any] | None = None,
    seed: int | None = None,
    output: str | os.PathLike[str] | None = None,
    input: str | os.PathLike[str] | None = None,
    on_node: OnNode | None = None,
) -> Outputs:
    """Run `graph` once without ComfyUI and return its pictures and texts.

    `set`: new values by `"NODE.INPUT"`, where NODE is an id, a class or a title. `seed` (0..2**64-1): for every seed of the graph.
    `output`: the folder for the pictures (default `./out`). `input`: the folder that LoadImage reads (default `./input`). `on_node`: told
    of each node before it runs. Raises :class:`InvalidGraphError` or :class:`InputError` before anything runs, and :class:`NodeError`
    where a node fails.
    """
    editable = graph.copy() if isinstance(graph, EditableGraph) else load(graph)
    return editable.update(set or {}).run(seed, output, input, on_node)


class EditableGraph:
    """A graph whose values can be read and set by `"NODE.INPUT"`: `graph["KSampler.steps"] = 20`. NODE is an id, a class or a title.

    Nodes keep what they gave: a second :meth:`run` runs only what was changed, and models stay loaded as long as the object lives.
    """

    def __init__(self, graph: Graph, nodes: Registry | None = None) -> None:
        self._graph, self._nodes = graph, registry() if nodes is None else nodes
        self._engine: Engine = EmbeddedEngine(self._nodes)

    def __getitem__(self, name: str) -> Any:
        """Return the value of an input; a link is `[node id, output number]`. Raises :class:`InputError` for an unknown node or input."""
        selector, dot, last = name.rpartition(".")
        if not dot or not selector or not last:
            raise InputError(f"cannot read {name!r}: write NODE.INPUT, for example 'KSampler.steps' or '3.seed'")
        api = self._graph.to_api(self._nodes)
        node_id = find_node(selector, api)
        inputs = api[node_id]["inputs"]
        if last not in inputs:
            raise InputError(f"{describe(node_id, api[node_id])} has no input {last!r}; it has {', '.join(inputs) or 'none'}")
        return unwrap(inputs[last])

    def __setitem__(self, name: str, value: Any) -> None:
        """Set an input. Raises :class:`InputError` for an unknown node or input, or a value of another type."""
        self._graph = changed(self._graph, self._nodes, [f"{name}={_as_json(name, value)}"], None)

    def __repr__(self) -> str:
        return f"<graph {self._graph.source}: {len(self.nodes)} nodes>"

    @property
    def nodes(self) -> dict[str, str]:
        """The nodes by id, each in words: `node 3 KSampler "Title"`."""
        return {node_id: describe(node_id, node) for node_id, node in self.to_api().items()}

    def update(self, values: Mapping[str, Any]) -> EditableGraph:
        """Set several inputs and return the graph itself."""
        for name, value in values.items():
            self[name] = value
        return self

    def copy(self) -> EditableGraph:
        """Return a graph of its own with the same values; it shares nothing with this one."""
        return EditableGraph(replace(self._graph), self._nodes)

    def to_api(self) -> dict[str, Any]:
        """Return the graph as `POST /prompt` and `run` take it. A copy: changing it changes nothing here."""
        return json.loads(json.dumps(self._graph.to_api(self._nodes)))

    def to_ui(self) -> dict[str, Any]:
        """Return the graph as the editor opens it; laid out where it was loaded in API format."""
        return json.loads(json.dumps(self._graph.to_ui(self._nodes)))

    def save(self, path: str | os.PathLike[str], to: str = "api") -> Path:
        """Write the graph as JSON, in the format `api` or `ui`, and return the path."""
        if to not in ("api", "ui"):
            raise InputError(f"to={to!r} is no format of graphs; give 'api' or 'ui'")
        return write_graph(path, self.to_ui() if to == "ui" else self.to_api())

    def validate(self) -> list[Problem]:
        """Return what is wrong with the graph; an empty list means that it can run."""
        return problems_of(self._graph, self._nodes)

    def run(
        self,
        seed: int | None = None,
        output: str | os.PathLike[str] | None = None,
        input: str | os.PathLike[str] | None = None,
        on_node: OnNode | None = None,
    ) -> Outputs:
        """Run the graph; see :func:`run`. `seed` counts for this run only."""
        started = time.perf_counter()
        graph = changed(self._graph, self._nodes, [], seed)
        temp = Path(output) / "temp" if output is not None else None
        with using_dirs(input, output, temp):
            self._engine.check(graph)
            result = self._engine.run(graph, on_node)
            shown = shown_by(result, graph, self._engine)
        return collect(shown, result.seconds, time.perf_counter() - started)


def _as_json(name: str, value: Any) -> str:
    """A value as an assignment writes it: numbers of numpy and torch as numbers, paths as text."""

    def plain(other: Any) -> Any:
        return other.item() if hasattr(other, "item") else os.fspath(other)

    try:
        return json.dumps(value, default=plain)
    except (TypeError, ValueError) as error:
        raise InputError(f"{name}: a {type(value).__name__} cannot be set ({error}); give a text, a number, a boolean or a list") from error
