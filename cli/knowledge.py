"""Command `knowledge`: add facts to a knowledge graph without training, or show what a graph says of a thing."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from .common import note, say

EXAMPLE = """examples:
  python -m rapiddraw knowledge extend weights/orchard-kg.safetensors facts.txt --out weights/my-kg.safetensors
  python -m rapiddraw knowledge query weights/my-kg.safetensors blumo

facts.txt holds one fact a line, as name, relation, value:
  blumo, has_shape, star
  blumo, skin_colour, blue"""


def add_parser(subparsers: Any) -> None:
    parser = subparsers.add_parser(
        "knowledge", help="add facts to a knowledge graph, or ask it", description="Add facts to a knowledge graph, or ask it.",
        epilog=EXAMPLE, formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    extend = actions.add_parser(
        "extend", help="add new things and change facts, without training", description="Add facts to a graph; nothing is trained.",
        epilog=EXAMPLE, formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    extend.add_argument("graph", type=Path, help="a trained graph (a bundle of kind kg)")
    extend.add_argument("facts", type=Path, help="a UTF-8 text file of facts, one a line")
    extend.add_argument("--out", type=Path, help="the bundle to write; without it the report alone is shown")
    query = actions.add_parser(
        "query", help="show the facts and nearest neighbours of a thing", description="Show what a graph says of a thing.",
        epilog="example: python -m rapiddraw knowledge query weights/orchard-kg.safetensors mudo",
    )  # fmt: skip
    query.add_argument("graph", type=Path, help="a bundle of kind kg, or a .tsv or .jsonl file of triples")
    query.add_argument("entity", help="an id, a name, or the last part of an id")
    query.add_argument("--neighbours", type=int, default=5, help="how many of the nearest things to list, 0 to 100 (default %(default)s)")


def run(args: argparse.Namespace) -> int:
    return {"extend": _extend, "query": _query}[args.action](args)


def _extend(args: argparse.Namespace) -> int:
    from ..core.errors import InputError
    from ..core.knowledge.extend import extend_graph
    from ..core.knowledge.facts import MAX_TEXT
    from ..core.knowledge.graph import load_knowledge, save_knowledge

    try:
        with args.facts.open(encoding="utf-8-sig") as file:
            text = file.read(MAX_TEXT + 1)
    except UnicodeDecodeError as error:
        raise InputError(f"{args.facts.name} is not UTF-8 text ({error.reason}); save the file as UTF-8") from error
    extension = extend_graph(load_knowledge(args.graph), text)
    say(extension.report)
    if args.out:
        note(f"written: {save_knowledge(args.out, extension.graph)}")
    return 0


def _query(args: argparse.Namespace) -> int:
    from ..core.knowledge.choices import TRIPLE_SUFFIXES
    from ..core.knowledge.graph import load_knowledge
    from ..core.knowledge.query import describe_entity
    from ..core.knowledge.triples import load_triples

    read = load_triples if args.graph.suffix.lower() in TRIPLE_SUFFIXES else load_knowledge
    say(describe_entity(read(args.graph), args.entity, args.neighbours))
    return 0
