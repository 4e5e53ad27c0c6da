"""Picard iteration (ParaDiGMS): iterations, evaluations, distance to the step-by-step walk and seconds, over windows and tolerances.

The step-by-step walk is Euler's method (DDIM) on uniform timesteps. What counts on parallel hardware is iterations, what counts on a CPU
is evaluations: so the seconds are as they come out on the machine named below, and no check rests on them.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from . import common

WINDOWS, TOLERANCES, STEPS = (8, 16, 32), (0.1, 0.01, 0.001), (50, 100)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--count", type=int, default=1, help="pictures, drawn together (1)")
    parser.add_argument("--steps", type=int, nargs="+", default=list(STEPS), help="steps of the walk (50 100)")
    parser.add_argument("--windows", type=int, nargs="+", default=list(WINDOWS), help="states refined at a time (8 16 32)")
    parser.add_argument("--tolerances", type=float, nargs="+", default=list(TOLERANCES), help="tolerances (0.1 0.01 0.001)")


def run(args: argparse.Namespace) -> dict[str, Any]:
    from ..core.diffusion.samplers import sample_euler, sample_picard
    from ..core.metrics.walks import open_orchard, rms

    walks = open_orchard(args.count).walks
    walks.draw(sample_euler, walks.sigmas("simple", 2))  # the first call allocates
    rows: list[dict[str, Any]] = []
    fewest: dict[tuple[int, float], int] = {}
    distances: dict[tuple[int, int, float], float] = {}
    for steps in args.steps:
        sigmas = walks.sigmas("simple", steps)
        plain = walks.draw(sample_euler, sigmas)
        base = {"steps": steps, "pictures": args.count}
        rows.append({**base, "window": 1, "iterations": steps, "evaluations": plain.evaluations, "distance": 0.0,
                     "fewer iterations": 1.0, "seconds": round(plain.seconds, 2)})  # fmt: skip
        for window in args.windows:
            for tolerance in args.tolerances:
                walk = walks.draw(sample_picard, sigmas, {"window": window, "tolerance": tolerance})
                apart = rms(walk.latents, plain.latents)
                distances[steps, window, tolerance] = apart
                fewest[steps, tolerance] = min(walk.calls, fewest.get((steps, tolerance), walk.calls))
                rows.append({**base, "window": window, "tolerance": tolerance, "iterations": walk.calls, "evaluations": walk.evaluations,
                             "distance": float(f"{apart:.2e}"), "fewer iterations": round(steps / walk.calls, 2),
                             "seconds": round(walk.seconds, 2)})  # fmt: skip
    loose, tight, longest = max(args.tolerances), min(args.tolerances), max(args.steps)
    gain = longest / fewest[longest, loose]
    worst = max(distances[steps, window, tight] for steps in args.steps for window in args.windows)
    falls = all(
        distances[steps, window, small] <= distances[steps, window, large]
        for steps in args.steps
        for window in args.windows
        for large, small in zip(sorted(args.tolerances)[1:], sorted(args.tolerances), strict=False)
    )
    checks = [
        common.check(f"times fewer iterations at {longest} steps, tolerance {loose:g}", round(gain, 2), "at least 3", gain >= 3),
        common.check(f"largest distance at tolerance {tight:g}", float(f"{worst:.2e}"), "at most 0.001", worst <= 0.001),
        common.check("the distance falls with the tolerance in every row", float(falls), "1", falls),
    ]
    notes = "Distance: RMS over unscaled latents. One iteration is one call of the model with the whole window as its batch."
    return common.result("picard", "python -m rapiddraw bench picard", rows, checks, notes=notes)


def plot(outcome: dict[str, Any], path: Path) -> None:
    """Iterations and distance over the tolerance, a line a window and number of steps."""
    from ..core.metrics.walks import line_plots

    lines: dict[str, dict[str, list[tuple[float, float]]]] = {"iterations": {}, "evaluations": {}, "distance": {}}
    for row in outcome["rows"]:
        if "tolerance" in row:
            for key, found in lines.items():
                found.setdefault(f"{row['steps']} steps, window {row['window']}", []).append((row["tolerance"], max(row[key], 1e-9)))
    titles = {"iterations": "iterations", "evaluations": "evaluations", "distance": "distance to the step-by-step walk (RMS)"}
    line_plots(path, [("tolerance", titles[key], "log", "log" if key == "distance" else "linear", found) for key, found in lines.items()])
