"""Small networks: sizes of the papers' U-Nets, and what MobileDiffusion's changes save.

    python -m rapiddraw bench mobile

`sizes` builds SD 1.5, SnapFusion's U-Net and MobileDiffusion's two without memory and counts parameters and multiply-adds of one evaluation
for latents of 64 x 64 and 77 tokens, beside the papers' tables; then SD 1.5 with each of MobileDiffusion's eight changes alone.
"""

from __future__ import annotations

import argparse
from typing import Any

from ..core.errors import InputError
from . import common, mobile_sizes
from .checks import Expectation

PARTS = ("sizes",)
NOTES = (
    "The papers' GFLOPs are multiply-adds: SD 1.5 has 392 of them in the paper and 401.6 here, where the matrix products of attention are "
    "counted too. SnapFusion's 848 M parameters do not follow from its Table 3, which takes away five residual blocks of 29 M to 44 M "
    "parameters and adds three transformers of 8 M; the table as printed adds up to 701 M. MobileDiffusion's Table 1 gives channels and "
    "counts of blocks. Where its separable convolutions lie is not in the slides. Three places were counted, and the nearest was kept: "
    "451 M parameters with none, 417 M with those of the middle, 404 M with those of the last level of the encoder as well."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `python -m rapiddraw bench mobile`."""
    parser.add_argument("--parts", default=",".join(PARTS), help=f"what to measure, with commas: {', '.join(PARTS)} (all)")


def expectations(args: argparse.Namespace) -> dict[str, Expectation]:
    """Return the expectations by key."""
    return mobile_sizes.expectations() if "sizes" in _parts(args) else {}


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Measure and return the result (see :func:`common.result`)."""
    rows, checks = mobile_sizes.measure()
    return common.result("mobile", f"python -m rapiddraw bench mobile --parts {args.parts}", rows, checks, notes=NOTES)


def _parts(args: argparse.Namespace) -> list[str]:
    named = [part.strip() for part in args.parts.split(",") if part.strip()]
    if not named or set(named) - set(PARTS):
        raise InputError(f"--parts {args.parts}: name some of {', '.join(PARTS)}, with commas")
    return named
