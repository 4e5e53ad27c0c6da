"""Command `data evaluate`: the FID on Inception features and the CLIP score of an open_clip model, for folders of pictures."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from .common import say

EXAMPLE = """examples:
  python -m rapiddraw data evaluate drawn --against my-pictures --inception weights-inception-2015-12-05-6726825d.pth
  python -m rapiddraw data evaluate drawn --open-clip ViT-B-32=open_clip_model.safetensors

The packages come with the extra metrics: python -m pip install ".[metrics]". The weights are your own files: paths, or names of files in
models/rapiddraw. Nothing is downloaded. The FID takes thousands of pictures; below 2,048 the number is biased. CLIP scores read the first
caption of each picture: a.txt beside a.jpg, or captions.jsonl."""


def add_parser(actions: Any) -> None:
    """Add the command."""
    parser = actions.add_parser(
        "evaluate", help="measure pictures with published networks", description="Measure pictures by Inception and open_clip networks.",
        epilog=EXAMPLE, formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("folder", type=Path)
    parser.add_argument("--against", type=Path, metavar="FOLDER", help="the pictures that the FID compares with")
    parser.add_argument("--inception", metavar="FILE", help="torch-fidelity's weights of Inception, for the FID")
    parser.add_argument("--open-clip", metavar="NAME=FILE", help="a model of open_clip and its weights, for the CLIP score")


def run(args: argparse.Namespace) -> int:
    """Measure, and print the numbers with their meanings."""
    from ..core.errors import InputError
    from ..core.host.embedded.process import device
    from ..core.metrics.folders import Published, evaluate_folder

    model = None
    if args.open_clip is not None:
        name, _, file = args.open_clip.partition("=")
        if not name or not file:
            raise InputError(f"--open-clip {args.open_clip!r}: expected NAME=FILE, such as ViT-B-32=open_clip_model.safetensors")
        model = (name, file)
    say(evaluate_folder(args.folder, args.against, Published(args.inception, model), device()).report())
    return 0
