"""Picard iteration (ParaDiGMS): iterations, evaluations, distance to sampling step by step, and seconds, over windows and tolerances.

    python -m rapiddraw bench picard

The reference is Euler's method (DDIM) on uniform timesteps, one step after the other. On parallel hardware the iterations count, on a CPU
the evaluations: the seconds are those of the machine named below, and no check rests on them. Each picture is drawn by itself.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from . import common
from .checks import CHOSEN, EARLIER, Basis, Expectation, above, at_least, at_most

WINDOWS, TOLERANCES, STEPS = (8, 16, 32), (0.1, 0.01, 0.001), (50, 100)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `python -m rapiddraw bench picard`."""
    parser.add_argument("--count", type=int, default=6, help="pictures, drawn one by one (6)")
    parser.add_argument("--steps", type=int, nargs="+", default=list(STEPS), help="sampling steps (50 100)")
    parser.add_argument("--windows", type=int, nargs="+", default=list(WINDOWS), help="states refined at a time (8 16 32)")
    parser.add_argument("--tolerances", type=float, nargs="+", default=list(TOLERANCES), help="tolerances (0.1 0.01 0.001)")


def expectations(args: argparse.Namespace) -> dict[str, Expectation]:
    """Return the expectations by key."""
    basis, loose, tight = Basis(args.count), max(args.tolerances), min(args.tolerances)
    return {
        "gain": Expectation(f"times fewer iterations at {max(args.steps)} steps, tolerance {loose:g}", at_least(3), CHOSEN, basis),
        "distance": Expectation(f"largest distance of any row at tolerance {tight:g}", at_most(0.001), EARLIER, basis),
        "falls": Expectation(f"least fall of the distance from tolerance {loose:g} to {tight:g} in any row", above(0), CHOSEN, basis),
    }


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Measure and return the result (see :func:`common.result`)."""
    import numpy as np

    from ..core.diffusion.samplers import sample_euler, sample_picard
    from ..core.metrics.bootstrap import difference, largest, mean, smallest
    from ..core.metrics.sampling_runs import open_orchard, rms

    wanted, runs = expectations(args), open_orchard(args.count).runs
    singles = [runs.only(index) for index in range(args.count)]
    singles[0].draw(sample_euler, runs.sigmas("simple", 2))  # the first call allocates
    rows: list[dict[str, Any]] = []
    iterations: dict[tuple[int, int, float], Any] = {}
    distances: dict[tuple[int, int, float], Any] = {}
    for steps in args.steps:
        sigmas = runs.sigmas("simple", steps)
        plain = [one.draw(sample_euler, sigmas) for one in singles]
        base = {"steps": steps, "pictures": args.count}
        rows.append({**base, "window": 1, **_means(plain, steps), "distance": 0.0})
        for window in args.windows:
            for tolerance in args.tolerances:
                key, options = (steps, window, tolerance), {"window": window, "tolerance": tolerance}
                drawn = [one.draw(sample_picard, sigmas, options) for one in singles]
                apart = np.array([rms(one.latents, other.latents) for one, other in zip(drawn, plain, strict=True)])
                iterations[key], distances[key] = np.array([one.calls for one in drawn]), apart
                rows.append({**base, "window": window, "tolerance": tolerance, **_means(drawn, steps),
                             "distance": float(f"{apart.mean():.2e}")})  # fmt: skip
    loose, tight, longest = max(args.tolerances), min(args.tolerances), max(args.steps)
    fewest = min((iterations[longest, window, loose] for window in args.windows), key=lambda found: float(found.mean()))
    pairs = [(steps, window) for steps in args.steps for window in args.windows]
    checks = [
        wanted["gain"].judge(mean(longest / fewest)),
        wanted["distance"].judge(largest([mean(distances[(*pair, tight)]) for pair in pairs])),
        wanted["falls"].judge(smallest([difference(distances[(*pair, loose)], distances[(*pair, tight)]) for pair in pairs])),
    ]
    notes = (
        "Means over the pictures; seconds are those of one picture. Distance: RMS over unscaled latents. One iteration is one call of the "
        "model with the whole window as its batch."
    )
    return common.result("picard", "python -m rapiddraw bench picard", rows, checks, notes=notes)


def _means(drawn: list[Any], steps: int) -> dict[str, Any]:
    count = len(drawn)
    calls, evaluations = (sum(getattr(one, name) for one in drawn) / count for name in ("calls", "evaluations"))
    return {
        "iterations": round(calls, 1), "evaluations": round(evaluations, 1), "fewer iterations": round(steps / calls, 2),
        "seconds": round(sum(one.seconds for one in drawn) / count, 2),
    }  # fmt: skip


def plot(outcome: dict[str, Any], path: Path) -> None:
    """Draw iterations, evaluations and distance over the tolerance, a line a window and number of steps."""
    from .plots import Panel, line_plots

    lines: dict[str, dict[str, list[tuple[float, float]]]] = {"iterations": {}, "evaluations": {}, "distance": {}}
    for row in outcome["rows"]:
        if "tolerance" in row:
            for key, found in lines.items():
                found.setdefault(f"{row['steps']} steps, window {row['window']}", []).append((row["tolerance"], max(row[key], 1e-9)))
    titles = {"iterations": "iterations", "evaluations": "evaluations", "distance": "distance to sampling step by step (RMS)"}
    line_plots(
        path, [Panel("tolerance", titles[key], "log", "log" if key == "distance" else "linear", found) for key, found in lines.items()]
    )
