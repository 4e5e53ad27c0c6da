"""Graph files: ComfyUI's UI format, its API format, and PNG pictures that carry either.

UI format is what the editor saves (nodes with positions, links by number). API format is what a server is sent (one entry a node
id, inputs by name). A PNG saved by ComfyUI carries both as text chunks, `workflow` and `prompt`.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import GraphError
from ..files import replacing
from ..language import is_text
from .convert import to_api
from .inputs import Registry, nearest
from .layout import to_ui
from .png_text import SIGNATURE, DamagedPictureError, TextTooLargeError, read_text_chunks
from .shipped import graph_path, shipped_graphs

__all__ = ["Graph", "as_api", "read_graph", "to_api", "to_ui", "write_graph"]

log = logging.getLogger("rapiddraw")
MAX_GRAPH_BYTES = 64 * 2**20
MAX_PNG_BYTES = 512 * 2**20


@dataclass(frozen=True)
class Graph:
    """A graph as it was read. At least one of `ui` and `api` is set; `source` names it in messages."""

    ui: dict[str, Any] | None = None
    api: dict[str, Any] | None = None
    source: str = "graph"

    def to_api(self, registry: Registry) -> dict[str, Any]:
        """Return the API form: the stored one where there is one, else converted from the UI form."""
        if self.api is not None:
            return self.api
        return to_api(self.ui or {}, registry)

    def to_ui(self, registry: Registry) -> dict[str, Any]:
        """Return the UI form: the stored one where there is one, else laid out from the API form."""
        if self.ui is not None:
            return self.ui
        return to_ui(self.api or {}, registry)


def read_graph(source: str | os.PathLike[str] | Mapping[str, Any]) -> Graph:
    """Read a graph from a `.json` or `.png` file, from an already parsed object, or by the name of a graph that comes with the pack.

    Raises :class:`GraphError` naming the file and what is wrong with it: missing, too large, not JSON, or JSON that is no graph.
    """
    if isinstance(source, Mapping):
        return _recognise(dict(source), "graph")
    path = graph_path(source)
    if not path.is_file():
        near = nearest(path.name.removesuffix(".json"), shipped_graphs())
        hint = f"Did you mean the shipped graph {near}?" if near else "Shipped graphs, such as text_to_image, have names"
        raise GraphError(f"no such graph file: {path}. Give a .json saved by ComfyUI (either format) or a .png that it saved. {hint}")
    with path.open("rb") as file:
        start = file.read(8)
    if start == SIGNATURE:
        return _read_png(path)
    size = path.stat().st_size
    if size > MAX_GRAPH_BYTES:
        raise GraphError(f"{path.name} is {size} bytes long; a graph file may have {MAX_GRAPH_BYTES}")
    try:
        return _recognise(_parse(path.read_text(encoding="utf-8-sig"), path.name), path.name)
    except UnicodeDecodeError as error:
        raise GraphError(f"{path.name} is neither a PNG nor text in UTF-8, so it cannot be a graph ({error.reason})") from error


def as_api(graph: Graph | Mapping[str, Any], registry: Registry) -> dict[str, Any]:
    """Return the API form of anything that may be called a graph: a :class:`Graph`, or a parsed object of either format."""
    return (graph if isinstance(graph, Graph) else read_graph(graph)).to_api(registry)


def write_graph(path: str | os.PathLike[str], graph: Mapping[str, Any]) -> Path:
    """Write a graph of either format as JSON, whole or not at all."""
    path = Path(path)
    with replacing(path) as temporary:
        temporary.write_text(graph_text(graph), encoding="utf-8")
    return path


def graph_text(graph: Mapping[str, Any]) -> str:
    """Return the text that :func:`write_graph` writes."""
    text = json.dumps(graph, ensure_ascii=False, indent=2)
    if not is_text(text):  # it holds a lone surrogate, which no file in UTF-8 can hold
        text = json.dumps(graph, indent=2)
    return text + "\n"


def _read_png(path: Path) -> Graph:
    """The graph that a picture carries. Where one of its two texts cannot be used, the other one is, with a warning."""
    size = path.stat().st_size
    if size > MAX_PNG_BYTES:
        raise GraphError(f"{path.name} is {size} bytes long; a picture that carries a graph may have {MAX_PNG_BYTES}")
    try:
        texts = read_text_chunks(path, ("workflow", "prompt"), MAX_GRAPH_BYTES)
    except TextTooLargeError as error:
        raise GraphError(f"{path.name} carries {error}; a graph in a picture may have {MAX_GRAPH_BYTES} bytes") from error
    except (DamagedPictureError, OSError) as error:
        raise GraphError(f"{path.name} cannot be read as a PNG picture ({error})") from error
    found: dict[str, Graph] = {}
    failed: dict[str, GraphError] = {}
    for key in ("workflow", "prompt"):
        if texts.get(key):
            try:
                found[key] = _recognise(_parse(texts[key], f"{path.name} ({key})"), f"{path.name} ({key})")
            except GraphError as error:
                failed[key] = error
    if not found:
        raise (
            next(iter(failed.values()))
            if failed
            else GraphError(
                f"{path.name} carries no graph: it has no whole 'workflow' and no whole 'prompt' text. Pictures keep them unless another "
                "program saved them again, the file is cut short, or ComfyUI ran with --disable-metadata"
            )
        )
    for key, reason in failed.items():
        log.warning("%s; its other graph (%s) is used instead of '%s'", reason, ", ".join(found), key)
    ui = next((graph.ui for graph in found.values() if graph.ui is not None), None)
    api = next((graph.api for graph in found.values() if graph.api is not None), None)
    return Graph(ui, api, path.name)


def _parse(text: str, name: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise GraphError(f"{name} is not valid JSON ({error})") from error


def _recognise(data: Any, name: str) -> Graph:
    """Tell the two formats apart by their shape."""
    if not isinstance(data, dict):
        raise GraphError(f"{name} holds a JSON {type(data).__name__}, but a graph is an object")
    if isinstance(data.get("prompt"), dict) and "nodes" not in data and "class_type" not in data["prompt"]:
        data = data["prompt"]  # a body for POST /prompt
    if isinstance(data.get("nodes"), list):
        return Graph(ui=_checked_ui(data, name), source=name)
    if data and all(isinstance(node, dict) and ("class_type" in node or "inputs" in node) for node in data.values()):
        return Graph(api=_checked_api(data, name), source=name)
    if not data:
        raise GraphError(f"{name} is an empty graph: it has no nodes")
    raise GraphError(
        f"{name} is not a graph: UI format has a list 'nodes', API format has one {{'class_type', 'inputs'}} object a node id; "
        f"this has the keys {', '.join(repr(key) for key in list(data)[:6])}"
    )


def _checked_ui(data: dict[str, Any], name: str) -> dict[str, Any]:
    for position, node in enumerate(data["nodes"]):
        if not isinstance(node, dict) or "id" not in node or not isinstance(node.get("type"), str):
            raise GraphError(f"{name}: entry {position} of 'nodes' is not a node (it needs an 'id' and a 'type')")
    if not isinstance(data.get("links") or [], list | dict):
        raise GraphError(f"{name}: 'links' is not a list")
    return data


def _checked_api(data: dict[str, Any], name: str) -> dict[str, Any]:
    checked = {}
    for node_id, node in data.items():
        if not isinstance(node.get("inputs", {}), dict):
            raise GraphError(f"{name}: 'inputs' of node {node_id} is not an object")
        if not isinstance(node.get("class_type", ""), str):
            raise GraphError(f"{name}: 'class_type' of node {node_id} is not a text")
        checked[str(node_id)] = {**node, "inputs": node.get("inputs", {})}
    return checked
