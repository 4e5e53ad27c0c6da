"""Command `validate`: what is wrong with saved graphs, one line for each problem."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from typing import Any

from ..nodes.registry import registry
from .common import note, say, say_json

EXAMPLE = """example:
  python -m rapiddraw validate workflows/*.json workflows/api/*.json

exit codes: 0 every graph can run, 2 one of them cannot"""


def add_parser(subparsers: Any) -> None:
    parser = subparsers.add_parser(
        "validate", help="list what is wrong with saved graphs", description="Check graphs without running them.",
        epilog=EXAMPLE, formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument(
        "graphs",
        nargs="+",
        metavar="graph",
        help="a .json in ComfyUI's UI or API format, a .png that carries one, or the name of a shipped graph",
    )
    parser.add_argument("--json", action="store_true", help="write every problem as JSON to stdout")


def run(args: argparse.Namespace) -> int:
    from ..core.errors import GraphError
    from ..core.graph.formats import read_graph
    from ..core.graph.validate import Problem, passed_over, validate

    nodes = registry()
    found: dict[str, list[Problem]] = {}
    for name in args.graphs:
        try:
            api = read_graph(name).to_api(nodes)
            found[name] = validate(api, nodes)
            for problem in passed_over(api, nodes):
                note(f"{name}: warning: {problem}. No output needs it")
        except GraphError as error:
            found[name] = [Problem("invalid_prompt", str(error))]
    if args.json:
        say_json({name: [asdict(problem) for problem in problems] for name, problems in found.items()})
    else:
        for name, problems in found.items():
            for problem in problems:
                say(f"{name}: {problem.type}: {problem}")
            if not problems:
                say(f"{name}: ok")
    return 2 if any(found.values()) else 0
