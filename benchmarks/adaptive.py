"""Adaptive SDE solver against Euler-Maruyama with 1000 steps: evaluations, quality, and distance along the same Brownian path.

    python -m rapiddraw bench adaptive

Both start from the same noise and follow the same Brownian path, so that a solver without error would draw the same picture. `ode` rows
solve the probability-flow equation instead; their distance is to that equation's own solution (Heun's method, 150 steps). Each picture is
drawn by itself, from noise of its own. The reference takes 1000 evaluations a picture, so there are few pictures: about 6 minutes on one
core.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from . import common
from .checks import EARLIER, Basis, Expectation, above, at_least, at_most

RTOLS = (0.01, 0.02, 0.05, 0.1)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `python -m rapiddraw bench adaptive`."""
    parser.add_argument("--count", type=int, default=6, help="pictures (6)")
    parser.add_argument("--steps", type=int, default=1000, help="steps of Euler-Maruyama (1000)")
    parser.add_argument("--rtols", type=float, nargs="+", default=list(RTOLS), help="tolerances (0.01 0.02 0.05 0.1)")


def _middle(args: argparse.Namespace) -> float:
    return 0.05 if 0.05 in args.rtols else args.rtols[0]


def expectations(args: argparse.Namespace) -> dict[str, Expectation]:
    """Return the expectations by key."""
    basis, rtol = Basis(args.count), f"{_middle(args):g}"
    ends = f"rtol {max(args.rtols):g} less that at {min(args.rtols):g}"
    return {
        "gain": Expectation(f"times fewer evaluations than Euler-Maruyama at rtol {rtol}", at_least(3), EARLIER, basis),
        "loss": Expectation(f"attribute accuracy lost against Euler-Maruyama at rtol {rtol}", at_most(0.05), EARLIER, basis),
        "falls": Expectation(f"distance at {ends}", above(0), EARLIER, basis),
    }


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Measure and return the result (see :func:`common.result`)."""
    import numpy as np

    from ..core.diffusion.samplers import sample_adaptive_sde, sample_heun
    from ..core.metrics.bootstrap import difference, mean
    from ..core.metrics.sampling_runs import open_orchard

    wanted, orchard = expectations(args), open_orchard(args.count)
    singles = [orchard.runs.only(index) for index in range(args.count)]
    sigmas = orchard.runs.sigmas("normal", args.steps)
    heun_sigmas = orchard.runs.sigmas("karras", max(2, min(150, args.steps)))
    fine = _Drawn(orchard, [one.draw(euler_maruyama, sigmas) for one in singles])
    exact = _Drawn(orchard, [one.draw(sample_heun, heun_sigmas) for one in singles])
    rows = [_row(f"Euler-Maruyama, {args.steps} steps", fine), _row("ode: Heun", exact)]
    found: dict[tuple[bool, float], _Drawn] = {}
    for flow, against in ((False, fine), (True, exact)):
        for rtol in args.rtols:
            options = {"rtol": rtol, "probability_flow": flow, "max_nfe": 20_000}
            found[flow, rtol] = drawn = _Drawn(orchard, [one.draw(sample_adaptive_sde, sigmas, options) for one in singles])
            row = _row(("ode: " if flow else "") + f"adaptive, rtol {rtol:g}", drawn)
            rows.append(row | {"distance": round(float((drawn.distances(against) ** 2).mean() ** 0.5), 5)})
    middle = found[False, _middle(args)]
    distances = [found[False, rtol].distances(fine) for rtol in (max(args.rtols), min(args.rtols))]
    checks = [
        wanted["gain"].judge(mean(np.array(fine.evaluations) / np.array(middle.evaluations))),
        wanted["loss"].judge(difference(fine.accuracy, middle.accuracy)),
        wanted["falls"].judge(difference(*distances)),
    ]
    notes = "Evaluations are means over the pictures. Distance: RMS over unscaled latents."
    return common.result("adaptive", "python -m rapiddraw bench adaptive", rows, checks, notes=notes)


class _Drawn:
    """Sampling runs of every picture by itself."""

    def __init__(self, orchard: Any, runs: list[Any]) -> None:
        import torch

        self.latents = torch.cat([one.latents for one in runs])
        self.evaluations, self.seconds = [one.evaluations for one in runs], sum(one.seconds for one in runs)
        self.accuracy = orchard.accuracy(self.latents)

    def distances(self, other: _Drawn) -> Any:
        """Return each picture's RMS distance (N,)."""
        from ..core.metrics.sampling_runs import square_by_picture

        return square_by_picture(self.latents, other.latents) ** 0.5


def euler_maruyama(model: Any, x: Any, sigmas: Any, extra_args: Any = None, callback: Any = None, disable: Any = None) -> Any:
    """Run plain Euler-Maruyama on the reverse SDE, along the Brownian path that the adaptive solver of the same seed follows."""
    import torch

    from ..core.diffusion.samplers.common import BoundModel, brownian_noise, slope

    denoise = BoundModel(model, extra_args)
    ends = torch.stack([sigmas[0], sigmas[-2]]) ** 2
    noise = brownian_noise(x, ends, denoise.extra_args.get("seed"))
    for sigma, sigma_next in zip(sigmas[:-2], sigmas[1:-1], strict=True):
        drift = 2 * (sigma_next - sigma) * slope(x, sigma, denoise(x, sigma))
        x = x + drift + noise(sigma**2, sigma_next**2) * (sigma**2 - sigma_next**2).sqrt()
    return denoise(x, sigmas[-2])


def _row(name: str, drawn: _Drawn) -> dict[str, Any]:
    count = len(drawn.evaluations)
    return {
        "solver": name, "pictures": count, "evaluations": round(sum(drawn.evaluations) / count, 1),
        "seconds a picture": round(drawn.seconds / count, 2), "AA": round(float(drawn.accuracy.mean()), 3),
    }  # fmt: skip


def plot(outcome: dict[str, Any], path: Path) -> None:
    """Draw distance and attribute accuracy over evaluations for the SDE and the ODE."""
    from .plots import Panel, line_plots

    panels = []
    for title, key, scale in (("distance (RMS)", "distance", "log"), ("attribute accuracy", "AA", "linear")):
        lines: dict[str, list[tuple[float, float]]] = {}
        for row in outcome["rows"]:
            if key in row:
                start = row["solver"].split(" ")[0].split("-")[0]
                kind = {"Euler": "Euler-Maruyama", "ode:": "ODE"}.get(start, "adaptive SDE")
                lines.setdefault(kind, []).append((row["evaluations"], row[key]))
        panels.append(Panel("evaluations", title, "log", scale, {name: sorted(line) for name, line in lines.items()}))
    line_plots(path, panels)
