"""Execution of graphs without ComfyUI: the same order, list handling, lazy inputs and caching, in one process.

A :class:`Runner` keeps what nodes gave between runs. A node runs again only where its class, its constants, its `IS_CHANGED` value
or anything upstream of it changed. Values travel as lists, as in ComfyUI: an output is a list with one entry, or many where the
node says `OUTPUT_IS_LIST`; a node is called once an entry unless it says `INPUT_IS_LIST`.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import inspect
import json
import logging
import math
import time
import uuid
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ..errors import Cancelled, NodeError, RapidDrawError
from ..progress import raise_if_cancelled
from .edit import with_seed
from .formats import Graph, read_graph
from .inputs import InputSpec, Registry, SpecsOf, coerce, describe, hidden_inputs, is_link, links_of
from .validate import check, output_nodes, reachable

log = logging.getLogger("rapiddraw")


@dataclass
class RunResult:
    """What one run gave.

    `outputs`: the `ui` dictionaries of nodes by id (a SaveImage has `{"images": [{"filename", "subfolder", "type"}]}`).
    `values`: of every target node, its output slots, each a list. `seconds`: time in each node that ran. `cached`: nodes
    whose earlier results were used.
    """

    outputs: dict[str, dict[str, Any]] = field(default_factory=dict)
    values: dict[str, list[list[Any]]] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    cached: list[str] = field(default_factory=list)

    @property
    def executed(self) -> list[str]:
        """The nodes that ran, in the order they ran in."""
        return list(self.seconds)


@dataclass(frozen=True)
class NodeEvent:
    """Told to `on_node` when a node begins: where the run stands. `steps` is (done, total) where an engine tells of a node's own steps."""

    node_id: str
    class_type: str
    name: str
    done: int
    steps: tuple[int, int] | None = None


def execute(
    graph: Graph | Mapping[str, Any],
    registry: Registry,
    outputs: Iterable[str] | None = None,
    seed: int | None = None,
    on_node: Callable[[NodeEvent], None] | None = None,
) -> RunResult:
    """Run `graph` once; see :meth:`Runner.run`."""
    return Runner(registry).run(graph, outputs, seed, on_node)


@dataclass(frozen=True)
class _Entry:
    values: list[list[Any]]
    ui: dict[str, Any]


class Runner:
    """Runs graphs and remembers results between runs. Not for use by several threads at once."""

    def __init__(self, registry: Registry) -> None:
        self.registry = registry
        self._cache: dict[str, _Entry] = {}
        self._objects: dict[tuple[str, str], Any] = {}

    def forget_shown(self) -> None:
        """Forget what nodes with pictures or texts to show gave, so that they save again; loaded models and latents stay."""
        self._cache = {signature: entry for signature, entry in self._cache.items() if not entry.ui}

    def run(
        self,
        graph: Graph | Mapping[str, Any],
        outputs: Iterable[str] | None = None,
        seed: int | None = None,
        on_node: Callable[[NodeEvent], None] | None = None,
    ) -> RunResult:
        """Check `graph`, then run what `outputs` need (by default every output node).

        `seed` replaces every seed widget. `on_node` hears of each node before it runs. Raises
        :class:`~rapiddraw.core.errors.InvalidGraphError` before anything ran, :class:`~rapiddraw.core.errors.NodeError` naming the node
        that failed, or :class:`~rapiddraw.core.errors.Cancelled` as soon as a stop was asked for.
        """
        graph = graph if isinstance(graph, Graph) else read_graph(graph)
        if seed is not None:
            graph = with_seed(graph, self.registry, seed)
        api = graph.to_api(self.registry)
        targets = [str(output) for output in outputs] if outputs is not None else output_nodes(api, self.registry)
        check(api, self.registry, targets if outputs is not None else None)
        run = _Run(self, api, targets, {"workflow": graph.ui} if graph.ui else None, on_node)
        try:
            with _inference_mode():
                for target in targets:
                    run.evaluate(target)
                    run.result.values[target] = run.done[target].values
        finally:  # what finished before a failure or a stop need not run again; what this graph does not have is let go
            entries = self._cache | {run.signatures[node_id]: entry for node_id, entry in run.done.items()}
            self._cache = {signature: entries[signature] for signature in run.signatures.values() if signature in entries}
            self._objects = {key: value for key, value in self._objects.items() if key[0] in api}
        return run.result


