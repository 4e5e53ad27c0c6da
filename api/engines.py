"""Engines that run a graph: the embedded host's executor, and the interface that it shares with ComfyUI's (:mod:`.comfy`)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

from ..core.files import check_writable
from ..core.graph.edit import apply_changes, parse_assignment, with_seed
from ..core.graph.execute import NodeEvent, Runner, RunResult
from ..core.graph.formats import Graph
from ..core.graph.inputs import Registry
from ..core.graph.subgraphs import ways_inside
from ..core.graph.validate import check, output_nodes
from ..core.paths import input_dir, output_dir, temp_dir


class Engine(Protocol):
    """What a run needs: the node classes, a check before the run, the run itself, and the folders that its files lie in."""

    registry: Registry

    def check(self, graph: Graph) -> None:
        """Raise :class:`InvalidGraphError` with every reason why `graph` cannot run, :class:`WriteError` where nothing can be saved."""
        ...

    def run(self, graph: Graph, on_node: Callable[[NodeEvent], None] | None = None) -> RunResult:
        """Run a graph that was checked. Raises :class:`NodeError` naming the node that failed, :class:`Cancelled` after a stop."""
        ...

    def folders(self) -> dict[str, Path]:
        """Return the folders `input`, `output` and `temp`."""
        ...


class EmbeddedEngine:
    """The embedded host's executor. What nodes gave is kept between runs, so that only what changed runs again."""

    def __init__(self, registry: Registry) -> None:
        self.registry, self._runner = registry, Runner(registry)

    def check(self, graph: Graph) -> None:
        """See :meth:`Engine.check`."""
        api = graph.to_api(self.registry)
        check(graph, self.registry)
        if any("filename_prefix" in api[node_id]["inputs"] for node_id in output_nodes(api, self.registry)):
            check_writable(output_dir())

    def run(self, graph: Graph, on_node: Callable[[NodeEvent], None] | None = None) -> RunResult:
        """See :meth:`Engine.run`."""
        return self._runner.run(graph, on_node=on_node)

    def forget_shown(self) -> None:
        """Let nodes that save or show something do so again in the next run; models stay loaded."""
        self._runner.forget_shown()

    def folders(self) -> dict[str, Path]:
        """See :meth:`Engine.folders`."""
        return {"input": input_dir(), "output": output_dir(), "temp": temp_dir()}


def changed(graph: Graph, registry: Registry, assignments: Sequence[str], seed: int | None) -> Graph:
    """Return `graph` with `NODE.INPUT=VALUE` assignments and a seed written into it. Raises :class:`InputError` for a wrong one."""
    for text in assignments:  # one after the other: an option that is chosen brings inputs for the next
        ways = ways_inside(graph.ui) if graph.ui is not None else None
        graph = apply_changes(graph, registry, [parse_assignment(text, graph.to_api(registry), registry, ways)])
    return with_seed(graph, registry, seed) if seed is not None else graph


def shown_by(result: RunResult, graph: Graph, engine: Engine) -> dict[str, dict[str, Any]]:
    """Return what each output node showed: the files that it saved as paths, any other entry as it is."""
    from ..core.graph.inputs import title_of

    folders, api = engine.folders(), graph.to_api(engine.registry)
    shown = {}
    for node_id, ui in result.outputs.items():
        node = api.get(node_id, {"class_type": ""})
        entry: dict[str, Any] = {"class_type": node["class_type"], "title": title_of(node)}
        for key, values in ui.items():
            entry[key] = [_path(value, folders) for value in values] if isinstance(values, list | tuple) else values
        shown[node_id] = entry
    return shown


def _path(value: Any, folders: dict[str, Path]) -> Any:
    """The path of a file that a node describes as ComfyUI's nodes do; anything else as it is."""
    if not isinstance(value, dict) or not isinstance(value.get("filename"), str):
        return value
    folder = folders.get(value.get("type", "output"))
    return value if folder is None else str(folder / (value.get("subfolder") or "") / value["filename"])
