"""Generators split in time: a structure and a texture model of half the size against one model of full size.

    python -m rapiddraw bench time_decoupled
    python -m rapiddraw bench time_decoupled --seeds 3

All are trained here, from nothing and under the same frozen text encoder: the baseline, the pair with half the steps each (as in the paper,
half the training) and the pair with all the steps each (equal training cost). Two more strategies that the paper compares (Figure 1 and
Table 4) share a model for half the size, and cost as much training as the baseline:

* `boost`     resolution boost: the small model is trained further at the whole size
* `cascaded`  the small model draws, its picture is enlarged, noise is added up to the switch, and a second model takes it out at the whole
              size. The paper's cascade has three models, and its larger ones read the small picture as channels

Measured are the attribute accuracy (AA), FID-A from 1000 pictures, multiplications a step, a picture and in training, and the switch swept
at inference. PanGu-Draw, tables 4 to 6; the paper's own numbers are of another scale and are not repeated here.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from . import common
from .checks import CHOSEN, EARLIER, PAPER, Basis, Expectation, at_least, at_most, exact
from .time_decoupled_draw import CFG, STEPS, Judged, judging
from .time_decoupled_models import Trained, cost, half_of, size_of, trained, work_of

SWITCH = 500
SWEEP = (0, 200, 300, 500, 700, 1000)
PAIRS, SINGLE, ROWS = ("half", "equal"), ("baseline", "boost", "cascaded"), ("baseline", "half", "equal")


@dataclass(frozen=True)
class Model:
    """What draws a row's pictures: one U-Net above the switch and one below (the same for a single model), or a cascade of two sizes."""

    structure: Trained
    texture: Trained
    is_cascade: bool = False


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `python -m rapiddraw bench time_decoupled`."""
    parser.add_argument("--data", type=Path, help="training pictures with captions (default: as many as --pictures are drawn)")
    parser.add_argument("--pictures", type=int, default=2000, help="pictures drawn where no --data is given (2000)")
    parser.add_argument("--steps", type=int, default=600, help="training steps of the baseline (600)")
    parser.add_argument("--batch", type=int, default=32, help="pictures a training step (32)")
    parser.add_argument("--widths", default="64,96,160", help="channels of the baseline's levels (64,96,160)")
    parser.add_argument("--foreground", type=float, default=8, help="weight of errors inside a fruit (8)")
    parser.add_argument("--count", type=int, default=128, help="pictures that are judged in each row (128)")
    parser.add_argument("--size", type=int, default=128, help="side of a picture in pixels (128)")
    parser.add_argument(
        "--rows", default=",".join(ROWS), help=f"which models, with commas: {', '.join((*SINGLE, *PAIRS))} ({','.join(ROWS)})"
    )
    parser.add_argument("--seeds", type=int, default=1, help="trainings of each model, each with another seed (1)")
    parser.add_argument("--data-rows", action="store_true", help="also train for table 5: low-resolution data, small texture training")
    parser.add_argument("--out", type=Path, default=Path("runs/time-decoupled"), help="folder of the trained models (kept and reused)")


def _named(args: argparse.Namespace) -> list[str]:
    """Return the names in --rows. Raises :class:`InputError` for others, or where a pair is missing, and for less than one seed."""
    from ..core.checks import whole_number
    from ..core.errors import InputError

    whole_number("seeds", args.seeds, 1, 100)
    named = args.rows.split(",")
    if not {*PAIRS} & {*named} or {*named} - {*SINGLE, *PAIRS} or (args.data_rows and "half" not in named):
        raise InputError(f"--rows {args.rows}: name half or equal, and {', '.join(SINGLE)}, with commas; --data-rows needs half")
    return named


def expectations(args: argparse.Namespace) -> dict[str, Expectation]:
    """Return the expectations by key."""
    basis, named = Basis(args.count, seeds=args.seeds), _named(args)
    work = "multiplications a step of the pair over the baseline's"
    switch = f"attribute accuracy that the best other switch gains over t_struct {SWITCH}, at inference"
    wanted = {
        "work": Expectation(work, at_most(0.6), EARLIER, exact(1, "networks")),
        "switch": Expectation(switch, at_most(0), PAPER, basis, "PanGu-Draw, Table 6"),
    }
    spent = "equal training cost" if "equal" in named else "half the training cost"
    if "baseline" in named:
        gain = f"attribute accuracy that the pair gains at {spent}"
        wanted["baseline"] = Expectation(gain, at_least(0), PAPER, basis, "PanGu-Draw, Table 4")
    if "boost" in named:
        gain = f"attribute accuracy that the pair gains over resolution boost at {spent}"
        wanted["boost"] = Expectation(gain, at_least(0), PAPER, basis, "PanGu-Draw, Table 4")
    if "cascaded" in named:
        gain = f"attribute accuracy that the pair gains over cascaded training at {spent}"
        wanted["cascaded"] = Expectation(gain, at_least(0), CHOSEN, basis)
    return wanted


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Train what is not there, measure, and return the result (see :func:`common.result`)."""
    import numpy as np

    from ..core.data.folder import ImageFolder
    from ..core.metrics.bootstrap import difference, largest
    from ..core.orchard.dataset import write_dataset

    named, wanted = _named(args), expectations(args)
    widths = tuple(int(width) for width in args.widths.split(","))
    half = half_of(widths)
    data = args.data or args.out / f"data-{args.pictures}-{args.size}"
    if not (data / "captions.jsonl").is_file():
        write_dataset("train", args.pictures, args.size, data, maps=("segmentation",))
    by_seed = [_models(args, named, data, widths, half, seed) for seed in range(args.seeds)]
    judged = judging(args.count, args.size)

    def drawn(title: str, t_struct: int) -> list[Judged]:
        return [judged(found[title].structure.path, found[title].texture.path, t_struct, found[title].is_cascade) for found in by_seed]

    rows: list[dict[str, Any]] = []
    scores: dict[str, Any] = {}
    for title, model in by_seed[0].items():
        found = drawn(title, SWITCH)
        scores[title] = np.mean([one.accuracy for one in found], axis=0)
        costs = cost(model.structure, model.texture) | {"GMAC a picture": round(_a_picture(model, args.size // 8) / 1e9, 2)}
        rows.append({"table": "pairs", "model": title, "pictures": args.count, **_cells(found), **costs})
    pair = next(name for name in reversed(PAIRS) if name in named)
    sweep = {}
    for t_struct in SWEEP:
        found = drawn(pair, t_struct)
        sweep[t_struct] = np.mean([one.accuracy for one in found], axis=0)
        rows.append({"table": "switch", "t_struct": t_struct, "pictures": args.count, **_cells(found)})
    others = [difference(accuracy, sweep[SWITCH]) for t_struct, accuracy in sweep.items() if t_struct != SWITCH]
    a_step = by_seed[0][pair].structure.a_step
    checks = [wanted["work"].judge(a_step / size_of(widths, args.size // 8)[1]), wanted["switch"].judge(largest(others))]
    checks += [wanted[name].judge(difference(scores[pair], scores[name])) for name in SINGLE if name in wanted]
    given = f"--data {args.data.name}" if args.data else f"--pictures {args.pictures}"
    command = f"python -m rapiddraw bench time_decoupled {given} --steps {args.steps} --count {args.count} --rows {args.rows}"
    command += (f" --seeds {args.seeds}" if args.seeds > 1 else "") + (" --data-rows" if args.data_rows else "")
    seeds = "one training seed each" if args.seeds == 1 else f"{args.seeds} training seeds each, whose accuracy is averaged by picture"
    notes = (
        f"{len(ImageFolder(data))} training pictures, {seeds}: {args.steps} steps of batch {args.batch} for the baseline "
        f"({', '.join(map(str, widths))} channels) and for each of 'equal' ({', '.join(map(str, half))}), half of them for each of 'half'. "
        f"'boost' and 'cascaded' share {2 * args.steps} steps at half the side, and take half of the steps at the whole one. "
        f"The switch is at {SWITCH} and swept at inference, with one pair. {args.count} pictures a row, {STEPS} steps of dpmpp_2m, "
        f"CFG {CFG:g}, seen names."
    )
    return common.result("time_decoupled", command, rows, checks, notes=notes)


def _models(
    args: argparse.Namespace, named: list[str], data: Path, widths: tuple[int, ...], half: tuple[int, ...], seed: int
) -> dict[str, Model]:
    """Return what draws each row, trained with `seed` where it is not there yet. The first seed's files have no number."""

    def fit(name: str, widths: tuple[int, ...], steps: int, **settings: Any) -> Trained:
        out = args.out / f"{name}{f'-seed{seed}' if seed else ''}-unet.safetensors"
        return trained(out, args, data, widths, max(steps, 1), {**settings, **({"seed": seed} if seed else {})})

    above, below, small = {"t_min": SWITCH}, {"t_max": SWITCH}, {"size": args.size // 2}
    models = {}
    if "baseline" in named:
        base = fit("baseline", widths, args.steps)
        models["baseline"] = Model(base, base)
    if {"boost", "cascaded"} & {*named}:
        first = fit("small", widths, 2 * args.steps, **small)
    if "boost" in named:
        last = fit("boost", widths, args.steps // 2, base=str(first.path))
        whole = replace(last, training=first.training + last.training)
        models["boost"] = Model(whole, whole)
    if "cascaded" in named:
        models["cascaded"] = Model(first, fit("refiner", widths, args.steps // 2, **below), is_cascade=True)
    for name in (pair for pair in PAIRS if pair in named):
        steps = args.steps if name == "equal" else args.steps // 2
        models[name] = Model(fit(f"structure-{name}", half, steps, **above), fit(f"texture-{name}", half, steps, **below))
    if args.data_rows:
        fewer, steps = {"low_share": 0.48, "low_kept": False}, args.steps // 2
        low = fit("structure-low", half, steps, **above, low_share=0.48)
        models["48% low-resolution"] = Model(low, models["half"].texture)
        models["high-resolution only"] = Model(fit("structure-high", half, steps, **above, **fewer), models["half"].texture)
        models["texture at half size"] = Model(low, fit("texture-small", half, steps, **below, **small))
    return models


def _a_picture(model: Model, side: int) -> float:
    """Return the multiply-adds of one picture of `side` latent cells, without guidance: half of the steps lie below the switch."""
    if model.is_cascade:
        return STEPS * work_of(model.structure.path, side // 2) + STEPS / 2 * model.texture.a_step
    return STEPS * (model.structure.a_step + model.texture.a_step) / 2


def _cells(found: list[Judged]) -> dict[str, Any]:
    """Return the mean over the seeds, and each seed's accuracy where there are several."""
    accuracy = [float(one.accuracy.mean()) for one in found]
    distances = [one.fid_a for one in found if one.fid_a is not None]
    cells: dict[str, Any] = {"AA": round(sum(accuracy) / len(accuracy), 3)}
    if len(found) > 1:
        cells["AA of each seed"] = ", ".join(f"{one:.3f}" for one in accuracy)
    return {**cells, "FID-A": round(sum(distances) / len(distances), 2) if distances else None}
