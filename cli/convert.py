"""Command `convert`: a graph from the editor's format to the API format, or back."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from ..nodes.registry import registry
from .common import say

EXAMPLE = """examples:
  python -m rapiddraw convert workflows/advanced_text_to_image.json --to api --out workflows/api/text_to_image.json
  python -m rapiddraw convert out/picture_00001_.png --to ui --out graph.json
  python -m rapiddraw convert my_graph.json --to ui --arrange --out my_graph.json"""


def add_parser(subparsers: Any) -> None:
    parser = subparsers.add_parser(
        "convert", help="write a graph in UI or API format", description="Write a graph in the editor's format (UI) or in the API format.",
        epilog=EXAMPLE, formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("graph", help="a .json in ComfyUI's UI or API format, a .png that carries one, or the name of a shipped graph")
    parser.add_argument("--to", choices=("ui", "api"), required=True, help="ui: for the editor; api: for POST /prompt and headless runs")
    parser.add_argument("--out", metavar="FILE", required=True, help="the .json to write")
    parser.add_argument("--arrange", action="store_true", help="with --to ui: place all nodes anew, in groups that fit a screen")


def run(args: argparse.Namespace) -> int:
    from ..core.errors import InputError
    from ..core.files import check_file_writable
    from ..core.graph.arrange import arrange
    from ..core.graph.formats import read_graph, write_graph

    check_file_writable(Path(args.out))
    if args.arrange and args.to != "ui":
        raise InputError("--arrange: a graph in API format has no places; use it with --to ui")
    graph, nodes = read_graph(args.graph), registry()
    made = graph.to_ui(nodes) if args.to == "ui" else graph.to_api(nodes)
    say(str(write_graph(args.out, arrange(made, nodes) if args.arrange else made)))
    return 0
