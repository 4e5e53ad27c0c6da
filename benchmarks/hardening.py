"""Hostile inputs at every door of the pack: how many were tried, refused and accepted, the slowest one, and how many were lost.

    python -m rapiddraw bench hardening

Doors are the places that files, graphs, names and commands come through. Their inputs are good ones mutated by seed, and some made by hand.
An input is refused where RapidDraw's own error says why, accepted where it is read, and lost where anything else happens: another
exception, more than `--limit` seconds of the processor, or more memory than the process had and 6 GB. Seconds are the processor's, which
other work on the machine changes least. Lost inputs are listed in the result with the number
that makes them again: `--only "pth files" --first 812 --count 1`. No network, and nothing outside a temporary folder, is touched.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import random
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from . import common
from .checks import CHOSEN, Expectation, at_least, at_most, equal, exact
from .doors import Door

COUNT, LIMIT, MEMORY, LISTED = 22_000, 5.0, 6 * 2**30, 60


class _TooLong(BaseException):
    """Raised by the alarm; no `except Exception` of a library stops it."""


@dataclass
class Tally:
    """What happened at one door. `lost` has (number, input, error, where) of each that was lost."""

    door: str
    tried: int = 0
    refused: int = 0
    accepted: int = 0
    seconds: float = 0.0
    worst: float = 0.0
    slowest: str = ""
    lost: list[tuple[int, str, str, str]] = field(default_factory=list)

    def row(self) -> dict[str, Any]:
        """Return the cells of the table."""
        return {
            "door": self.door, "inputs tried": self.tried, "refused": self.refused, "accepted": self.accepted,
            "worst ms": round(self.worst * 1000, 1), "slowest": self.slowest[:60], "seconds": round(self.seconds, 1),
            "lost": len(self.lost),
        }  # fmt: skip


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `python -m rapiddraw bench hardening`."""
    parser.add_argument("--count", type=int, default=COUNT, help=f"inputs, shared among the doors ({COUNT})")
    parser.add_argument("--seed", type=int, default=0, help="seed of the mutations (0)")
    parser.add_argument("--first", type=int, default=0, help="number of the first input of each door (0)")
    parser.add_argument("--limit", type=float, default=LIMIT, help=f"seconds that one input may take ({LIMIT:g})")
    parser.add_argument("--only", metavar="NAMES", help="doors, with commas between them (default: all)")


def expectations(args: argparse.Namespace) -> dict[str, Expectation]:
    """Return the expectations by key."""
    basis = exact(args.count, "inputs")
    return {
        "lost": Expectation("inputs lost", equal(0), CHOSEN, basis),
        "tried": Expectation("inputs tried", at_least(20_000), CHOSEN, basis),
        "seconds": Expectation("seconds of one core in all", at_most(600), CHOSEN, exact(1, "runs")),
    }


