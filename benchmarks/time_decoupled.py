"""Generators split in time: a structure and a texture model of half the size against one model of full size.

    python -m rapiddraw bench time_decoupled

All are trained here, from nothing and under the same frozen text encoder: the baseline, the pair with half the steps each (as in the paper,
half the training) and the pair with all the steps each (equal training cost). Measured are the attribute accuracy (AA), FID-A from 1000
pictures, multiplications a step and in training, and the switch swept at inference. PanGu-Draw, tables 4 to 6; the paper's own numbers are
of another scale and are not repeated here.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import common
from .checks import EARLIER, PAPER, Basis, Expectation, at_least, at_most, exact

CFG, STEPS, SWITCH = 3.0, 20, 500
SWEEP = (0, 200, 300, 500, 700, 1000)


@dataclass(frozen=True)
class Trained:
    """A trained U-Net: its file, its parameters, multiply-adds of one step and of its training."""

    path: Path
    parameters: int
    a_step: float
    training: float


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
    parser.add_argument("--rows", default="baseline,half,equal", help="which models, with commas: baseline, half, equal (all)")
    parser.add_argument("--data-rows", action="store_true", help="also train for table 5: low-resolution data, small texture training")
    parser.add_argument("--out", type=Path, default=Path("runs/time-decoupled"), help="folder of the trained models (kept and reused)")


def _models(args: argparse.Namespace) -> list[str]:
    """Return the names in --rows. Raises :class:`InputError` for others, or where a pair is missing."""
    from ..core.errors import InputError

    named = args.rows.split(",")
    if not {"half", "equal"} & {*named} or {*named} - {"baseline", "half", "equal"} or (args.data_rows and "half" not in named):
        raise InputError(f"--rows {args.rows}: name half or equal, and baseline, with commas; --data-rows needs half")
    return named


def expectations(args: argparse.Namespace) -> dict[str, Expectation]:
    """Return the expectations by key."""
    basis, named = Basis(args.count), _models(args)
    work = "multiplications a step of the pair over the baseline's"
    switch = f"attribute accuracy that the best other switch gains over t_struct {SWITCH}, at inference"
    wanted = {
        "work": Expectation(work, at_most(0.6), EARLIER, exact(1, "networks")),
        "switch": Expectation(switch, at_most(0), PAPER, basis, "PanGu-Draw, Table 6"),
    }
    if "baseline" in named:
        cost = "equal training cost" if "equal" in named else "half the training cost"
        wanted["gain"] = Expectation(f"attribute accuracy that the pair gains at {cost}", at_least(0), PAPER, basis, "PanGu-Draw, Table 4")
    return wanted


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Train what is not there, measure, and return the result (see :func:`common.result`)."""
    from ..core.data.folder import ImageFolder
    from ..core.metrics.bootstrap import difference, largest
    from ..core.orchard.dataset import write_dataset

    named, wanted = _models(args), expectations(args)
    widths = tuple(int(width) for width in args.widths.split(","))
    pairs = [name for name in ("half", "equal") if name in named]
    half = half_of(widths)
    data = args.data or args.out / f"data-{args.pictures}-{args.size}"
    if not (data / "captions.jsonl").is_file():
        write_dataset("train", args.pictures, args.size, data, maps=("segmentation",))

    def fit(name: str, widths: tuple[int, ...], steps: int, **settings: Any) -> Trained:
        return _train(args.out / f"{name}-unet.safetensors", args, data, widths, steps, settings)

    above, below = {"t_min": SWITCH}, {"t_max": SWITCH}
    models = {}
    if "baseline" in named:
        base = fit("baseline", widths, args.steps)
        models["baseline"] = (base, base)
    for name, steps in ((pair, args.steps if pair == "equal" else max(args.steps // 2, 1)) for pair in pairs):
        models[name] = (fit(f"structure-{name}", half, steps, **above), fit(f"texture-{name}", half, steps, **below))
    if args.data_rows:
        fewer, small = {"low_share": 0.48, "low_kept": False}, {"size": args.size // 2}
        steps = max(args.steps // 2, 1)
        low = fit("structure-low", half, steps, **above, low_share=0.48)
        models["48% low-resolution"] = (low, models["half"][1])
        models["high-resolution only"] = (fit("structure-high", half, steps, **above, **fewer), models["half"][1])
        models["texture at half size"] = (low, fit("texture-small", half, steps, **below, **small))
    judged = _judge(args)
    rows: list[dict[str, Any]] = []
    scores: dict[str, Any] = {}
    for title, (structure, texture) in models.items():
        scores[title], cells = judged(structure.path, texture.path, SWITCH)
        rows.append({"table": "pairs", "model": title, "pictures": args.count, **cells, **_cost(structure, texture)})
    structure, texture = models[pairs[-1]]
    sweep = {}
    for t_struct in SWEEP:
        sweep[t_struct], cells = judged(structure.path, texture.path, t_struct)
        rows.append({"table": "switch", "t_struct": t_struct, "pictures": args.count, **cells})
    others = [difference(accuracy, sweep[SWITCH]) for t_struct, accuracy in sweep.items() if t_struct != SWITCH]
    checks = [wanted["work"].judge(structure.a_step / _size(widths, args.size // 8)[1]), wanted["switch"].judge(largest(others))]
    if "gain" in wanted:
        checks.append(wanted["gain"].judge(difference(scores[pairs[-1]], scores["baseline"])))
    given = f"--data {args.data.name}" if args.data else f"--pictures {args.pictures}"
    command = f"python -m rapiddraw bench time_decoupled {given} --steps {args.steps} --count {args.count} --rows {args.rows}"
    command += " --data-rows" if args.data_rows else ""
    notes = (
        f"{len(ImageFolder(data))} training pictures, one training seed each: {args.steps} steps of batch {args.batch} for the baseline "
        f"({', '.join(map(str, widths))} channels) and for each of 'equal' ({', '.join(map(str, half))}), half of them for each of 'half'; "
        f"the switch is at {SWITCH} and swept at inference, with one pair. {args.count} pictures a row, {STEPS} steps of dpmpp_2m, "
        f"CFG {CFG:g}, seen names."
    )
    return common.result("time_decoupled", command, rows, checks, notes=notes)


def half_of(widths: tuple[int, ...], context: int = 128) -> tuple[int, ...]:
    """Return widths (multiples of 32, rising) of a U-Net with half the parameters of one of `widths`, within 5% where there is one.

    Of several, the one whose levels differ least is chosen.
    """
    import itertools

    whole = _parameters(widths, context)
    choices = itertools.combinations_with_replacement(range(32, max(widths) + 1, 32), len(widths))
    apart = {given: abs(2 * _parameters(given, context) / whole - 1) for given in choices}
    close = [given for given, share in apart.items() if share <= 0.05]
    return min(close, key=lambda given: max(given) / min(given)) if close else min(apart, key=lambda given: apart[given])


def _parameters(widths: tuple[int, ...], context: int) -> int:
    return sum(parameter.numel() for parameter in _untrained(widths, context, 4).parameters())


def _size(widths: tuple[int, ...], side: int) -> tuple[int, float]:
    """Return (parameters, multiply-adds of one evaluation) of an untrained U-Net of `widths` for the shipped VAE and text encoder."""
    from ..core.bundles.format import read_info
    from .shipped import shipped

    latent, text = (read_info(shipped(kind, kind), kind) for kind in ("vae", "text"))
    assert latent.latent is not None  # noqa: S101 - the bundle of a VAE has one
    unet = _untrained(widths, int(text.config["hidden_size"]), latent.latent.channels)
    return sum(parameter.numel() for parameter in unet.parameters()), _multiply_adds(unet, side)


def _untrained(widths: tuple[int, ...], context: int, channels: int) -> Any:
    import torch
    from diffusers import UNet2DConditionModel

    from ..core.train.recipes.unet_shapes import unet_config

    with torch.device("meta"):
        return UNet2DConditionModel(**unet_config(channels, 16, widths, _attention(widths), context, 4))


def _attention(widths: tuple[int, ...]) -> tuple[int, ...]:
    return (0, *[1] * (len(widths) - 1))


def _train(out: Path, args: argparse.Namespace, data: Path, widths: tuple[int, ...], steps: int, settings: dict[str, Any]) -> Trained:
    """Train a U-Net, unless its file is there already, and count its work."""
    from ..core.bundles.load import load_bundle
    from ..core.train import make_recipe
    from ..core.train.loop import train
    from .shipped import shipped

    parts = {name: str(shipped(kind, kind)) for name, kind in {"vae": "vae", "text": "text", "graph": "kg"}.items()}
    shape = {"widths": widths, "attention": _attention(widths)}
    fixed = {"data": str(data), "batch_size": args.batch, "text_lr": 0.0, "foreground": args.foreground, **shape}
    if not out.is_file():
        recipe = make_recipe("unet", {"size": args.size, **parts, **fixed, **settings})
        train(recipe, out, steps, run_dir=out.with_suffix(""))
    bundle = load_bundle(out, "unet")
    side = args.size // 8
    trained_side = int(settings.get("size", args.size)) // 8
    return Trained(
        out,
        sum(tensor.numel() for tensor in bundle.tensors.values()),
        _work(bundle, side),
        3 * _work(bundle, trained_side) * args.batch * steps,  # a backward pass costs two forward passes
    )


def _work(bundle: Any, side: int) -> float:
    from diffusers import UNet2DConditionModel

    from ..core.networks import network_of

    return _multiply_adds(network_of(UNet2DConditionModel, bundle), side)


def _multiply_adds(unet: Any, side: int) -> float:
    """Return the multiply-adds of one evaluation of one picture of `side` latent cells."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    device = next(unet.parameters()).device
    context = torch.zeros(1, 32, int(unet.config["cross_attention_dim"]), device=device)
    state = torch.zeros(1, int(unet.config["in_channels"]), side, side, device=device)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        unet(state, torch.zeros(1, device=device), encoder_hidden_states=context)
    return counter.get_total_flops() / 2


def _cost(structure: Trained, texture: Trained) -> dict[str, Any]:
    both = {structure.path: structure, texture.path: texture}.values()
    return {
        "parameters": "+".join(f"{one.parameters / 1e6:.2f} M" for one in both),
        "GMAC a step": round(max(one.a_step for one in both) / 1e9, 4),
        "GMAC in training": round(sum(one.training for one in both) / 1e9),
    }


def _judge(args: argparse.Namespace) -> Callable[[Path, Path, int], tuple[Any, dict[str, Any]]]:
    """Return a function that draws with a pair, the switch at a timestep: (attribute accuracy of each picture, the row's cells)."""
    from ..core.host import SamplingRun, Stage
    from ..core.metrics.orchard import (
        AA_ATTRIBUTES,
        accuracy_by_picture,
        evaluation_scenes,
        fid_a,
        prompts_for,
        render_batch,
        sample_pictures,
    )  # fmt: skip
    from ..core.scoring.judge import judge_pictures
    from .shipped import shipped_judge, shipped_parts

    judge = shipped_judge()
    pairs = evaluation_scenes("seen", args.count)
    scenes, prompts = [scene for _, scene in pairs], prompts_for(pairs)
    real = judge_pictures(judge, render_batch([scene for _, scene in evaluation_scenes("seen", args.count, 1)], args.size))[1]

    def score(structure: Path, texture: Path, t_struct: int) -> tuple[Any, dict[str, Any]]:
        parts, second = shipped_parts(structure), shipped_parts(texture, knowledge=False).model
        host = parts.host

        def sample(model: Any, positive: Any, negative: Any, latent: dict[str, Any], seed: int) -> Any:
            guider = host.time_decoupled.make_guider([Stage(model, positive, negative, CFG, t_struct), Stage(second, None, None, CFG)])
            return host.time_decoupled.sample(guider, latent, SamplingRun(seed, STEPS, "dpmpp_2m", "simple"), "keep")["samples"]

        predicted, features = judge_pictures(judge, sample_pictures(parts, prompts, sample, args.size))
        accuracy = accuracy_by_picture(predicted, scenes, AA_ATTRIBUTES)
        return accuracy, {"AA": round(float(accuracy.mean()), 3), "FID-A": fid_a(features, real)}

    return score
