"""PSNR of the shipped upscaler and of bicubic interpolation on pictures that no training saw, and how crisp drawn pictures become.

    python -m rapiddraw bench esrgan

A pair is the 256 px around a fruit of the `test` split, drawn at 512 px, and its antialiased bicubic reduction by 4. PSNR is over RGB
with 4 px of border left out, as the super-resolution literature does; the mean is of the pictures' dB. `softened` rows blur the small
picture first (and add a little noise), as the decoder of a latent diffusion model does. Seconds are the processor's.

The table `drawn` enlarges pictures of 128 px, which the shipped model draws, to 512 px. Gradient energy is over that of renders of the same
scenes at 512 px. The judge's attribute accuracy (AA) of the enlarged pictures less that of the small ones tells whether an upscaler
invents anything. The table `decoded` enlarges renders that the VAE has encoded and decoded, and compares them with the renders.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from typing import Any

from . import common
from .checks import CHOSEN, EARLIER, Basis, Expectation, above, at_least, between

SOFTENED = 5  # every fifth pair is softened too
WEIGHTS, CRISP = "orchard-esrgan-x4.safetensors", "orchard-esrgan-x4-crisp.safetensors"
SCALE, SIDE, CROP, BORDER = 4, 512, 256, 4


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `python -m rapiddraw bench esrgan`."""
    parser.add_argument("--count", type=int, default=500, help="held-out pairs (500)")
    parser.add_argument("--weights", default=WEIGHTS, help="the upscaler, a name in a weights folder")
    parser.add_argument("--crisp", default=CRISP, metavar="FILE", help=f"the upscaler for crisp pictures of 512 px ({CRISP})")
    parser.add_argument("--drawn", type=int, default=96, help="pictures drawn and enlarged to 512 px; 0 leaves these tables out (96)")


def expectations(args: argparse.Namespace) -> dict[str, Expectation]:
    """Return the expectations by key."""
    pairs, softened = Basis(args.count, "held-out pairs"), Basis(-(-args.count // SOFTENED), "held-out pairs")
    wanted = {
        "reduced": Expectation("dB of PSNR that the trained x4 upscaler is above bicubic", above(0), CHOSEN, pairs),
        "share": Expectation("share of the pairs on which it is better than bicubic", at_least(0.95), EARLIER, pairs),
        "softened": Expectation("dB of PSNR that it is above bicubic on softened pictures", above(0), CHOSEN, softened),
    }
    if args.drawn:
        drawn = Basis(args.drawn)
        energy, invented = "gradient energy over that of renders", "attribute accuracy less that of the small pictures"
        wanted["crisp"] = Expectation(f"drawn pictures of 512 px: {energy}", at_least(0.8), CHOSEN, drawn)
        wanted["invented"] = Expectation(f"drawn pictures of 512 px: {invented}", between(-0.01, 0.01), CHOSEN, drawn)
    return wanted


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Measure and return the result (see :func:`common.result`)."""
    import numpy as np
    import torch

    from ..core.metrics.bootstrap import difference, mean, ratio_of_means
    from ..core.metrics.psnr import psnr
    from ..core.progress import track
    from ..core.train.recipes.esrgan import enlarge_with
    from ..core.upscale import degrade
    from ..core.upscale.find import resolve_upscaler
    from ..core.upscale.rrdb import load_upscaler
    from .esrgan_drawn import enlarged_rows

    wanted, count = expectations(args), args.count
    upscaler = load_upscaler(resolve_upscaler(args.weights))
    methods = {"bicubic": lambda low: degrade.enlarge(low, SCALE), "trained": lambda low: enlarge_with(upscaler, low)}
    found: dict[tuple[str, str], list[float]] = {(kind, method): [] for kind in ("reduced", "softened") for method in methods}
    seconds = dict.fromkeys(methods, 0.0)
    for index, high in enumerate(track(pictures(count), count, "esrgan", "pair")):
        low = degrade.reduce(high, SCALE)
        inputs = {"reduced": low}
        if index % SOFTENED == 0:
            generator = torch.Generator().manual_seed(index)
            planes = torch.from_numpy(low.copy()).permute(2, 0, 1)[None].float() / 255
            inputs["softened"] = (degrade.soften(planes, generator)[0].permute(1, 2, 0) * 255).round().to(torch.uint8).numpy()
        for kind, small in inputs.items():
            for method, enlarge in methods.items():
                began = time.process_time()
                made = enlarge(small)
                seconds[method] += time.process_time() - began
                found[kind, method].append(psnr(made, high, BORDER))
    rows: list[dict[str, Any]] = [
        {
            "input": kind,
            "method": method,
            "pairs": len(values),
            "psnr_db": round(float(np.mean(values)), 3),
            "psnr_db_std": round(float(np.std(values)), 3),
            "psnr_db_worst": round(float(np.min(values)), 3),
            "seconds_a_picture": round(seconds[method] / sum(len(v) for (_, m), v in found.items() if m == method), 4),
        }
        for (kind, method), values in found.items()
        if values
    ]
    better = np.array(found["reduced", "trained"]) > np.array(found["reduced", "bicubic"])
    checks = [wanted[kind].judge(difference(found[kind, "trained"], found[kind, "bicubic"])) for kind in ("reduced", "softened")]
    checks.insert(1, wanted["share"].judge(mean(better)))
    if args.drawn:
        crisp = load_upscaler(resolve_upscaler(args.crisp))
        ways = {**methods, "crisp": lambda low: enlarge_with(crisp, low)}
        more, of_drawn = enlarged_rows(ways, args.drawn)
        rows += more
        made = of_drawn["crisp"]
        checks.append(wanted["crisp"].judge(ratio_of_means(made.energy, of_drawn["renders"].energy)))
        checks.append(wanted["invented"].judge(difference(made.accuracy, of_drawn["small"].accuracy)))
    return common.result("esrgan", "python -m rapiddraw bench esrgan", rows, checks, weights=args.weights)


def pictures(count: int) -> Iterator[Any]:
    """Yield the high-resolution halves of the first `count` pairs, (256, 256, 3) uint8."""
    from ..core.orchard.dataset import samples
    from ..core.orchard.render import render

    for sample in samples("test", count):
        top, left = (min(max(round(c * SIDE) - CROP // 2, 0), SIDE - CROP) // SCALE * SCALE for c in (sample.scene.cy, sample.scene.cx))
        yield render(sample.scene, SIDE)[top : top + CROP, left : left + CROP]
