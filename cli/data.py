"""`data`: write the Orchard as an image folder, or check a folder of images and captions."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from .common import note, say

EXAMPLE = """examples:
  python -m rapiddraw data orchard --split train --count 5000 --size 128 --out data/orchard
  python -m rapiddraw data check my-pictures

A folder of your own needs captions.jsonl, one object a line such as {"file_name": "a.jpg", "text": "a beach"}, or beside each a.jpg a
text file a.txt with one caption a line."""


def add_parser(subparsers: Any) -> None:
    parser = subparsers.add_parser(
        "data", help="make or check a dataset folder", description="Make or check a dataset folder.",
        epilog=EXAMPLE, formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    orchard = actions.add_parser(
        "orchard", help="draw the demonstration world", description="Draw a split of the Orchard: pictures, captions, exact maps.",
        epilog="example: python -m rapiddraw data orchard --split train --count 5000 --size 128 --out data/orchard",
    )  # fmt: skip
    orchard.add_argument("--split", default="train", help="train, validation, test or judge (default %(default)s)")
    orchard.add_argument("--count", type=int, default=5000, help="how many pictures (default %(default)s)")
    orchard.add_argument("--size", type=int, default=128, help="their side in pixels, 64 to 512 (default %(default)s)")
    orchard.add_argument("--out", type=Path, required=True, help="the folder to write")
    orchard.add_argument("--seed", type=int, default=0, help="another seed draws other pictures of the same split (default %(default)s)")
    orchard.add_argument("--maps", default="all", help="all, none, or some of segmentation,edges,sketch,depth (default %(default)s)")
    check = actions.add_parser(
        "check", help="check a folder of images and captions", description="Read a whole folder and name everything that is wrong.",
        epilog="example: python -m rapiddraw data check my-pictures",
    )  # fmt: skip
    check.add_argument("folder", type=Path)
    check.add_argument("--no-captions", action="store_true", help="images without captions are fine")


def run(args: argparse.Namespace) -> int:
    return _orchard(args) if args.action == "orchard" else _check(args)


def _orchard(args: argparse.Namespace) -> int:
    from ..core.data.orchard.dataset import MAP_KINDS, write_dataset

    chosen = {"all": MAP_KINDS, "none": ()}.get(args.maps) if args.maps in ("all", "none") else tuple(args.maps.split(","))
    say(str(write_dataset(args.split, args.count, args.size, args.out, seed=args.seed, maps=tuple(chosen or ()))))
    return 0


def _check(args: argparse.Namespace) -> int:
    from ..core.data.folder import check_folder

    good, problems = check_folder(args.folder, captions=not args.no_captions)
    for problem in problems:
        note(problem)
    say(f"{args.folder}: {good} good images, {len(problems)} problems")
    return 2 if problems else 0
