"""How few evaluations does each sampler need? Distance to the exact solution, AA and FID-A over evaluations, for every sampler.

All draw the same prompts from the same noise, each on a schedule that suits it. The exact solution is Heun's method with many steps. The
stochastic samplers have no solution to be distant from: they have AA and FID-A alone. With a budget a sampler takes as many steps as
fit, so F-PNDM, which spends 9 evaluations on its start, has no row below 13.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from . import common

BUDGETS = (5, 8, 10, 15, 20, 30, 50)
# Sampler -> (schedule, steps that fit into a budget of evaluations).
SAMPLERS: dict[str, tuple[str, Any]] = {
    "ddim": ("normal", lambda budget: budget),
    "euler": ("karras", lambda budget: budget),
    "heun": ("karras", lambda budget: (budget + 1) // 2),
    "dpmpp_2m": ("karras", lambda budget: budget),
    "dpm_solver_2s": ("karras", lambda budget: budget),
    "dpm_solver_3s": ("karras", lambda budget: budget),
    "dpm_solver_3m": ("karras", lambda budget: budget),
    "plms": ("normal", lambda budget: budget - 1),
    "s_pndm": ("normal", lambda budget: budget - 1),
    "f_pndm": ("normal", lambda budget: budget - 9 if budget >= 13 else 0),  # fewer than 4 steps would all be starting steps
    "euler_ancestral": ("karras", lambda budget: budget),
    "dpmpp_2m_sde": ("karras", lambda budget: budget),
}
STOCHASTIC = ("euler_ancestral", "dpmpp_2m_sde")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--count", type=int, default=12, help="pictures (12)")
    parser.add_argument("--exact-steps", type=int, default=150, help="steps of Heun's method that count as exact (150)")
    parser.add_argument("--budgets", type=int, nargs="+", default=list(BUDGETS), help="evaluations (5 8 10 15 20 30 50)")


def run(args: argparse.Namespace) -> dict[str, Any]:
    from ..core.diffusion.samplers import SAMPLERS as FUNCTIONS
    from ..core.metrics.walks import open_orchard, rms

    orchard = open_orchard(args.count)
    exact = orchard.walks.draw(FUNCTIONS["heun"], orchard.walks.sigmas("karras", args.exact_steps))
    quality = orchard.quality(exact.latents)
    settings = {"pictures": args.count}
    rows: list[dict[str, Any]] = [
        {"sampler": "exact (heun)", "schedule": "karras", "evaluations": exact.evaluations, **settings, **quality}
    ]
    distance: dict[tuple[str, int], float] = {}
    for name, (schedule, steps_of) in SAMPLERS.items():
        for budget in args.budgets:
            steps = steps_of(budget)
            if steps < 1:
                continue
            walk = orchard.walks.draw(FUNCTIONS[name], orchard.walks.sigmas(schedule, steps))
            row: dict[str, Any] = {"sampler": name, "schedule": schedule, "budget": budget, "evaluations": walk.evaluations, "steps": steps}
            if name not in STOCHASTIC:
                distance[name, budget] = row["distance"] = round(rms(walk.latents, exact.latents), 5)
            seconds = round(walk.seconds / args.count, 3)
            rows.append({**row, **settings, **orchard.quality(walk.latents), "seconds a picture": seconds})
    checks = []
    if {("plms", 20), ("ddim", 50)} <= distance.keys():
        ratio = distance["plms", 20] / distance["ddim", 50]
        checks.append(common.check("distance of PLMS at 20 over DDIM at 50", round(ratio, 3), "at most 1", ratio <= 1))
        best = min((value, name) for (name, budget), value in distance.items() if budget == 20)
        claim = f"distance of the closest sampler at 20 ({best[1]}) over DDIM at 50"
        checks.append(common.check(claim, round(best[0] / distance["ddim", 50], 3), "at most 1", best[0] <= distance["ddim", 50]))
    notes = (
        "Distance: RMS over unscaled latents. AA and FID-A as in `orchard`, against renders of the same scenes; FID-A is comparable at "
        "equal numbers of pictures only, and with few of them it is coarse."
    )
    return common.result("solvers", "python -m rapiddraw bench solvers", rows, checks, notes=notes)


def plot(outcome: dict[str, Any], path: Path) -> None:
    """Distance and AA over evaluations, a line a sampler."""
    from ..core.metrics.walks import line_plots

    rows = [row for row in outcome["rows"] if "budget" in row]
    names = list(dict.fromkeys(row["sampler"] for row in rows))
    panels = []
    for title, key, scale in (("distance to the exact solution (RMS)", "distance", "log"), ("AA", "AA", "linear")):
        lines = {n: [(r["evaluations"], r[key]) for r in rows if r["sampler"] == n and key in r] for n in names}
        panels.append(("evaluations", title, "log", scale, {n: line for n, line in lines.items() if line}))
    line_plots(path, panels)
