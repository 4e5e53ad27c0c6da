"""Command `run`: the pictures of a saved graph, drawn without ComfyUI."""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..nodes.registry import registry
from .common import note, say, say_json

if TYPE_CHECKING:
    from ..api.engines import Engine

EXAMPLE = """examples:
  python -m rapiddraw run text_to_image --output out      (a graph that comes with the pack, by its name)
  python -m rapiddraw run graph.json --set KSampler.steps=20 --set "Positive prompt.text=a red pear" --seed 7
  python -m rapiddraw run out/picture_00001_.png --json      (a picture carries the graph that made it)

exit codes: 0 done, 1 a node failed, 2 the graph or a --set is invalid, 130 stopped with Ctrl-C (at the next step; nothing half written)"""


def add_parser(subparsers: Any) -> None:
    parser = subparsers.add_parser(
        "run", help="run a saved graph and save its pictures", description="Run a saved graph without ComfyUI.",
        epilog=EXAMPLE, formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("graph", help="a .json in ComfyUI's UI or API format, a .png that carries one, or the name of a shipped graph")
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
    from ..api.engines import EmbeddedEngine, changed, shown_by
    from ..core.errors import GraphError, InputError, InvalidGraphError, NodeError, WriteError
    from ..core.graph.execute import NodeEvent
    from ..core.graph.formats import read_graph
    from ..core.paths import set_dirs

    started = time.perf_counter()
    set_dirs(input=args.input, output=args.output, temp=Path(args.output) / "temp" if args.output else None)
    engine: Engine = EmbeddedEngine(registry())
    try:
        graph = changed(read_graph(args.graph), engine.registry, args.assignments, args.seed)
        engine.check(graph)
    except (GraphError, InputError) as error:
        reasons = error.problems if isinstance(error, InvalidGraphError) else [error]
        return _refuse(args, "invalid graph", [str(reason) for reason in reasons], 2)
    except WriteError as error:
        return _refuse(args, "failed", [str(error)], 1)

    def tell(event: NodeEvent) -> None:
        note(f"  {event.name}")

    try:
        result = engine.run(graph, tell)
    except NodeError as error:
        cause = error.__cause__
        if args.verbose and cause is not None:
            import traceback

            note("".join(traceback.format_exception(cause)).rstrip())
        return _refuse(args, "failed", [str(error)], 1)
    seconds = time.perf_counter() - started
    outputs = shown_by(result, graph, engine)
    if args.json:
        say_json({"graph": args.graph, "outputs": outputs, "seconds": result.seconds, "total_seconds": seconds})
    else:
        for shown in outputs.values():
            for line in (*shown.get("images", []), *shown.get("text", [])):
                say(str(line))
        slowest = sorted(result.seconds.items(), key=lambda item: -item[1])[:3]
        api = graph.to_api(engine.registry)
        parts = ", ".join(f"{api[node_id]['class_type']} {taken:.1f} s" for node_id, taken in slowest)
        note(f"{seconds:.1f} s in all ({parts})")
    return 0


def _refuse(args: argparse.Namespace, what: str, reasons: list[str], code: int) -> int:
    if args.json:
        say_json({"graph": args.graph, "error": what, "reasons": reasons})
    for reason in reasons:
        note(f"{what}: {reason}")
    return code
