"""Command `run`: the pictures of a saved graph, drawn without ComfyUI."""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..nodes.registry import registry
from .common import note, say, say_json

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ..core.graph.execute import RunResult
    from ..core.graph.formats import Graph
    from ..core.graph.inputs import Registry

EXAMPLE = """examples:
  python -m rapiddraw run workflows/api/text_to_image.json --output out
  python -m rapiddraw run graph.json --set KSampler.steps=20 --set "Positive prompt.text=a red pear" --seed 7
  python -m rapiddraw run out/picture_00001_.png --json      (a picture carries the graph that made it)

exit codes: 0 done, 1 a node failed, 2 the graph or a --set is invalid, 130 stopped with Ctrl-C (at the next step; nothing half written)"""


def add_parser(subparsers: Any) -> None:
    parser = subparsers.add_parser(
        "run", help="run a saved graph and save its pictures", description="Run a saved graph without ComfyUI.",
        epilog=EXAMPLE, formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("graph", help="a .json in ComfyUI's UI or API format, or a .png that carries one")
    parser.add_argument(
        "--set", dest="assignments", action="append", default=[], metavar="NODE.INPUT=VALUE",
        help="change a value; NODE is an id, a class or a title; may be given several times",
    )  # fmt: skip
    parser.add_argument("--seed", type=int, help="use this number for every seed of the graph")
    parser.add_argument("--output", metavar="DIR", help="folder for the pictures (default: ./out)")
    parser.add_argument("--input", metavar="DIR", help="folder that LoadImage reads (default: ./input)")
    parser.add_argument(
        "--json", action="store_true", help="write the outputs and the seconds of each node as JSON to stdout, and nothing else"
    )


def run(args: argparse.Namespace) -> int:
    from ..core.errors import GraphError, InputError, InvalidGraphError, NodeError, WriteError
    from ..core.graph.edit import apply_changes, parse_assignment, with_seed
    from ..core.graph.execute import NodeEvent, Runner
    from ..core.graph.formats import read_graph
    from ..core.graph.validate import check
    from ..core.paths import set_dirs

    started = time.perf_counter()
    set_dirs(input=args.input, output=args.output, temp=Path(args.output) / "temp" if args.output else None)
    nodes = registry()
    try:
        graph = read_graph(args.graph)
        changes = [parse_assignment(text, graph.to_api(nodes), nodes) for text in args.assignments]
        graph = apply_changes(graph, nodes, changes) if changes else graph
        graph = with_seed(graph, nodes, args.seed) if args.seed is not None else graph
        check(graph, nodes)
        _check_outputs(graph.to_api(nodes), nodes)
    except (GraphError, InputError) as error:
        reasons = error.problems if isinstance(error, InvalidGraphError) else [error]
        return _refuse(args, "invalid graph", [str(reason) for reason in reasons], 2)
    except WriteError as error:
        return _refuse(args, "failed", [str(error)], 1)

    def tell(event: NodeEvent) -> None:
        note(f"  {event.name}")

    try:
        result = Runner(nodes).run(graph, on_node=tell)
    except NodeError as error:
        cause = error.__cause__
        if args.verbose and cause is not None:
            import traceback

            note("".join(traceback.format_exception(cause)).rstrip())
        return _refuse(args, "failed", [str(error)], 1)
    seconds = time.perf_counter() - started
    outputs = _outputs(graph, result, nodes)
    if args.json:
        say_json({"graph": args.graph, "outputs": outputs, "seconds": result.seconds, "total_seconds": seconds})
    else:
        for shown in outputs.values():
            for line in (*shown.get("images", []), *shown.get("text", [])):
                say(str(line))
        slowest = sorted(result.seconds.items(), key=lambda item: -item[1])[:3]
        api = graph.to_api(nodes)
        parts = ", ".join(f"{api[node_id]['class_type']} {taken:.1f} s" for node_id, taken in slowest)
        note(f"{seconds:.1f} s in all ({parts})")
    return 0


def _check_outputs(api: Mapping[str, Any], nodes: Registry) -> None:
    """Raise :class:`WriteError` before anything runs where the pictures of this graph could not be saved."""
    from ..core.files import check_writable
    from ..core.graph.validate import output_nodes
    from ..core.paths import output_dir

    if any("filename_prefix" in api[node_id]["inputs"] for node_id in output_nodes(api, nodes)):
        check_writable(output_dir())


def _refuse(args: argparse.Namespace, what: str, reasons: list[str], code: int) -> int:
    if args.json:
        say_json({"graph": args.graph, "error": what, "reasons": reasons})
    for reason in reasons:
        note(f"{what}: {reason}")
    return code


def _outputs(graph: Graph, result: RunResult, nodes: Any) -> dict[str, dict[str, Any]]:
    """What each output node showed: pictures as paths, and any other `ui` entry as it is."""
    from ..core.graph.inputs import title_of
    from ..core.paths import input_dir, output_dir, temp_dir

    folders = {"output": output_dir(), "temp": temp_dir(), "input": input_dir()}
    api, shown = graph.to_api(nodes), {}
    for node_id, ui in result.outputs.items():
        entry: dict[str, Any] = {"class_type": api[node_id]["class_type"], "title": title_of(api[node_id]), **ui}
        if "images" in ui:
            entry["images"] = [str(folders[image["type"]] / image["subfolder"] / image["filename"]) for image in ui["images"]]
        shown[node_id] = entry
    return shown
