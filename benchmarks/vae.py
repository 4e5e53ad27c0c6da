"""What a VAE keeps of pictures that it never saw: PSNR, gradient energy and FID-A of round trips; shapes of VAEs trained equally long.

    python -m rapiddraw bench vae
    python -m rapiddraw bench vae --rows shapes --seconds 600

`--weights` names further VAE bundles to measure beside the shipped one. `shapes` trains every row of a table of widths, channels and
optimizers for `--seconds` of this machine's time and measures each.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import common
from .checks import CHOSEN, Basis, Expectation, at_least

ROWS = ("shipped", "shapes")
WIDE = {"layers_per_block": 0, "start": "pass_through", "optimizer": "muon", "crop": 64, "batch_size": 2, "warmup": 30, "ema": 0.98}
SHAPES: dict[str, dict[str, Any]] = {
    "32, 32, 64, 128; 8 channels; AdamW": {"widths": (32, 32, 64, 128), "latent_channels": 8},
    "96 x 4; 8 channels; AdamW": {**WIDE, "widths": (96,) * 4, "latent_channels": 8, "optimizer": "adamw"},
    "96 x 4; 4 channels; Muon": {**WIDE, "widths": (96,) * 4, "latent_channels": 4},
    "96 x 4; 8 channels; Muon": {**WIDE, "widths": (96,) * 4, "latent_channels": 8},
    "96 x 4; 16 channels; Muon": {**WIDE, "widths": (96,) * 4, "latent_channels": 16},
}
MOST_STEPS = 100_000


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `python -m rapiddraw bench vae`."""
    parser.add_argument("--count", type=int, default=500, help="held-out renders (500; FID-A from 1000)")
    parser.add_argument("--weights", default="", metavar="FILE,FILE", help="further VAE bundles to measure")
    parser.add_argument("--rows", default="shipped", help=f"which parts to run, with commas: {', '.join(ROWS)} (shipped)")
    parser.add_argument("--seconds", type=float, default=600, help="shapes: seconds of training for each (600)")
    parser.add_argument("--folder", type=Path, default=Path("runs/vae"), help="shapes: where they are trained and kept (runs/vae)")
    parser.add_argument("--data", default="", help="shapes: an image folder with maps; without one 3000 pictures of the Orchard are drawn")


def expectations(args: argparse.Namespace) -> dict[str, Expectation]:
    """Return the expectations by key."""
    basis = Basis(args.count, "held-out renders")
    return {
        "psnr": Expectation("dB of PSNR of the shipped VAE's round trips", at_least(32), CHOSEN, basis),
        "gradient": Expectation("share of the renders' gradient energy that the shipped VAE keeps", at_least(0.9), CHOSEN, basis),
    }


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Measure and return the result (see :func:`common.result`)."""
    from ..core.metrics.bootstrap import mean, ratio_of_means
    from ..core.metrics.reconstruction import gradient_energy
    from ..core.scoring.judge import judge_pictures
    from .shipped import shipped, shipped_judge

    parts = common.chosen_names(args.rows, list(ROWS), "part", "--rows")
    wanted, judge, real = expectations(args), shipped_judge(), renders(args.count)
    others = [Path(name) for name in args.weights.split(",") if name]
    measured = {"shipped": shipped("vae", "vae"), **{path.stem: path for path in others}} if "shipped" in parts else {}
    if "shapes" in parts:
        measured |= {name: _trained(name, args) for name in SHAPES}
    known = Real(real, gradient_energy(real), judge_pictures(judge, real)[1])
    rows, checks = [], []
    for name, path in measured.items():
        row, decibel, energy = _measure(path, known, judge)
        rows.append({"VAE": name, **row})
        if name == "shipped":
            checks = [wanted["psnr"].judge(mean(decibel)), wanted["gradient"].judge(ratio_of_means(energy, known.energy))]
    command = f"python -m rapiddraw bench vae --count {args.count} --rows {args.rows}"
    notes = (
        f"{args.count} renders of names seen, rare and unseen by turns, in scenes never trained on, 128 px. PSNR: mean of the pictures' "
        "dB. Gradient energy: mean squared difference of neighbours, over that of the renders. Means of the posteriors are decoded."
    )
    return common.result("vae", command, rows, checks, notes=notes)


def renders(count: int) -> Any:
    """Return renders (count, 3, 128, 128) of names of all splits by turns."""
    import torch

    from ..core.metrics.orchard import evaluation_scenes, render_batch

    splits = ("seen", "rare", "unseen")
    scenes = [evaluation_scenes(split, -(-count // 3), seed=3) for split in splits]
    mixed = [scenes[index % 3][index // 3][1] for index in range(count)]
    return torch.cat([render_batch(mixed[first : first + 64], 128) for first in range(0, count, 64)])


@dataclass(frozen=True)
class Real:
    """The renders (N, 3, 128, 128), the gradient energy of each, and the judge's features of them."""

    pictures: Any
    energy: Any
    features: Any


def _measure(path: Path, real: Real, judge: Any) -> tuple[dict[str, Any], Any, Any]:
    """Return (a row of the table, the pictures' dB, their gradient energy) of the VAE at `path`."""
    import numpy as np

    from ..core.metrics.orchard import fid_a
    from ..core.metrics.reconstruction import RoundTrips, gradient_energy, psnr_by_picture
    from ..core.scoring.judge import judge_pictures

    trips = RoundTrips(path)
    made = trips.of(real.pictures)
    decibel, energy = psnr_by_picture(made, real.pictures), gradient_energy(made)
    row = {
        "channels": trips.info.config.get("latent_channels"),
        "parameters (M)": round(sum(p.numel() for p in trips.network.parameters()) / 1e6, 2),
        "steps": trips.info.provenance.get("steps"),
        "pictures": len(made),
        "PSNR": round(float(np.mean(decibel)), 2),
        "worst": round(float(np.min(decibel)), 2),
        "gradient energy": round(float(energy.mean() / real.energy.mean()), 3),
        "FID-A": fid_a(judge_pictures(judge, made)[1], real.features),
    }
    return row, decibel, energy


def _trained(name: str, args: argparse.Namespace) -> Path:
    """Return the VAE of row `name`, from the folder or by training it now."""
    from ..core.orchard.dataset import write_dataset
    from ..core.train import make_recipe
    from ..core.train.loop import Intervals, train

    stem = "".join(c if c.isalnum() else "-" for c in name)
    out = args.folder / f"{stem}.safetensors"
    if out.is_file():
        return out
    data = Path(args.data or args.folder / "train128")
    if not (data / "captions.jsonl").is_file():
        write_dataset("train", 3000, 128, data, maps=("segmentation",))
    recipe = make_recipe("vae", {"data": str(data), **SHAPES[name]})
    return train(recipe, out, MOST_STEPS, run_dir=args.folder / stem, every=Intervals(save=200), seconds=args.seconds).files[0]
