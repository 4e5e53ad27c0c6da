"""Command `run`: the pictures of a saved graph, drawn without ComfyUI, or in a ComfyUI that has no server."""

from __future__ import annotations

import argparse
import contextlib
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..nodes.registry import registry
from .common import note, say, say_json

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ..api.engines import Engine
    from ..core.graph.execute import NodeEvent, RunResult

EXAMPLE = """examples:
  python -m rapiddraw run text_to_image --output out      (a graph that comes with the pack, by its name)
  python -m rapiddraw run graph.json --set KSampler.steps=20 --set "Positive prompt.text=a red pear" --seed 7
  python -m rapiddraw run out/picture_00001_.png --json      (a picture carries the graph that made it)
  COMFYUI_PATH=~/ComfyUI python -m rapiddraw run graph.json --host comfy      (any graph that this ComfyUI can run; no server, no port)

`accelerate launch --num_processes 2 -m rapiddraw run graph.json` shares the Picard sampler's window among the processes, one a device; the
first process saves.

--host comfy reads COMFYUI_PATH (the folder of a ComfyUI), COMFYUI_PYTHON (the Python that runs it; default: that of a venv in its folder,
else this one) and COMFYUI_ARGS (more of ComfyUI's own arguments, such as "--lowvram --base-directory DIR").

exit codes: 0 done, 1 a node failed, 2 the graph or a --set is invalid, 130 stopped with Ctrl-C (at the next step; nothing half written)"""


def add_parser(subparsers: Any) -> None:
    parser = subparsers.add_parser(
        "run", help="run a saved graph and save its pictures", description="Run a saved graph without ComfyUI.",
        epilog=EXAMPLE, formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("graph", help="a .json in ComfyUI's UI or API format, a .png that carries one, or the name of a shipped graph")
    parser.add_argument(
        "--set", dest="assignments", action="append", default=[], metavar="NODE.INPUT=VALUE",
        help="change a value; NODE is an id, a class, a title, or 'Subgraph title/Node title'; may be given several times",
    )  # fmt: skip
    parser.add_argument("--seed", type=int, help="use this number for every seed of the graph")
    parser.add_argument("--output", metavar="DIR", help="folder for the pictures (default: ./out)")
    parser.add_argument(
        "--input", metavar="DIR", help="folder that LoadImage reads (default: ./input; with --host comfy, that ComfyUI's input folder)"
    )
    parser.add_argument(
        "--host", choices=("embedded", "comfy"), default="embedded",
        help="embedded: without ComfyUI (default); comfy: in the ComfyUI at COMFYUI_PATH, in this process, with every node it has",
    )  # fmt: skip
    parser.add_argument(
        "--json", action="store_true", help="write the outputs and the seconds of each node as JSON to stdout, and nothing else"
    )


def run(args: argparse.Namespace) -> int:
    started = time.perf_counter()
    try:
        if args.host == "comfy":
            from .comfy import ProgressLine, move_to_comfy_python, stdout_kept

            with _usage_checked():
                moved = move_to_comfy_python(args.arguments)
            if moved is not None:
                return moved
            with stdout_kept(), contextlib.closing(ProgressLine()) as line:
                result, shown, api = _draw(args, _comfy_engine(args), line)
        else:
            result, shown, api = _draw(args, _embedded_engine(args), lambda event: note(f"  {event.name}"))
    except _Refused as refused:
        if args.json:
            say_json({"graph": args.graph, "error": refused.what, "reasons": refused.reasons})
        for reason in refused.reasons:
            note(f"{refused.what}: {reason}")
        if refused.hint:
            note(refused.hint)
        return refused.code
    seconds = time.perf_counter() - started
    if args.json:
        say_json({"graph": args.graph, "outputs": shown, "seconds": result.seconds, "total_seconds": seconds})
    else:
        for entry in shown.values():
            for line_of_text in (*entry.get("images", []), *entry.get("text", [])):
                say(str(line_of_text))
        slowest = sorted(result.seconds.items(), key=lambda item: -item[1])[:3]
        parts = ", ".join(f"{api[node_id]['class_type'] if node_id in api else node_id} {taken:.1f} s" for node_id, taken in slowest)
        note(f"{seconds:.1f} s in all ({parts})")
    return 0


class _Refused(Exception):
    """A run that ends before it gives pictures: what to say, and the exit code."""

    def __init__(self, what: str, reasons: list[str], code: int, hint: str = "") -> None:
        super().__init__(what)
        self.what, self.reasons, self.code, self.hint = what, reasons, code, hint


def _embedded_engine(args: argparse.Namespace) -> Engine:
    from ..api.engines import EmbeddedEngine
    from ..core.paths import set_dirs

    output = args.output
    if os.environ.get("WORLD_SIZE", "1") != "1":
        from .together import join_run

        output = join_run(output)
    set_dirs(input=args.input, output=output, temp=Path(output) / "temp" if output else None)
    return EmbeddedEngine(registry())


def _comfy_engine(args: argparse.Namespace) -> Engine:
    from .comfy import comfy_engine

    with _usage_checked():
        return comfy_engine(args.input, args.output, args.verbose)


@contextlib.contextmanager
def _usage_checked() -> Iterator[None]:
    """Turn a wrong environment variable into a refusal."""
    from ..core.errors import InputError

    try:
        yield
    except InputError as error:
        raise _Refused("wrong usage", [str(error)], 2) from error


def _draw(
    args: argparse.Namespace, engine: Engine, tell: Callable[[NodeEvent], None]
) -> tuple[RunResult, dict[str, dict[str, Any]], dict[str, Any]]:
    """The result of a run, what its nodes showed, and the graph in API format. Raises :class:`_Refused` where a user has to act."""
    from ..api.engines import changed, shown_by
    from ..core.errors import GraphError, InputError, InvalidGraphError, NodeError, WriteError
    from ..core.graph.formats import read_graph

    try:
        graph = changed(read_graph(args.graph), engine.registry, args.assignments, args.seed)
        engine.check(graph)
    except (GraphError, InputError) as error:
        reasons = error.problems if isinstance(error, InvalidGraphError) else [error]
        is_unknown = args.host == "embedded" and any(getattr(reason, "type", "") == "missing_node_type" for reason in reasons)
        hint = "nodes of ComfyUI or of other packs: set COMFYUI_PATH and add --host comfy, which runs every node of that ComfyUI"
        raise _Refused("invalid graph", [str(reason) for reason in reasons], 2, hint if is_unknown else "") from error
    except WriteError as error:
        raise _Refused("failed", [str(error)], 1) from error
    try:
        result = engine.run(graph, tell)
    except NodeError as error:
        if args.verbose and error.__cause__ is not None:
            import traceback

            note("".join(traceback.format_exception(error.__cause__)).rstrip())
        raise _Refused("failed", [str(error)], 1) from error
    return result, shown_by(result, graph, engine), graph.to_api(engine.registry)
