"""The promise that saved graphs keep working: ids never change, inputs and outputs are only ever appended. An input may take more types.

The editor stores a widget's value by its place and a link by the place of its output. What was released is recorded in
tests/data/node_schema.json; `python -m rapiddraw nodes --write-schema` records what was appended, and refuses anything else.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..core.files import replacing
from ..core.graph.inputs import input_specs

Schema = dict[str, dict[str, Any]]
_HOW = "append it at the end instead, with a default"


def schema_path() -> Path:
    """Return where the released schema is recorded."""
    from ..core.paths import pack_root

    return pack_root() / "tests" / "data" / "node_schema.json"


def current_schema(nodes: Mapping[str, Any]) -> Schema:
    """Return the inputs (name, type, "required" or "optional", the latter also where there is a default) and outputs (name, type), in
    order."""
    return {node_id: {"inputs": _inputs(node), "outputs": _outputs(node)} for node_id, node in sorted(nodes.items())}


def broken_promises(released: Schema, current: Schema) -> list[str]:
    """Return what would break a saved graph, a line each: what was released, what there is now, how to do it instead."""
    problems = []
    for node_id, was in released.items():
        now = current.get(node_id)
        if now is None:
            problems.append(f"{node_id} is gone: a released id never changes. Keep the class (DEPRECATED = True) beside the new one")
            continue
        for kind in ("inputs", "outputs"):
            problems += _compare(node_id, kind, was[kind], now[kind])
        for name, _, needed in now["inputs"][len(was["inputs"]) :]:
            if needed == "required":
                problems.append(f"{node_id}: the new input {name!r} is required and has no default, which older graphs cannot give")
    return problems


def write_schema(nodes: Mapping[str, Any]) -> list[str]:
    """Record what was appended. Returns the broken promises; nothing is written where there are any."""
    path, current = schema_path(), current_schema(nodes)
    problems = broken_promises(json.loads(path.read_text(encoding="utf-8")), current) if path.is_file() else []
    if not problems:
        rows = (f"  {json.dumps(node_id)}: {json.dumps(entry)}" for node_id, entry in current.items())
        with replacing(path) as temporary:
            temporary.write_text("{\n" + ",\n".join(rows) + "\n}\n", encoding="utf-8")
    return problems


def _compare(node_id: str, kind: str, was: list[Any], now: list[Any]) -> list[str]:
    names = [entry[0] for entry in now]
    for place, entry in enumerate(was):
        what = f"{node_id}: {kind[:-1]} {entry[0]!r}"
        if entry[0] not in names:
            return [f"{what} was removed or renamed; keep it, and where something new is needed {_HOW}"]
        if names.index(entry[0]) != place:
            return [f"{what} moved from place {place + 1} to {names.index(entry[0]) + 1}; where one was put before it, {_HOW}"]
        if now[place][1] != entry[1] and not (kind == "inputs" and set(entry[1].split(",")) <= set(now[place][1].split(","))):
            return [f"{what} changed from {entry[1]} to {now[place][1]}; keep it, and where another type is needed {_HOW}"]
        if entry[2:] == ["optional"] and now[place][2:] == ["required"]:
            return [f"{what} was optional and is required, which older graphs may not give; keep it optional or give it a default"]
    return []


def _inputs(node: Any) -> list[list[str]]:
    specs = input_specs(node).values()
    return [
        [spec.name, spec.type, "optional" if spec.category == "optional" or "default" in spec.options else "required"] for spec in specs
    ]


def _outputs(node: Any) -> list[list[str]]:
    kinds = getattr(node, "RETURN_TYPES", ())
    return [[name, kind] for name, kind in zip(getattr(node, "RETURN_NAMES", None) or kinds, kinds, strict=True)]
