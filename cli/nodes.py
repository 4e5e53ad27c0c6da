"""Command `nodes`: a list of the nodes with their inputs and outputs."""

from __future__ import annotations

import argparse
from typing import Any

from ..nodes.registry import registry
from .common import note, say, say_json

EXAMPLE = """examples:
  python -m rapiddraw nodes
  python -m rapiddraw nodes KSampler RapidDrawSamplerPNDM      (with every tooltip)
  python -m rapiddraw nodes --json
  python -m rapiddraw nodes --write-docs                       (after a text of a node has changed)
  python -m rapiddraw nodes --write-schema                     (after an input or output was appended)"""


def add_parser(subparsers: Any) -> None:
    parser = subparsers.add_parser(
        "nodes", help="list the nodes with their inputs and outputs", description="List the nodes that a headless run knows.",
        epilog=EXAMPLE, formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("names", nargs="*", metavar="NODE", help="show these only, with their tooltips (id, or a part of it)")
    parser.add_argument("--json", action="store_true", help="write the list as JSON to stdout")
    parser.add_argument("--write-docs", action="store_true", help="write locales/ and web/docs/ from the node classes")
    parser.add_argument("--write-schema", action="store_true", help="record appended inputs and outputs as released")


def run(args: argparse.Namespace) -> int:
    from ..core.graph.inputs import nearest
    from ..nodes import FAILED

    if args.write_docs or args.write_schema:
        return _write(args.write_docs, args.write_schema)
    nodes = registry()
    wanted = [name.lower() for name in args.names]
    chosen = {node_id: nodes[node_id] for node_id in sorted(nodes) if not wanted or any(part in node_id.lower() for part in wanted)}
    if not chosen:
        near = nearest(args.names[0], nodes)
        note(f"no node's id contains {args.names[0]!r}" + (f"; did you mean {near}?" if near else ""))
        return 1
    described = {node_id: describe_class(node_id, node_class) for node_id, node_class in chosen.items()}
    if args.json:
        say_json(described)
    else:
        for entry in described.values():
            _show(entry, tooltips=bool(wanted))
    for family, reason in FAILED.items():
        note(f"not available: the nodes of nodes/{family}.py ({reason})")
    return 0


def _write(docs: bool, schema: bool) -> int:
    from ..core.files import replacing
    from ..core.paths import pack_root
    from ..nodes import NODE_CLASS_MAPPINGS
    from .node_docs import files, read_translations, texts
    from .node_schema import write_schema

    problems = write_schema(NODE_CLASS_MAPPINGS) if schema else []
    if docs:
        translations = read_translations(pack_root())
        problems += [f"not translated: {text}" for text in texts(NODE_CLASS_MAPPINGS) if text not in translations]
        for name, text in files(NODE_CLASS_MAPPINGS, translations, pack_root()).items():
            with replacing(pack_root() / name) as temporary:
                temporary.write_text(text, encoding="utf-8")
    for problem in problems:
        note(problem)
    return 1 if problems else 0


def describe_class(node_id: str, node_class: Any) -> dict[str, Any]:
    """Return one node class as plain data."""
    from ..core.graph.inputs import input_specs

    kinds = getattr(node_class, "RETURN_TYPES", ())
    names = getattr(node_class, "RETURN_NAMES", None) or kinds
    lists = getattr(node_class, "OUTPUT_IS_LIST", None) or (False,) * len(kinds)
    inputs = []
    for spec in input_specs(node_class).values():
        entry = {"name": spec.name, "type": spec.type, "required": spec.category == "required", "widget": spec.is_widget, **spec.options}
        inputs.append({**entry, "choices": list(spec.choices)} if spec.choices is not None else entry)
    return {
        "id": node_id,
        "display_name": getattr(node_class, "DISPLAY_NAME", node_id),
        "category": getattr(node_class, "CATEGORY", ""),
        "description": getattr(node_class, "DESCRIPTION", ""),
        "output_node": bool(getattr(node_class, "OUTPUT_NODE", False)),
        "inputs": inputs,
        "outputs": [{"name": name, "type": kind, "list": flag} for name, kind, flag in zip(names, kinds, lists, strict=True)],
    }


def _show(entry: dict[str, Any], tooltips: bool) -> None:
    say(f"{entry['id']}  ({entry['display_name']}, {entry['category']})")
    if tooltips and entry["description"]:
        say(f"    {entry['description']}")
    for given in entry["inputs"]:
        limits = [f"{key} {given[key]}" for key in ("default", "min", "max") if key in given and str(given[key]) != ""]
        if "choices" in given:
            shown = ", ".join(map(str, given["choices"][:8])) + (", ..." if len(given["choices"]) > 8 else "")
            limits.append(f"one of {shown}")
        text = f"    in   {given['name']}: {given['type']}" + ("" if given["required"] else ", optional")
        say(text + (f" ({'; '.join(limits)})".replace("\n", " ") if limits else ""))
        if tooltips and given.get("tooltip"):
            say(f"           {given['tooltip']}")
    for output in entry["outputs"]:
        say(f"    out  {output['name']}: {output['type']}" + (" list" if output["list"] else ""))
    say()
