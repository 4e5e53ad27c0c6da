"""Samplers over evaluations: distance to the exact solution and attribute accuracy, for every sampler.

    python -m rapiddraw bench solvers

All draw the same prompts from the same noise, each on a schedule that suits it. The exact solution is Heun's method with many steps. The
stochastic samplers have no solution to be distant from: they have an attribute accuracy alone. A sampler takes as many steps as fit into
a budget of evaluations. F-PNDM spends 9 evaluations on its start, so it has no row below 13.

A picture on the verge between two outcomes can end far from the exact solution whatever the sampler, and one such picture makes the RMS
over all of them. So the median over the pictures stands beside it. The rows `without guidance` are the same sampling runs at scale 1.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from . import common
from .checks import CHOSEN, EARLIER, Basis, Expectation, at_most

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
    """Options of `python -m rapiddraw bench solvers`."""
    parser.add_argument("--count", type=int, default=12, help="pictures (12)")
    parser.add_argument("--exact-steps", type=int, default=150, help="steps of Heun's method that count as exact (150)")
    parser.add_argument("--budgets", type=int, nargs="+", default=list(BUDGETS), help="evaluations (5 8 10 15 20 30 50)")


def expectations(args: argparse.Namespace) -> dict[str, Expectation]:
    """Return the expectations by key."""
    basis = Basis(args.count)
    return {
        "plms": Expectation("distance of PLMS at 20 over DDIM at 50", at_most(1), CHOSEN, basis),
        "median": Expectation("the same, medians over the pictures", at_most(1), EARLIER, basis),
        "unguided": Expectation("the same without guidance", at_most(1), EARLIER, basis),
        "best": Expectation("distance of the closest sampler at 20 over DDIM at 50", at_most(1), EARLIER, basis),
    }


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Measure and return the result (see :func:`common.result`)."""
    from ..core.diffusion.samplers import SAMPLERS as FUNCTIONS
    from ..core.metrics.sampling_runs import open_orchard, square_by_picture

    wanted, orchard = expectations(args), open_orchard(args.count)
    exact = orchard.runs.draw(FUNCTIONS["heun"], orchard.runs.sigmas("karras", args.exact_steps))
    about = {"pictures": args.count}
    rows: list[dict[str, Any]] = [
        {"sampler": "exact (heun)", "schedule": "karras", "evaluations": exact.evaluations, **about, **_accuracy(orchard, exact.latents)}
    ]
    squares: dict[tuple[str, int], Any] = {}
    for name, (schedule, steps_of) in SAMPLERS.items():
        for budget in args.budgets:
            steps = steps_of(budget)
            if steps < 1:
                continue
            drawn = orchard.runs.draw(FUNCTIONS[name], orchard.runs.sigmas(schedule, steps))
            row: dict[str, Any] = {
                "sampler": name, "schedule": schedule, "budget": budget, "evaluations": drawn.evaluations, "steps": steps,
            }  # fmt: skip
            if name not in STOCHASTIC:
                squares[name, budget] = square_by_picture(drawn.latents, exact.latents)
                row |= _distances(squares[name, budget])
            seconds = round(drawn.seconds / args.count, 3)
            rows.append({**row, **about, **_accuracy(orchard, drawn.latents), "seconds a picture": seconds})
    found, more = unguided(orchard.runs, args.exact_steps, args.budgets)
    rows += [{**row, **about} for row in more]
    checks = _checks(wanted, squares | found) if {("plms", 20), ("ddim", 50)} <= squares.keys() else []
    notes = "Distance: RMS over unscaled latents. Attribute accuracy (AA) as in `orchard`. " + why_plms(orchard.runs)
    return common.result("solvers", "python -m rapiddraw bench solvers", rows, checks, notes=notes)


def _checks(wanted: dict[str, Expectation], squares: dict[tuple[str, int], Any]) -> list[dict[str, Any]]:
    import numpy as np

    from ..core.metrics.bootstrap import bootstrap
    from .history import root_ratio

    plms, ddim = squares["plms", 20], squares["ddim", 50]
    best = min((float(square.mean()), name) for (name, budget), square in squares.items() if budget == 20 and name in SAMPLERS)[1]
    medians = bootstrap(lambda drawn: float((np.median(plms[drawn]) / np.median(ddim[drawn])) ** 0.5), len(plms))
    return [
        wanted["plms"].judge(root_ratio(plms, ddim)),
        wanted["median"].judge(medians),
        wanted["unguided"].judge(root_ratio(squares["plms without guidance", 20], squares["ddim without guidance", 50])),
        wanted["best"].judge(root_ratio(squares[best, 20], ddim), f"distance of the closest sampler at 20 ({best}) over DDIM at 50"),
    ]


