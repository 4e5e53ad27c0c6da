"""Node classes as `GET /object_info` describes them."""

from __future__ import annotations

import copy
import json
from collections.abc import Collection
from typing import Any

from ..core.graph.inputs import Registry


class ObjectInfo:
    """The descriptions of all node classes, made once; what each client has uploaded is filled in when it asks."""

    def __init__(self, registry: Registry) -> None:
        self._classes = {node_id: json.loads(json.dumps(_described(node_id, node), default=str)) for node_id, node in registry.items()}

    def all(self, uploaded: Collection[str]) -> dict[str, Any]:
        """Return every class; inputs with an upload button offer `uploaded` alone."""
        return {node_id: self.one(node_id, uploaded) for node_id in self._classes}

    def one(self, node_id: str, uploaded: Collection[str]) -> dict[str, Any] | None:
        """Return one class, or None where there is none of this name."""
        entry = self._classes.get(node_id)
        if entry is None or not _uploads(entry):
            return entry
        entry = copy.deepcopy(entry)
        for given in _uploads(entry):
            if isinstance(given[0], list):
                given[0] = sorted(uploaded)
            else:
                given[1]["options"] = sorted(uploaded)
        return entry


def _uploads(entry: dict[str, Any]) -> list[list[Any]]:
    """The inputs with an upload button."""
    groups = [entry["input"].get(part) or {} for part in ("required", "optional")]
    return [given for group in groups for given in group.values() if len(given) > 1 and (given[1] or {}).get("image_upload")]


def _described(node_id: str, node: Any) -> dict[str, Any]:
    inputs = node.INPUT_TYPES()
    kinds = list(getattr(node, "RETURN_TYPES", ()))
    entry = {
        "input": inputs,
        "input_order": {part: list(given) for part, given in inputs.items() if hasattr(given, "keys")},
        "output": kinds,
        "output_is_list": list(getattr(node, "OUTPUT_IS_LIST", None) or [False] * len(kinds)),
        "output_name": list(getattr(node, "RETURN_NAMES", None) or kinds),
        "name": node_id,
        "display_name": getattr(node, "DISPLAY_NAME", node_id),
        "description": getattr(node, "DESCRIPTION", ""),
        "python_module": "nodes",
        "category": getattr(node, "CATEGORY", "sd"),
        "output_node": bool(getattr(node, "OUTPUT_NODE", False)),
        "search_aliases": list(getattr(node, "SEARCH_ALIASES", ())),
    }
    if getattr(node, "OUTPUT_TOOLTIPS", ()):
        entry["output_tooltips"] = list(node.OUTPUT_TOOLTIPS)
    for key in ("DEPRECATED", "EXPERIMENTAL", "API_NODE"):
        if getattr(node, key, False):
            entry[key.lower()] = True
    return entry
