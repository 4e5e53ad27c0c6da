"""Options of `train` that say how a run goes: its length, its folder, and what is written on the way."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..core.operations.distill import Run
    from ..core.train.loop import Intervals
    from ..core.train.recipe import Recipe

SAVE_EVERY, LOG_EVERY = 500, 20
STEPS_ON_A_MODEL = 1000
OF_A_TRAINING = ("steps", "set", "seed", "fresh", "save_every", "log_every", "eval_every", "settings")
OF_THE_CHAIN = ("only", "budget", "pictures", "plan")
"""Options that mean nothing to the chain, and options that mean nothing to a single training."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options. Trainings on a user's own model have other defaults, which the help tells."""
    parser.add_argument(
        "--run", type=Path, metavar="DIR",
        help="folder of checkpoints, log and plot (default runs/NAME-OF-OUT; on your own model NAME-OF-OUT-run in the output folder)",
    )  # fmt: skip
    parser.add_argument("--fresh", action="store_true", help="start over instead of going on from the last checkpoint")
    parser.add_argument("--save-every", type=int, metavar="N", help=f"steps between checkpoints (default {SAVE_EVERY})")
    parser.add_argument(
        "--log-every", type=int, metavar="N",
        help=f"steps between lines of the log (default {LOG_EVERY}; on your own model 50 lines in a run)",
    )  # fmt: skip
    parser.add_argument(
        "--eval-every", type=int, metavar="N",
        help="steps between evaluations, 0 for none (default none; on your own model, with samples, 4 in a run)",
    )  # fmt: skip


def check_options(args: argparse.Namespace, chain: str) -> None:
    """Raise :class:`InputError` for an option that the chosen training would not heed; `chain` is the recipe that is no single training."""
    from ..core.errors import InputError

    is_chain = args.recipe == chain
    for name in OF_A_TRAINING if is_chain else OF_THE_CHAIN:
        value = getattr(args, name)
        if value is None or value is False or value in ("", []):
            continue
        why = "its stages have settings of their own" if is_chain else f"it is for train {chain}"
        raise InputError(f"--{name.replace('_', '-')} has no meaning for train {args.recipe}: {why}; leave it out")


def check_evaluates(args: argparse.Namespace, recipe: type[Recipe]) -> None:
    """Raise :class:`InputError` where evaluations are wanted of a recipe that has none."""
    from ..core.errors import InputError
    from ..core.train.recipe import Recipe

    if args.eval_every and recipe.evaluate is Recipe.evaluate:
        raise InputError(f"--eval-every has no meaning for train {args.recipe}: it measures and draws nothing on the way; leave it out")


def intervals(args: argparse.Namespace) -> Intervals:
    """Return the intervals of a recipe's run."""
    from ..core.train.loop import Intervals

    save = SAVE_EVERY if args.save_every is None else args.save_every
    return Intervals(save, LOG_EVERY if args.log_every is None else args.log_every, args.eval_every or 0)


def run_on_a_model(args: argparse.Namespace) -> Run:
    """Return the length, the intervals and the folder of a training on a user's own model."""
    from ..core.operations.distill import Run

    steps = STEPS_ON_A_MODEL if args.steps is None else args.steps
    save = SAVE_EVERY if args.save_every is None else args.save_every
    return Run(steps, save, not args.fresh, args.log_every, args.eval_every, args.run)
