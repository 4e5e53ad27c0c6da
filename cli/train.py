"""Command `train`: the training of one part by its recipe."""

from __future__ import annotations

import argparse
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import train_domain, train_options, train_orchard, train_slim, trainers
from .common import note, say

if TYPE_CHECKING:
    from ..core.train.recipe import Recipe

CHAIN = "orchard"
ON_A_MODEL: dict[str, Any] = {**dict.fromkeys(trainers.NODES, train_domain), train_slim.SLIM: train_slim}
"""Recipes on a user's model, and the modules that run them."""

EXAMPLE = """examples:
  python -m rapiddraw train vae --data DIR --steps 8000 --out weights/my-vae.safetensors --set batch_size=8 --set ema=0.999
  python -m rapiddraw train unet --data DIR --out structure-unet.safetensors --set t_min=500 --set widths=32,96,96 --set low_share=0.48
  python -m rapiddraw train unet --data DIR --out texture-unet.safetensors --set t_max=500 --set widths=32,96,96 --set size=64
  python -m rapiddraw train distill --data DIR --steps 2000 --out small-unet.safetensors --set teacher=weights/orchard-unet.safetensors \\
      --set vae=weights/orchard-vae.safetensors --set text=weights/orchard-text.safetensors --set value=0.61
  python -m rapiddraw train control --data DIR-WITH-MAPS --out my-control.safetensors --set base=weights/my-unet.safetensors \\
      --set vae=weights/my-vae.safetensors --set text=weights/orchard-text.safetensors --set format=lowrank
  python -m rapiddraw train orchard --budget 15m         (every bundle of weights/, worse but whole, into runs/orchard/weights)
  python -m rapiddraw train orchard --only orchard-unet,orchard-vae --budget 3h
  python -m rapiddraw train domain --data my_pictures --out my-fruit --set checkpoint=my-checkpoint.safetensors   (a LoRA)
  python -m rapiddraw train slim --data my_pictures --out my-slim --set checkpoint=my-checkpoint.safetensors --set latency=0.6
  python -m rapiddraw train pair --data my_pictures --out my-pair --set checkpoint=my-checkpoint.safetensors      (two LoRAs)
  python -m rapiddraw train domain_control --data my_pictures --out my-control --set checkpoint=my-checkpoint.safetensors
  python -m rapiddraw train unet --settings              (what --set can change, with the defaults)
  accelerate launch -m rapiddraw train unet --data DIR --out weights/my-unet.safetensors

A run that was stopped goes on from its last checkpoint when the same command is given again, and ends with the same weights."""


def add_parser(subparsers: Any) -> None:
    from ..core.train import RECIPES

    parser = subparsers.add_parser(
        "train", help="train a part by its recipe", description="Train a part; write it as a bundle.",
        epilog=EXAMPLE, formatter_class=argparse.RawDescriptionHelpFormatter, add_help=False,
    )  # fmt: skip
    parser.add_argument("-h", "--help", action=_Help, nargs=0, help="show this; after the name of a recipe, the recipe's settings too")
    parser.add_argument(
        "recipe", choices=[*sorted(RECIPES), CHAIN, *ON_A_MODEL], help=f"what to train; {CHAIN} is every bundle of weights/ in order"
    )
    parser.add_argument("--data", default="", help="a dataset folder (see `data --help`); most recipes draw the Orchard without one")
    parser.add_argument("--steps", type=int, help="optimizer steps (the recipe has a default)")
    parser.add_argument("--out", type=Path, help="the bundle to write (default runs/RECIPE.safetensors)")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="change a setting of the recipe; may be repeated")
    parser.add_argument("--seed", type=int, help="seed of weights, data order and noise")
    train_options.add_arguments(parser)
    parser.add_argument("--device", help="cpu, cuda, ... (default: a GPU where there is one)")
    parser.add_argument("--settings", action="store_true", help="list the recipe's settings and stop")
    train_orchard.add_arguments(parser)


class _Help(argparse.Action):
    """Print the help of the command; for a recipe that is already named, its settings and an example instead of all examples."""

    def __call__(self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: Any, option_string: Any = None) -> None:
        recipe = getattr(namespace, "recipe", None)
        if recipe not in (None, CHAIN):
            parser.epilog = _about(recipe)
        parser.print_help()
        parser.exit()


def _about(recipe: str) -> str:
    """Return the settings of a recipe, each with its note, and an example."""
    if recipe in ON_A_MODEL:
        return ON_A_MODEL[recipe].about(recipe)
    from ..core.train.settings import example_of, settings_of

    lines = [f"settings of {recipe}, for --set NAME=VALUE:"]
    for one in settings_of(recipe):
        lines += [f"  {one.name}={one.default}", f"      {one.note}"]
    return "\n".join([*lines, "", "example:", *(f"  {line}" for line in example_of(recipe).splitlines())])


def run(args: argparse.Namespace) -> int:
    train_options.check_options(args, CHAIN)
    if args.recipe == CHAIN:
        return train_orchard.run(args)
    from ..core.errors import InputError
    from ..core.train import make_recipe
    from ..core.train.loop import train

    settings: dict[str, Any] = {}
    for entry in args.set:
        key, equals, value = entry.partition("=")
        if not equals:
            raise InputError(f"--set {entry!r}: expected KEY=VALUE, such as --set lr=0.001")
        settings[key.strip()] = value
    if args.data:
        settings["data"] = args.data
    if args.seed is not None:
        settings["seed"] = args.seed
    if args.recipe in ON_A_MODEL:
        return ON_A_MODEL[args.recipe].run(args, settings)
    recipe = make_recipe(args.recipe, settings)
    if args.settings:
        for field in fields(recipe):
            say(f"{field.name}={getattr(recipe, field.name)!r}")
        return 0
    train_options.check_evaluates(args, type(recipe))
    steps = recipe.default_steps if args.steps is None else args.steps
    out = args.out or Path("runs") / f"{args.recipe}.safetensors"
    run_dir = args.run or Path("runs") / out.stem
    if not args.fresh:
        _check_bases(recipe, run_dir, steps)
    result = train(
        recipe,
        out,
        steps,
        run_dir=run_dir,
        resume=not args.fresh,
        every=train_options.intervals(args),
        device=args.device,
    )
    if result.metrics:
        note(", ".join(f"{key} {value:.5g}" for key, value in result.metrics.items()))
    if result.plot:
        note(f"loss over time: {result.plot}")
    for path in result.files:
        say(str(path))
    return 0


def _check_bases(recipe: Recipe, run_dir: Path, steps: int) -> None:
    """Raise :class:`TrainingError`, before anything is loaded or encoded, where the run in `run_dir` has begun with other bundles."""
    from ..core.train.checkpoint import check_resumable

    recipe.check()
    recipe.check_files()
    check_resumable(run_dir, recipe, steps, frozenset(set(recipe.settings()) - set(recipe.bundles)))
