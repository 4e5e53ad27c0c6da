"""Contact sheet: prompts drawn by lot, at 128 and 512 px, beside the renders of the same scenes.

    python -m rapiddraw bench contact_sheet

Nothing is measured and nobody chooses: the sheet shows what the shipped model draws for names seen, rare and unseen by turns. A cell holds,
from left to right, render and picture at 128 px one above the other, the render at 512 px, and the picture after the shipped upscaler.
"""

from __future__ import annotations

import argparse
from typing import Any

from . import common
from .checks import Expectation

CFG, STEPS = 4.0, 20


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `python -m rapiddraw bench contact_sheet`."""
    parser.add_argument("--count", type=int, default=64, help="pictures (64)")
    parser.add_argument("--seed", type=int, default=0, help="of the lot and of the noise (0)")


def expectations(args: argparse.Namespace) -> dict[str, Expectation]:
    """Return no expectation: a sheet is looked at."""
    return {}


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Draw `results/contact_sheet.jpg` and return the result (see :func:`common.result`)."""
    from ..core.files import replacing
    from ..core.metrics.contact_sheet import contact_sheet
    from ..core.upscale.rrdb import load_upscaler
    from .shipped import sampling, shipped, shipped_parts

    parts = shipped_parts()
    upscaler = load_upscaler(shipped("esrgan-x4", "esrgan"))
    sheet = contact_sheet(parts, upscaler, sampling(parts.host, CFG, STEPS), args.count, args.seed)
    path = common.results_dir() / "contact_sheet.jpg"
    with replacing(path) as temporary:
        sheet.save(temporary, quality=85)
    rows = [{"picture": path.name, "pictures": args.count, "seed": args.seed}]
    return common.result("contact_sheet", f"python -m rapiddraw bench contact_sheet --count {args.count} --seed {args.seed}", rows, [])
