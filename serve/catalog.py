"""Graphs that a service draws, and what a client's graph must keep to.

A client may change the values of a registered graph. A graph of another shape is admitted only where its node classes are allowed.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ..core.errors import GraphError, InputError
from ..core.graph.formats import Graph, read_graph
from ..core.graph.inputs import Registry, describe, is_link, one_line
from ..core.graph.shipped import shipped_graphs
from .settings import Settings

MOST_NODES = 500
MARK = "RapidDrawMarkAIGenerated"
_FAINTEST_MARK = 0.5


class Refused(InputError):
    """A graph or a request that this service does not take. `kind` is a short name of the reason."""

    def __init__(self, message: str, kind: str = "not_allowed", node_id: str = "") -> None:
        super().__init__(message)
        self.kind, self.node_id = kind, node_id


class Catalog:
    """The registered graphs by name, and the checks of a client's graph. Raises :class:`GraphError` for a source that is no graph."""

    def __init__(self, settings: Settings, registry: Registry) -> None:
        self._settings, self._registry = settings, registry
        self.graphs: dict[str, Graph] = {path_name: read_graph(path) for path_name, path in _sources(settings.graphs)}
        self._shapes = {_shape(graph.to_api(registry)): name for name, graph in self.graphs.items()}
        used = {node["class_type"] for graph in self.graphs.values() for node in graph.to_api(registry).values()}
        self.allowed = None if settings.allowed is None else used | set(settings.allowed)
        unknown = sorted(set(settings.allowed or ()) - set(registry) - {"all"})
        if unknown:
            raise InputError(f"--allow-graphs names {', '.join(unknown)}, which this host has no node class for")

    def named(self, name: str) -> Graph:
        """Return the registered graph of this name. Raises :class:`Refused` listing the names where there is none."""
        if name not in self.graphs:
            known = ", ".join(sorted(self.graphs))
            raise Refused(f"no graph is called {one_line(name, 60)!r}; this service draws {known}", "unknown_graph")
        return self.graphs[name]

    def admit(self, api: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
        """Return (name, graph): the name of the registered graph that `api` has the shape of ("" for another graph that is allowed), and
        the graph to run, whose pictures are marked as AI-generated where the settings say so.

        Raises :class:`Refused` with the reason and the node.
        """
        if len(api) > MOST_NODES:
            raise Refused(f"the graph has {len(api)} nodes; {MOST_NODES} are the most", "too_large")
        name = self._shapes.get(_shape(api), "")
        if not name:
            self._check_classes(api)
        self._check_sizes(api)
        self._check_texts(api)
        return name, self._marked(api) if self._settings.mark else dict(api)

    def _check_classes(self, api: Mapping[str, Any]) -> None:
        if self.allowed is None:
            known = ", ".join(sorted(self.graphs))
            raise Refused(
                f"this service draws its registered graphs alone ({known}), with other values; this graph has other nodes or links"
            )
        for node_id, node in api.items():
            kind = node.get("class_type", "")
            if kind not in self.allowed and "all" not in self.allowed:
                raise Refused(f"{describe(node_id, node)}: nodes of this class are not allowed here", "forbidden_class", node_id)

    def _check_sizes(self, api: Mapping[str, Any]) -> None:
        limits = self._settings.limits
        for node_id, node in api.items():
            values = node.get("inputs", {})
            width, height, batch = (_count(values.get(name)) for name in ("width", "height", "batch_size"))
            if width and height and width * height * (batch or 1) > limits.pixels:
                text = f"{width} x {height} x {batch or 1} pixels; {limits.pixels} in all are the most"
                raise Refused(f"{describe(node_id, node)} asks for {text}", "too_large", node_id)
            if (_count(values.get("steps")) or 0) > limits.steps:
                raise Refused(
                    f"{describe(node_id, node)} asks for {values['steps']} steps; {limits.steps} are the most", "too_large", node_id
                )

    def _check_texts(self, api: Mapping[str, Any]) -> None:
        for node_id, node in api.items():
            for name, value in node.get("inputs", {}).items():
                found = blocked_text(value, self._settings.blocked) if isinstance(value, str) else ""
                if found:
                    raise Refused(
                        f"{describe(node_id, node)}: input {name!r} holds a text that this service does not draw", "blocked", node_id
                    )

    def _marked(self, api: Mapping[str, Any]) -> dict[str, Any]:
        """The graph with a mark before every node that saves or shows pictures and gets them without a visible mark."""
        marked = dict(api)
        for node_id, node in api.items():
            node_class = self._registry.get(node.get("class_type", ""))
            if not getattr(node_class, "OUTPUT_NODE", False):
                continue
            inputs = dict(node.get("inputs", {}))
            for name in ("images", "image"):
                if is_link(inputs.get(name)) and not _is_visible_mark(api.get(inputs[name][0], {})):
                    own = f"mark-{node_id}-{name}"
                    default = {"text": "AI-generated", "position": "bottom_right", "opacity": 0.8}
                    marked[own] = {"class_type": MARK, "inputs": {"image": inputs[name], **default}}
                    inputs[name] = [own, 0]
            marked[node_id] = {**node, "inputs": inputs}
        return marked


def _is_visible_mark(node: Mapping[str, Any]) -> bool:
    inputs = node.get("inputs", {})
    opacity = inputs.get("opacity")
    strong = isinstance(opacity, int | float) and opacity >= _FAINTEST_MARK
    return node.get("class_type") == MARK and strong and bool(str(inputs.get("text", "")).strip())


def blocked_text(text: str, blocked: Iterable[str]) -> str:
    """Return the first entry of `blocked` that `text` holds as whole words, in any case; "" where it holds none."""
    for entry in blocked:
        if entry.strip() and re.search(rf"(?<!\w){re.escape(entry.strip())}(?!\w)", text, re.IGNORECASE):
            return entry
    return ""


def _count(value: Any) -> int | None:
    """A number as the node will receive it; ComfyUI turns texts into numbers as well."""
    try:
        return int(value) if isinstance(value, int | float | str) else None
    except (ValueError, OverflowError):
        return None


def _sources(given: Iterable[str]) -> Iterable[tuple[str, str | Path]]:
    """(name, source) of every graph; a folder stands for its `.json` files."""
    for source in given:
        folder = Path(source)
        if folder.is_dir():
            files = sorted(folder.glob("*.json"))
            if not files:
                raise GraphError(f"{source} holds no .json file; expected graphs saved in ComfyUI's UI or API format")
            yield from ((file.stem, file) for file in files)
        elif not folder.is_file() and source.removesuffix(".json") not in shipped_graphs():
            raise GraphError(f"{source} is no file, no folder and no shipped graph; shipped are {', '.join(shipped_graphs())}")
        else:
            yield folder.stem, source


def _shape(api: Mapping[str, Any]) -> frozenset[tuple[Any, ...]]:
    """Node ids, classes and links of a graph, without its values."""
    found = set()
    for node_id, node in api.items():
        links = tuple(sorted((name, *value) for name, value in node.get("inputs", {}).items() if is_link(value)))
        found.add((node_id, node.get("class_type"), links))
    return frozenset(found)
