"""Command `data`: draw the Orchard as an image folder; check, describe, filter, caption or measure a folder of images and captions."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from . import data_evaluate, data_filter
from .common import note, say

EXAMPLE = """examples:
  python -m rapiddraw data orchard --split train --count 5000 --size 128 --out data/orchard
  python -m rapiddraw data check my-pictures
  python -m rapiddraw data filter my-pictures --out good --min-side 256 --max-aspect 2 --max-watermark 0.5
  python -m rapiddraw data filter my-pictures --out good --clip-vision clip_vision_l.safetensors --max-likeness 0.95
  python -m rapiddraw data card my-pictures --min-side 256
  python -m rapiddraw data caption my-pictures --out captioned --template "a photo of {object}" --subject "my cat"
  python -m rapiddraw data recaption data/orchard --out data/new --old matching --scorer weights/pretrained-orchard-text.safetensors
  python -m rapiddraw data evaluate drawn --against my-pictures --inception weights-inception-2015-12-05-6726825d.pth

A folder of your own needs captions.jsonl, one object a line such as {"file_name": "a.jpg", "text": "a beach"}, or beside each a.jpg a
text file a.txt with one caption a line."""


def add_parser(subparsers: Any) -> None:
    parser = subparsers.add_parser(
        "data", help="make, check, filter, recaption or measure a dataset folder",
        description="Make, check, filter, recaption or measure a dataset folder.",
        epilog=EXAMPLE, formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    orchard = actions.add_parser(
        "orchard", help="draw the demonstration world", description="Draw a split of the Orchard: pictures, captions, exact maps.",
        epilog="example: python -m rapiddraw data orchard --split train --count 5000 --size 128 --out data/orchard",
    )  # fmt: skip
    orchard.add_argument("--split", default="train", help="train, validation, test or judge (default %(default)s)")
    orchard.add_argument("--count", type=int, default=5000, help="how many pictures (default %(default)s)")
    orchard.add_argument("--size", type=int, default=128, help="side of the pictures in pixels, 64 to 512 (default %(default)s)")
    orchard.add_argument("--out", type=Path, required=True, help="the folder to write")
    orchard.add_argument("--seed", type=int, default=0, help="another seed draws other pictures of the same split (default %(default)s)")
    orchard.add_argument("--maps", default="all", help="all, none, or some of segmentation,edges,sketch,depth (default %(default)s)")
    orchard.add_argument(
        "--buckets", type=float, metavar="SCALE",
        help="pictures of PanGu-Draw's eleven aspect ratios in turn, SCALE of its sizes (0.125: 64x256 to 256x64), with segmentation maps",
    )  # fmt: skip
    check = actions.add_parser(
        "check", help="check a folder of images and captions", description="Read a whole folder and name everything that is wrong.",
        epilog="example: python -m rapiddraw data check my-pictures",
    )  # fmt: skip
    check.add_argument("folder", type=Path)
    check.add_argument("--no-captions", action="store_true", help="images without captions are fine")
    chosen = data_filter.add_parser(actions)
    data_evaluate.add_parser(actions)
    again = actions.add_parser(
        "recaption", help="write new captions for the pictures", description="Copy a folder with new captions for its pictures.",
        epilog="example: python -m rapiddraw data recaption data/orchard --out data/new --languages en --each 2",
    )  # fmt: skip
    again.add_argument("folder", type=Path)
    again.add_argument("--out", type=Path, required=True, help="the folder to write")
    again.add_argument("--source", default="scene", help="scene (graphs; the judge where there is none) or judge (default %(default)s)")
    again.add_argument("--languages", default="en,zh", help="languages of the new captions (default %(default)s)")
    again.add_argument("--each", type=int, default=1, help="captions for each picture and language (default %(default)s)")
    again.add_argument(
        "--least-sure",
        type=float,
        default=0.8,
        help="a caption names only what the judge is at least this sure of, 0 to 1 (default %(default)s)",
    )
    again.add_argument("--old", default="drop", help="old captions: drop, keep, or matching those that the scorer finds to match")
    again.add_argument("--min-clip", type=float, default=0.2, help="least CLIP score of an old caption that matches (default %(default)s)")
    again.add_argument("--seed", type=int, default=0, help="which templates are used (default %(default)s)")
    card = actions.add_parser(
        "card", help="say what a folder holds", description="Count pictures, sizes, captions and copies; say what a training leaves out.",
        epilog="example: python -m rapiddraw data card my-pictures --min-side 256",
    )  # fmt: skip
    card.add_argument("folder", type=Path)
    caption = actions.add_parser(
        "caption", help="write captions by a model or a template", description="Link the usable pictures into a new folder with captions.",
        epilog='example: python -m rapiddraw data caption my-pictures --out captioned --template "a photo of {object}" --subject "my cat"',
    )  # fmt: skip
    caption.add_argument("folder", type=Path)
    caption.add_argument("--out", type=Path, required=True, help="the folder to write")
    caption.add_argument("--model", default="", help="a captioning model's folder in models/LLM; without it the template is used")
    caption.add_argument("--template", default="{object}", help="words around the caption or the subject (default %(default)s)")
    caption.add_argument("--subject", default="", help="what is on the pictures (default the names of their folders or files)")
    caption.add_argument("--old", default="only_missing", help="old captions: only_missing, keep or drop (default %(default)s)")
    for action in (card, caption):
        action.add_argument("--min-side", type=int, default=0, help="least length of the shorter side in pixels (default any)")
    for action in (chosen, again):
        action.add_argument("--scorer", type=Path, help="a text bundle with its image bundle beside it, for CLIP scores")
        action.add_argument("--judge", type=Path, help="an attribute classifier (a bundle of kind judge)")
        action.add_argument("--graph", type=Path, help="a knowledge graph, from which the scorer knows the names in captions")


def run(args: argparse.Namespace) -> int:
    actions = {
        "orchard": _orchard, "check": _check, "filter": _filter, "recaption": _recaption, "card": _card, "caption": _caption,
        "evaluate": data_evaluate.run,
    }  # fmt: skip
    return actions[args.action](args)


def _orchard(args: argparse.Namespace) -> int:
    from ..core.orchard.dataset import MAP_KINDS, write_dataset

    if args.buckets is not None:
        from ..core.data.buckets import bucket_sizes

        shapes = bucket_sizes(scale=args.buckets)
        say(str(write_dataset(args.split, args.count, args.size, args.out, seed=args.seed, maps=("segmentation",), shapes=shapes)))
        return 0
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


def _tools(args: argparse.Namespace) -> tuple[Any, Any]:
    """The scorer and the judge that were named, `None` where they were not."""
    from ..core.knowledge.graph import load_knowledge
    from ..core.scoring.clip_score import load_scorer
    from ..core.scoring.judge import load_judge

    graph = load_knowledge(args.graph) if args.graph else None
    return load_scorer(args.scorer, graph) if args.scorer else None, load_judge(args.judge) if args.judge else None


def _filter(args: argparse.Namespace) -> int:
    return data_filter.run(args, lambda: _tools(args))


def _card(args: argparse.Namespace) -> int:
    from ..core.data.card import data_card

    say(data_card(args.folder, args.min_side).text())
    return 0


def _caption(args: argparse.Namespace) -> int:
    from ..core.data.caption_folder import Captions, caption_folder
    from ..core.text.captioner import load_captioner
    from ..core.text.causal import resolve_model

    how = Captions(args.template, args.subject, args.old, args.min_side)
    how.check()
    model = load_captioner(resolve_model(args.model)) if args.model else None
    say(caption_folder(args.folder, args.out, how, model).report)
    return 0


def _recaption(args: argparse.Namespace) -> int:
    from ..core.data.recaption import Captioning, recaption_folder

    scorer, judge = _tools(args)
    languages = tuple(code.strip() for code in args.languages.split(","))
    how = Captioning(args.source, languages, args.each, args.least_sure, args.old, args.min_clip, args.seed)
    say(recaption_folder(args.folder, args.out, how, judge, scorer).report)
    return 0