def _accuracy(orchard: Any, latents: Any) -> dict[str, float]:
    return {"AA": round(float(orchard.accuracy(latents).mean()), 3)}


def _distances(squares: Any) -> dict[str, float]:
    """Return RMS and median distance of the pictures' square distances (N,)."""
    import numpy as np

    return {"distance": round(float(squares.mean() ** 0.5), 5), "median distance": round(float(np.median(squares) ** 0.5), 5)}


def unguided(runs: Any, exact_steps: int, budgets: list[int]) -> tuple[dict[tuple[str, int], Any], list[dict[str, Any]]]:
    """Return (square distances of the pictures by sampler and budget, rows) of DDIM and PLMS at guidance scale 1."""
    from ..core.diffusion.samplers import SAMPLERS as FUNCTIONS
    from ..core.metrics.sampling_runs import square_by_picture

    chosen = [(name, budget) for name, budget in UNGUIDED if budget in budgets]
    if not chosen:
        return {}, []
    runs = runs.using(cfg=1.0)
    exact = runs.draw(FUNCTIONS["heun"], runs.sigmas("karras", exact_steps)).latents
    rows: list[dict[str, Any]] = []
    squares = {}
    for name, budget in chosen:
        schedule, steps_of = SAMPLERS[name]
        drawn = runs.draw(FUNCTIONS[name], runs.sigmas(schedule, steps_of(budget)))
        title = f"{name} without guidance"
        squares[title, budget] = square_by_picture(drawn.latents, exact)
        row = {"sampler": title, "schedule": schedule, "budget": budget, "evaluations": drawn.evaluations}
        rows.append({**row, **_distances(squares[title, budget]), "steps": steps_of(budget)})
    return squares, rows


def growth(order: int, ratio: float, stiffness: float) -> float:
    """Return by what Adams-Bashforth multiplies an error in a step, relative to the solution of dx/dsigma = stiffness * x / sigma.

    `ratio` < 1 is one noise level over the one before. Above a factor of 1 the method is unstable: each error grows from step to step.
    The stiffness is 1 where data is much narrower than sigma. Guidance by a scale w multiplies the difference of two predictions, and so
    of their derivatives, by w.
    """
    import numpy

    from ..core.diffusion.samplers.pndm import ADAMS_BASHFORTH

    weights = ADAMS_BASHFORTH[order]
    polynomial = numpy.zeros(len(weights) + 1)
    polynomial[:2] = 1.0, -1.0
    for back, weight in enumerate(weights):  # x[n+1] = x[n] + (sigma[n+1] - sigma[n]) * stiffness * sum of weight * x[n-k] / sigma[n-k]
        polynomial[1 + back] -= (ratio - 1) * stiffness * weight * ratio**back
    return float(abs(numpy.roots(polynomial)).max() / ratio**stiffness)


def why_plms(runs: Any) -> str:
    """Return in words what few steps do to PLMS: the largest growth of an error at the ten highest noise levels of each schedule."""
    found = []
    for steps in STEPS:
        sigmas = runs.sigmas("normal", steps)[:11]
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
    """Draw distance and attribute accuracy over evaluations, a line a sampler."""
    from .plots import Panel, line_plots

    rows = [row for row in outcome["rows"] if row.get("sampler") in SAMPLERS]
    names = list(dict.fromkeys(row["sampler"] for row in rows))
    panels = []
    for title, key, scale in (("distance to the exact solution (RMS)", "distance", "log"), ("attribute accuracy", "AA", "linear")):
        lines = {n: [(r["evaluations"], r[key]) for r in rows if r["sampler"] == n and key in r] for n in names}
        panels.append(Panel("evaluations", title, "log", scale, {n: line for n, line in lines.items() if line}))
    line_plots(path, panels)