class _Run:
    """One run over the nodes that `targets` need."""

    def __init__(
        self,
        runner: Runner,
        api: dict[str, Any],
        targets: list[str],
        pnginfo: dict[str, Any] | None,
        on_node: Callable[[NodeEvent], None] | None,
    ) -> None:
        self.runner, self.api, self.pnginfo, self.on_node = runner, api, pnginfo, on_node
        self.result = RunResult()
        needed = reachable(api, targets)
        self.done: dict[str, _Entry] = {}
        self.demanded: dict[str, set[str]] = {}
        self.specs_of = SpecsOf(runner.registry)
        self.classes = {node_id: runner.registry[node["class_type"]] for node_id, node in api.items() if node_id in needed}
        self.signatures = _signatures(api, self.classes, self.specs_of)

    def evaluate(self, target: str) -> None:
        """Run `target` and whatever it needs, depth first without recursion."""
        stack = [target]
        while stack:
            raise_if_cancelled()
            node_id = stack[-1]
            if node_id in self.done or self._from_cache(node_id):
                stack.pop()
                continue
            missing = [source for source in self._needs(node_id) if source not in self.done]
            if missing:
                stack += reversed(missing)
            elif self._execute(node_id):
                stack.pop()

    def _from_cache(self, node_id: str) -> bool:
        entry = self.runner._cache.get(self.signatures[node_id])
        if entry is not None:
            self._keep(node_id, entry)
            self.result.cached.append(node_id)
        return entry is not None

    def _keep(self, node_id: str, entry: _Entry) -> None:
        self.done[node_id] = entry
        if entry.ui:
            self.result.outputs[node_id] = entry.ui

    def _needs(self, node_id: str) -> list[str]:
        """The nodes behind every input that is not lazy, or that `check_lazy_status` has asked for."""
        return [self.api[node_id]["inputs"][name][0] for name in self._strong(node_id)]

    def _strong(self, node_id: str) -> list[str]:
        specs = self.specs_of[self.api[node_id]["class_type"]]
        asked = self.demanded.get(node_id, set())
        return [name for name in links_of(self.api[node_id]) if name in specs and (name in asked or not specs[name].options.get("lazy"))]

    def _execute(self, node_id: str) -> bool:
        """Run one node whose inputs are there. False where it first asked for a lazy input."""
        node, node_class = self.api[node_id], self.classes[node_id]
        started = time.perf_counter()
        try:
            inputs, lazy = self._gather(node_id)
            instance = self._object(node_id, node_class)
            if lazy and hasattr(instance, "check_lazy_status"):
                answers = _call_over_list(instance, "check_lazy_status", inputs, node_class)
                asked = {name for answer in answers if answer for name in answer if name in lazy}
                if asked:
                    self.demanded.setdefault(node_id, set()).update(asked)
                    return False
            if self.on_node:
                self.on_node(NodeEvent(node_id, node["class_type"], describe(node_id, node), len(self.done)))
            log.debug("running %s", describe(node_id, node))
            entry = _entry(_call_over_list(instance, node_class.FUNCTION, inputs, node_class), node_class)  # type: ignore[attr-defined]
        except (Cancelled, NodeError):
            raise
        except Exception as error:
            reason = f": {error}" if isinstance(error, RapidDrawError) else f" failed with {type(error).__name__}: {error}"
            raise NodeError(describe(node_id, node) + reason, node_id, node["class_type"]) from error
        self.result.seconds[node_id] = self.result.seconds.get(node_id, 0.0) + time.perf_counter() - started
        self._keep(node_id, entry)
        return True

    def _gather(self, node_id: str) -> tuple[dict[str, list[Any]], set[str]]:
        """The inputs of a node as lists, and the names of those lazy ones that are not evaluated (they are `[None]`)."""
        node, node_class = self.api[node_id], self.classes[node_id]
        specs, strong = self.specs_of[node["class_type"]], set(self._strong(node_id))
        inputs: dict[str, list[Any]] = {}
        lazy: set[str] = set()
        for name, value in node["inputs"].items():
            if name not in specs:
                continue
            if is_link(value) and not specs[name].options.get("rawLink"):
                if name in strong:
                    inputs[name] = _linked(self.done[value[0]], value, name, specs[name])
                else:
                    inputs[name] = [None]
                    lazy.add(name)
            else:
                inputs[name] = [value if is_link(value) else coerce(value, specs[name])]
        told = {"PROMPT": self.api, "EXTRA_PNGINFO": self.pnginfo, "UNIQUE_ID": node_id}
        for name, kind in hidden_inputs(node_class).items():
            inputs[name] = [told.get(kind)]
        return inputs, lazy

    def _object(self, node_id: str, node_class: type) -> Any:
        key = (node_id, self.api[node_id]["class_type"])
        if key not in self.runner._objects:
            self.runner._objects[key] = node_class()
        return self.runner._objects[key]


