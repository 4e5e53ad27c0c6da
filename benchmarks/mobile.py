"""Small networks: sizes of the papers' U-Nets, what MobileDiffusion's changes cost and save, a slimmed U-Net, a pruned decoder, the whole.

    python -m rapiddraw bench mobile
    python -m rapiddraw bench mobile --parts tricks,decoder --repeats 0

`sizes` builds SD 1.5, SnapFusion's U-Net and MobileDiffusion's two without memory and counts parameters and multiply-adds of one evaluation
for latents of 64 x 64 and 77 tokens, beside the papers' tables; then SD 1.5 with each of MobileDiffusion's eight changes alone. The other
parts train on the shipped model: `tricks` each change alone, `slim` a U-Net of 0.6 of the time, `decoder` one of fewer channels. `total`
trains students in few steps on the slimmed U-Net, and compares whole pictures. What lies in --folder is not trained again. Parts that are
not measured are kept from the result before. With --repeats 0 nothing is timed.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from ..core.checks import whole_number
from . import common, mobile_decoder, mobile_sizes, mobile_slim, mobile_total, mobile_tricks
from .checks import Expectation
from .common import chosen_names

PARTS = ("sizes", "tricks", "slim", "decoder", "total")
TRAINED = {"tricks": mobile_tricks, "slim": mobile_slim, "decoder": mobile_decoder, "total": mobile_total}
STEPS = {"tricks": 100, "slim": 1200, "decoder": 300, "total": 300}
"""Training steps of each network of a part: about ten minutes of one core for the part."""
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
    parser.add_argument("--count", type=int, default=64, help="pictures that are judged, and held-out latents (64)")
    parser.add_argument("--pictures", type=int, default=256, help="pictures that are drawn to train on (256)")
    parser.add_argument("--repeats", type=int, default=7, help="timed turns of each network; 0 times nothing (7)")
    parser.add_argument("--train-steps", type=int, help=f"training steps of each network (by part: {STEPS})")
    parser.add_argument("--folder", type=Path, default=Path("runs/mobile"), help="folder of what is trained (runs/mobile)")


def expectations(args: argparse.Namespace) -> dict[str, Expectation]:
    """Return the expectations by key."""
    return {key: one for part in _parts(args) for key, one in _expected(part, args).items()}


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Measure and return the result (see :func:`common.result`)."""
    from .mobile_lab import Lab

    whole_number("count", args.count, 2, 4096)
    whole_number("pictures", args.pictures, 16, 65536)
    whole_number("repeats", args.repeats, 0, 99)
    timed = argparse.Namespace(**{**vars(args), "repeats": 1})
    claims = {one.claim: part for part in PARTS for one in _expected(part, timed).values()}
    found = common.parts_before("mobile", claims.get, "sizes")
    lab = Lab(args.folder.absolute(), args.pictures, args.count, args.repeats)
    for part in _parts(args):
        found[part] = mobile_sizes.measure() if part == "sizes" else TRAINED[part].measure(lab, args.train_steps or STEPS[part])
    named = ",".join(part for part in PARTS if part in found)
    return common.result("mobile", f"python -m rapiddraw bench mobile --parts {named}", *common.joined_parts(found, PARTS), notes=NOTES)


def _expected(part: str, args: argparse.Namespace) -> dict[str, Expectation]:
    if part == "sizes":
        return mobile_sizes.expectations()
    return {f"{part} {key}": one for key, one in TRAINED[part].expectations(args.count, args.repeats).items()}


def _parts(args: argparse.Namespace) -> list[str]:
    return chosen_names(args.parts, list(PARTS), "part", "--parts")