def doors() -> dict[str, type[Door]]:
    """Return the doors by name."""
    from . import doors_data, doors_files, doors_graphs

    found = [*doors_files.DOORS, *doors_graphs.DOORS, *doors_data.DOORS]
    return {door.name: door for door in found}


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Try every door and return the result (see :func:`common.result`)."""
    from .doors_graphs import Commands

    wanted, known = expectations(args), doors()
    chosen = {name: known[name] for name in common.chosen_names(args.only, list(known), "door")}
    Commands.main = staticmethod(args.command_line)
    started = time.process_time()
    with tempfile.TemporaryDirectory(prefix="rapiddraw-hardening-") as folder, _own_world(Path(folder)):
        shares = sum(door.share for door in chosen.values())
        tallies = [try_door(door(Path(folder)), max(1, round(args.count * door.share / shares)), args) for door in chosen.values()]
    seconds = time.process_time() - started
    tried, lost = sum(tally.tried for tally in tallies), [(tally.door, *one) for tally in tallies for one in tally.lost]
    checks = [wanted["lost"].judge(len(lost)), wanted["tried"].judge(tried), wanted["seconds"].judge(round(seconds, 1))]
    kinds = Counter((door, error, where) for door, _, _, error, where in lost)
    examples = {(door, error, where): (number, label) for door, number, label, error, where in reversed(lost)}
    listed = [
        {"door": kind[0], "times": times, "error": kind[1], "where": kind[2], "number": examples[kind][0], "input": examples[kind][1]}
        for kind, times in kinds.most_common(LISTED)
    ]
    notes = (
        f"Seed {args.seed}. An input is lost where it raises anything but RapidDraw's own errors, takes more than {args.limit:g} s, or "
        f"wants more than {MEMORY // 2**30} GB. A graph with problems counts as refused, and so does a command with an exit code above 0."
    )
    rows = [tally.row() for tally in tallies]
    return common.result("hardening", "python -m rapiddraw bench hardening", rows, checks, lost=listed, notes=notes)


def try_door(door: Door, count: int, args: argparse.Namespace) -> Tally:
    """Try `count` inputs of a door, from number `args.first` on."""
    tally = Tally(door.name)
    for number in range(args.first, args.first + count):
        label, call = door.attempt(number, random.Random(f"{args.seed}/{door.name}/{number}"))
        outcome, seconds = _tried(call, args.limit)
        tally.tried += 1
        tally.seconds += seconds
        if seconds > tally.worst:
            tally.worst, tally.slowest = seconds, label
        if outcome is None:
            tally.accepted += 1
        elif outcome == ("", ""):
            tally.refused += 1
        else:
            tally.lost.append((number, label, *outcome))
    return tally


def _tried(call: Callable[[], Any], limit: float) -> tuple[tuple[str, str] | None, float]:
    """Return (None for accepted, two empty texts for refused, else error and place; seconds of the processor)."""
    from ..core.errors import RapidDrawError

    started = time.process_time()
    found: tuple[str, str] | None = None
    try:
        with _alarm(limit):
            call()
    except RapidDrawError:
        found = "", ""
    except _TooLong as error:
        found = f"more than {limit:g} s", _place(error)
    except (KeyboardInterrupt, GeneratorExit):
        raise
    except BaseException as error:
        found = f"{type(error).__name__}: {ascii(str(error))[1:-1]}"[:160], _place(error)
    return found, time.process_time() - started


def _place(error: BaseException) -> str:
    """Return the last line of the pack that an exception went through, such as `core/graph/convert.py:84`."""
    from ..core.paths import pack_root

    root = os.path.realpath(pack_root())
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if os.path.realpath(frame.filename).startswith(root)]
    inside = [frame for frame in frames if "/benchmarks/" not in frame.filename]
    return f"{os.path.relpath(os.path.realpath(inside[-1].filename), root)}:{inside[-1].lineno}" if inside else "benchmarks"


@contextlib.contextmanager
def _alarm(limit: float) -> Iterator[None]:
    """Raise :class:`_TooLong` after `limit` seconds of the processor, or twelve times as long by the wall's clock, where the system can."""

    def late(*_: Any) -> None:
        raise _TooLong

    if not hasattr(signal, "setitimer"):
        yield
        return
    alarms = {signal.ITIMER_PROF: (signal.SIGPROF, limit), signal.ITIMER_REAL: (signal.SIGALRM, 12 * limit)}
    before = {number: signal.signal(number, late) for number, _ in alarms.values()}
    for timer, (_, seconds) in alarms.items():
        signal.setitimer(timer, seconds)
    try:
        yield
    finally:
        for timer in alarms:
            signal.setitimer(timer, 0)
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def _own_world(folder: Path) -> Iterator[None]:
    """Give the pack folders of its own, a cap on memory, and silence; take it all back afterwards."""
    from ..core import paths

    dirs, cwd, weights = (paths.input_dir(), paths.output_dir(), paths.temp_dir()), Path.cwd(), os.environ.get("RAPIDDRAW_WEIGHTS")
    own = [folder / name for name in ("input", "output", "temp", "bundle-headers", "a/b/c/d")]
    for one in own:
        one.mkdir(parents=True, exist_ok=True)
    log = logging.getLogger("rapiddraw")
    level = log.level
    try:
        paths.set_dirs(*own[:3])
        os.environ["RAPIDDRAW_WEIGHTS"] = str(own[3])  # menus list what lies at the door of the bundles
        os.chdir(own[4])
        log.setLevel(logging.CRITICAL)
        with warnings.catch_warnings(), _memory(MEMORY):
            warnings.simplefilter("ignore")
            yield
    finally:
        log.setLevel(level)
        os.chdir(cwd)
        paths.set_dirs(*dirs)
        os.environ.pop("RAPIDDRAW_WEIGHTS", None)
        if weights is not None:
            os.environ["RAPIDDRAW_WEIGHTS"] = weights


@contextlib.contextmanager
def _memory(more: int) -> Iterator[None]:
    """Cap the address space at what the process has now and `more` bytes (Linux; elsewhere there is no cap)."""
    if not sys.platform.startswith("linux"):
        yield
        return
    import resource

    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + more, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
