"""`train orchard`: the whole chain of trainings behind `weights/`, as one command."""

from __future__ import annotations

import argparse
import re
import shlex
import sys
from pathlib import Path
from typing import Any

from .common import note, say

PICTURES_A_MINUTE = 100
"""Of a budget, where a CPU trains: drawing pictures and encoding them takes about a tenth of the time then."""
LEAST_PICTURES = 200
_UNITS = {"": 1.0, "s": 1.0, "m": 60.0, "h": 3600.0}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the chain, beside those that it shares with a single recipe (`--out`, `--run`, `--data`, `--device`)."""
    chain = parser.add_argument_group("train orchard", "train every bundle of weights/ in order; finished stages are skipped")
    chain.add_argument("--only", metavar="NAME,NAME", default="", help="these bundles and what they need (default all)")
    chain.add_argument("--budget", metavar="TIME", help="scale the steps to this time, such as 10m or 3h (default: all steps)")
    chain.add_argument(
        "--pictures", type=int, metavar="N",
        help=f"at most so many pictures a dataset (default all; {PICTURES_A_MINUTE} a minute of a budget where a CPU trains)",
    )  # fmt: skip
    chain.add_argument(
        "--chain", choices=("orchard", "further"), default="orchard",
        help="orchard: everything from nothing; further: train the files in weights/ further, as a GPU does in minutes (default orchard)",
    )  # fmt: skip
    chain.add_argument("--jobs", type=int, metavar="N", default=1, help="stages trained at the same time; many on a GPU (default 1)")
    chain.add_argument("--plan", action="store_true", help="list the stages and stop")


def run(args: argparse.Namespace) -> int:
    from ..core.checks import whole_number
    from ..core.train.chain.report import write_report
    from ..core.train.chain.run import Places, run_chain
    from ..core.train.chain.stages import CHAINS, read_chain

    budget = None if args.budget is None else seconds_of(args.budget)
    whole_number("--jobs", args.jobs, 1, 64)
    chain = read_chain(CHAINS[args.chain]).with_pictures(_most_pictures(args.pictures, budget, args.device))
    only = [name.strip() for name in args.only.split(",") if name.strip()]
    if args.plan:
        for stage in chain.needed_for(only):
            say(f"{stage.name}: {stage.recipe}, {stage.steps} steps" + (f", from {', '.join(stage.needs())}" if stage.files else ""))
        return 0
    runs = args.run or Path("runs") / "orchard"
    out = args.out or runs / "weights"
    done = run_chain(chain, Places(out, runs, Path(args.data) if args.data else runs / "data"), only, budget, args.device, args.jobs)
    words = ["train", "orchard", *(f"--{key}={value}" for key, value in _given(args) if value)]
    note(f"report: {write_report(runs / 'report.md', done, 'python -m rapiddraw ' + shlex.join(words))}")
    for one in done:
        say(f"{one.stage}: {one.what}, {one.steps} steps, {one.seconds:.0f} s")
    return 0


def _given(args: argparse.Namespace) -> list[tuple[str, Any]]:
    return [(key, getattr(args, key)) for key in ("chain", "only", "budget", "jobs", "pictures", "device")]


def _most_pictures(given: int | None, budget: float | None, device: str | None) -> int:
    """Return how many pictures a dataset has at most. Raises :class:`InputError` for a number that trains nothing."""
    from ..core.errors import InputError
    from ..core.train.processes import join_processes

    if given is not None:
        if given < LEAST_PICTURES:
            raise InputError(f"--pictures {given}: expected at least {LEAST_PICTURES}, of which every recipe can make its batches")
        return given
    if budget is None or join_processes(device).device.type != "cpu":
        return sys.maxsize
    return max(LEAST_PICTURES, int(budget / 60 * PICTURES_A_MINUTE))


def seconds_of(text: str) -> float:
    """Return the seconds of a time such as `90`, `90s`, `10m` or `1.5h`. Raises :class:`InputError` for anything else."""
    from ..core.errors import InputError

    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smh]?)", text.strip())
    if not match or not float(match[1]):
        raise InputError(f"--budget {text!r}: expected a time above 0, such as 90s, 10m or 3h")
    return float(match[1]) * _UNITS[match[2]]