def _linked(entry: _Entry, link: list[Any], name: str, spec: InputSpec) -> list[Any]:
    values = entry.values[link[1]] if link[1] < len(entry.values) else None
    if values is None:
        raise RapidDrawError(f"input '{name}': node {link[0]} gave no output {link[1]}")
    if not values:
        raise RapidDrawError(f"input '{name}' got an empty list of {spec.type} from node {link[0]}, so there is nothing to work on")
    return values


def _call_over_list(instance: Any, function: str, inputs: Mapping[str, list[Any]], node_class: type) -> list[Any]:
    """Call the node once, or once an entry of its longest list; shorter lists repeat their last entry."""
    method = getattr(instance, function)

    def call(arguments: Mapping[str, Any]) -> Any:
        raise_if_cancelled()
        result = method(**arguments)
        return asyncio.run(result) if inspect.iscoroutine(result) else result

    if getattr(node_class, "INPUT_IS_LIST", False):
        return [call(inputs)]
    longest = max((len(values) for values in inputs.values()), default=1)
    return [call({name: values[min(index, len(values) - 1)] for name, values in inputs.items()}) for index in range(longest)]


def _entry(returned: list[Any], node_class: type) -> _Entry:
    """Merge what the calls returned: tuples of outputs, or `{"ui": ..., "result": ...}`."""
    results: list[tuple[Any, ...]] = []
    ui: dict[str, list[Any]] = {}
    for value in returned:
        if isinstance(value, dict):
            if "expand" in value:
                raise RapidDrawError("it unfolds into other nodes while it runs, which the headless runner cannot do")
            for key, shown in (value.get("ui") or {}).items():
                ui.setdefault(key, []).extend(shown)
            value = value.get("result")
        if value is None:
            continue
        if not isinstance(value, tuple | list):
            raise RapidDrawError(f"it returned a {type(value).__name__}, but a node returns a tuple with one entry an output")
        results.append(tuple(value))
    if not results:
        return _Entry([], ui)
    flags = list(getattr(node_class, "OUTPUT_IS_LIST", ()))
    slots: list[list[Any]] = []
    for slot in range(min(len(result) for result in results)):
        one_each = [result[slot] for result in results]
        slots.append([item for part in one_each for item in part] if slot < len(flags) and flags[slot] else one_each)
    return _Entry(slots, ui)


def _signatures(api: Mapping[str, Any], classes: Mapping[str, type], specs_of: SpecsOf) -> dict[str, str]:
    """For each node in `classes` (free of cycles), a hash of all that decides what it gives: see :func:`_signature`."""
    found: dict[str, str] = {}
    for start in classes:
        stack = [start]
        while stack:
            node_id = stack[-1]
            if node_id in found:
                stack.pop()
                continue
            links = links_of(api[node_id])
            waiting = [source for source, _ in links.values() if source not in found]
            if waiting:
                stack += waiting
                continue
            stack.pop()
            upstream = {name: (found[source], slot) for name, (source, slot) in links.items()}
            changed = _is_changed(api[node_id], classes[node_id], specs_of[api[node_id]["class_type"]])
            found[node_id] = _signature(node_id, api[node_id], classes[node_id], changed, upstream)
    return found


def _signature(node_id: str, node: Mapping[str, Any], node_class: type, changed: Any, links: Mapping[str, tuple[str, int]]) -> str:
    """A hash of a node's class, constants and `IS_CHANGED` value, and through `links` of the same of everything upstream."""
    constants = {name: value for name, value in node["inputs"].items() if name not in links}
    own = getattr(node_class, "NOT_IDEMPOTENT", False) or "UNIQUE_ID" in hidden_inputs(node_class).values()
    parts = [node["class_type"], node_id if own else "", changed, constants, links]
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=repr).encode()).hexdigest()


def _is_changed(node: Mapping[str, Any], node_class: type, specs: Mapping[str, InputSpec]) -> Any:
    """The node's `IS_CHANGED` value, called with constants only. A failure, or NaN, means: always run again."""
    if not hasattr(node_class, "IS_CHANGED"):
        return None
    try:
        declared = {name: value for name, value in node["inputs"].items() if name in specs}
        constants = {name: None if is_link(value) else coerce(value, specs[name]) for name, value in declared.items()}
        value = node_class.IS_CHANGED(**constants)
    except Exception as error:
        log.warning("IS_CHANGED of %s failed (%s: %s); the node will run each time", node["class_type"], type(error).__name__, error)
        value = float("nan")
    return uuid.uuid4().hex if isinstance(value, float) and math.isnan(value) else repr(value)


def _inference_mode() -> contextlib.AbstractContextManager[Any]:
    import torch

    return torch.inference_mode()
