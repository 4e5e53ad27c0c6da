"""The adaptive SDE solver against Euler-Maruyama with 1000 steps: evaluations, quality, and distance along the same Brownian path.

Both start from the same noise and follow the same path, so that a solver without error would draw the same picture. `ode` rows solve the
probability-flow equation instead; their distance is to that equation's own solution (Heun's method, 150 steps). All pictures of a row are
one batch. The reference alone takes 1000 evaluations a picture, so there are few pictures, and AA is coarse: about 6 minutes on one core.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from . import common

RTOLS = (0.01, 0.02, 0.05, 0.1)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--count", type=int, default=6, help="pictures (6)")
    parser.add_argument("--steps", type=int, default=1000, help="steps of Euler-Maruyama (1000)")
    parser.add_argument("--rtols", type=float, nargs="+", default=list(RTOLS), help="tolerances (0.01 0.02 0.05 0.1)")


def run(args: argparse.Namespace) -> dict[str, Any]:
    from ..core.diffusion.samplers import sample_adaptive_sde, sample_heun
    from ..core.metrics.walks import open_orchard, rms

    orchard = open_orchard(args.count)
    walks = orchard.walks
    sigmas = walks.sigmas("normal", args.steps)
    fine = walks.draw(euler_maruyama, sigmas)
    exact = walks.draw(sample_heun, walks.sigmas("karras", max(2, min(150, args.steps))))
    rows, found = [], {}
    for name, walk in ((f"Euler-Maruyama, {args.steps} steps", fine), ("ode: Heun", exact)):
        quality = orchard.quality(walk.latents)
        rows.append(_row(name, walk, args.count) | quality)
    best = rows[0]["AA"]
    for flow, against in ((False, fine), (True, exact)):
        for rtol in args.rtols:
            walk = walks.draw(sample_adaptive_sde, sigmas, {"rtol": rtol, "probability_flow": flow, "max_nfe": 20_000})
            row = _row(("ode: " if flow else "") + f"adaptive, rtol {rtol:g}", walk, args.count)
            row |= {"distance": round(rms(walk.latents, against.latents), 5), **orchard.quality(walk.latents)}
            rows.append(row)
            found[flow, rtol] = row
    middle = found[False, 0.05 if 0.05 in args.rtols else args.rtols[0]]
    gain = fine.evaluations / middle["evaluations"]
    loss = best - middle["AA"]
    apart = [found[False, rtol]["distance"] for rtol in sorted(args.rtols)]
    checks = [
        common.check("times fewer evaluations than Euler-Maruyama at rtol 0.05", round(gain, 2), "at least 3", gain >= 3),
        common.check("AA that is lost against Euler-Maruyama at rtol 0.05", round(loss, 3), "at most 0.05", loss <= 0.05),
        common.check("the distance falls with rtol", float(apart == sorted(apart)), "1", apart == sorted(apart)),
    ]
    notes = "The step is common to all pictures of the batch, so one alone takes fewer evaluations. Distance: RMS over unscaled latents."
    return common.result("adaptive", "python -m rapiddraw bench adaptive", rows, checks, notes=notes)


def euler_maruyama(model: Any, x: Any, sigmas: Any, extra_args: Any = None, callback: Any = None, disable: Any = None) -> Any:
    """Plain Euler-Maruyama on the reverse SDE, along the Brownian path that the adaptive solver of the same seed follows."""
    import torch

    from ..core.diffusion.samplers.common import Denoiser, brownian_noise, slope

    denoise = Denoiser(model, extra_args)
    ends = torch.stack([sigmas[0], sigmas[-2]]) ** 2
    noise = brownian_noise(x, ends, denoise.extra_args.get("seed"))
    for sigma, sigma_next in zip(sigmas[:-2], sigmas[1:-1], strict=True):
        drift = 2 * (sigma_next - sigma) * slope(x, sigma, denoise(x, sigma))
        x = x + drift + noise(sigma**2, sigma_next**2) * (sigma**2 - sigma_next**2).sqrt()
    return denoise(x, sigmas[-2])


def _row(name: str, walk: Any, count: int) -> dict[str, Any]:
    return {"solver": name, "pictures": count, "evaluations": walk.evaluations, "seconds a picture": round(walk.seconds / count, 2)}


def plot(outcome: dict[str, Any], path: Path) -> None:
    """Distance and AA over evaluations for the SDE and the ODE."""
    from ..core.metrics.walks import line_plots

    panels = []
    for title, key, scale in (("distance (RMS)", "distance", "log"), ("AA", "AA", "linear")):
        lines: dict[str, list[tuple[float, float]]] = {}
        for row in outcome["rows"]:
            if key in row:
                kind = (
                    "Euler-Maruyama" if row["solver"].startswith("Euler") else "ODE" if row["solver"].startswith("ode") else "adaptive SDE"
                )
                lines.setdefault(kind, []).append((row["evaluations"], row[key]))
        panels.append(("evaluations", title, "log", scale, {name: sorted(line) for name, line in lines.items()}))
    line_plots(path, panels)
