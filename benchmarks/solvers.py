"""How few evaluations does each sampler need? Distance to the exact solution, AA and FID-A over evaluations, for every sampler.

All draw the same prompts from the same noise, each on a schedule that suits it. The exact solution is Heun's method with many steps. The
stochastic samplers have no solution to be distant from: they have AA and FID-A alone. With a budget a sampler takes as many steps as
fit, so F-PNDM, which spends 9 evaluations on its start, has no row below 13.

A picture on the verge between two outcomes can end far from the exact solution whatever the sampler, and one such picture makes the RMS
over all of them. So the median over the pictures stands beside it. The rows `without guidance` are the same walks at scale 1.
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
UNGUIDED = (("ddim", 50), ("plms", 20), ("plms", 30))
STEPS = (9, 14, 19, 29, 49)  # what PLMS takes of the budgets


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
    medians: dict[tuple[str, int], float] = {}
    for name, (schedule, steps_of) in SAMPLERS.items():
        for budget in args.budgets:
            steps = steps_of(budget)
            if steps < 1:
                continue
            walk = orchard.walks.draw(FUNCTIONS[name], orchard.walks.sigmas(schedule, steps))
            row: dict[str, Any] = {"sampler": name, "schedule": schedule, "budget": budget, "evaluations": walk.evaluations, "steps": steps}
            if name not in STOCHASTIC:
                distance[name, budget] = row["distance"] = round(rms(walk.latents, exact.latents), 5)
                medians[name, budget] = row["median distance"] = round(median_rms(walk.latents, exact.latents), 5)
            seconds = round(walk.seconds / args.count, 3)
            rows.append({**row, **settings, **orchard.quality(walk.latents), "seconds a picture": seconds})
    for row in unguided(orchard.walks, args.exact_steps, args.budgets):
        distance[row["sampler"], row["budget"]] = row["distance"]
        rows.append({**row, **settings})
    checks = []
    if {("plms", 20), ("ddim", 50)} <= distance.keys():
        ratio = distance["plms", 20] / distance["ddim", 50]
        checks.append(common.check("distance of PLMS at 20 over DDIM at 50", round(ratio, 3), "at most 1", ratio <= 1))
        ratio = medians["plms", 20] / medians["ddim", 50]
        checks.append(common.check("the same, medians over the pictures", round(ratio, 3), "at most 1", ratio <= 1))
        ratio = distance["plms without guidance", 20] / distance["ddim without guidance", 50]
        checks.append(common.check("the same without guidance", round(ratio, 3), "at most 1", ratio <= 1))
        best = min((value, name) for (name, budget), value in distance.items() if budget == 20 and name in SAMPLERS)
        claim = f"distance of the closest sampler at 20 ({best[1]}) over DDIM at 50"
        checks.append(common.check(claim, round(best[0] / distance["ddim", 50], 3), "at most 1", best[0] <= distance["ddim", 50]))
    notes = (
        "Distance: RMS over unscaled latents. AA and FID-A as in `orchard`, against renders of the same scenes; FID-A is comparable at "
        "equal numbers of pictures only, and with few of them it is coarse. "
    ) + why_plms(orchard.walks)
    return common.result("solvers", "python -m rapiddraw bench solvers", rows, checks, notes=notes)


def unguided(walks: Any, exact_steps: int, budgets: list[int]) -> list[dict[str, Any]]:
    """Distances of DDIM and PLMS at guidance scale 1, to the exact solution there."""
    from ..core.diffusion.samplers import SAMPLERS as FUNCTIONS
    from ..core.metrics.walks import rms

    wanted = [(name, budget) for name, budget in UNGUIDED if budget in budgets]
    if not wanted:
        return []
    walks = walks.using(cfg=1.0)
    exact = walks.draw(FUNCTIONS["heun"], walks.sigmas("karras", exact_steps)).latents
    rows = []
    for name, budget in wanted:
        schedule, steps_of = SAMPLERS[name]
        walk = walks.draw(FUNCTIONS[name], walks.sigmas(schedule, steps_of(budget)))
        row = {"sampler": f"{name} without guidance", "schedule": schedule, "budget": budget, "evaluations": walk.evaluations}
        row |= {"distance": round(rms(walk.latents, exact), 5), "median distance": round(median_rms(walk.latents, exact), 5)}
        rows.append(row | {"steps": steps_of(budget)})
    return rows


def median_rms(latents: Any, exact: Any) -> float:
    """The median over the pictures of each one's RMS distance."""
    return float((latents - exact).pow(2).flatten(1).mean(1).sqrt().median())


def growth(order: int, ratio: float, stiffness: float) -> float:
    """By how much Adams-Bashforth multiplies an error from step to step, relative to the solution, on dx/dsigma = stiffness * x / sigma.

    `ratio` < 1 is one noise level over the one before. Above 1 the method is unstable: every error made once grows from step to step. Where
    data is much narrower than sigma the stiffness is 1; guidance by a scale w multiplies the difference of two predictions, and so of their
    derivatives, by w.
    """
    import numpy

    from ..core.diffusion.samplers.pndm import ADAMS_BASHFORTH

    weights = ADAMS_BASHFORTH[order]
    polynomial = numpy.zeros(len(weights) + 1)
    polynomial[:2] = 1.0, -1.0
    for back, weight in enumerate(weights):  # x[n+1] = x[n] + (sigma[n+1] - sigma[n]) * stiffness * sum of weight * x[n-k] / sigma[n-k]
        polynomial[1 + back] -= (ratio - 1) * stiffness * weight * ratio**back
    return float(abs(numpy.roots(polynomial)).max() / ratio**stiffness)


def why_plms(walks: Any) -> str:
    """What few steps do to PLMS, in figures: the largest growth of an error at the ten highest noise levels of each walk."""
    found = []
    for steps in STEPS:
        sigmas = walks.sigmas("normal", steps)[:11]
        ratios = [float(b / a) for a, b in zip(sigmas[:-1], sigmas[1:], strict=True) if b > 0]
        fourth, second = (max(growth(order, ratio, 1.5) for ratio in ratios[:-1]) for order in (4, 2))
        found.append(f"{steps} steps {fourth:.2f} ({second:.2f})")
    return (
        "Why PLMS needs about 30 evaluations: its fourth-order formula is unstable on steps this long. Growth of an error per step on "
        "dx/dsigma = 1.5 x/sigma, fourth order and in brackets second order (S-PNDM), the worst of the ten highest noise levels: "
        + ", ".join(found)
        + ". On a smooth analytic denoiser PLMS has the order that the paper proves (tests/core/diffusion/test_samplers_accuracy.py)."
    )


def plot(outcome: dict[str, Any], path: Path) -> None:
    """Distance and AA over evaluations, a line a sampler."""
    from ..core.metrics.walks import line_plots

    rows = [row for row in outcome["rows"] if row.get("sampler") in SAMPLERS]
    names = list(dict.fromkeys(row["sampler"] for row in rows))
    panels = []
    for title, key, scale in (("distance to the exact solution (RMS)", "distance", "log"), ("AA", "AA", "linear")):
        lines = {n: [(r["evaluations"], r[key]) for r in rows if r["sampler"] == n and key in r] for n in names}
        panels.append(("evaluations", title, "log", scale, {n: line for n, line in lines.items() if line}))
    line_plots(path, panels)
