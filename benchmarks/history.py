"""A sampler's memory across the switch of two models: kept, or begun anew at the switch? Distances to the exact path.

    python -m rapiddraw bench history

Two analytic models stand for a structure and a texture model: the exact denoisers of a mixture of three Gaussians, and of the same mixture
moved by 0.3, switched at timestep 500 (PanGu-Draw's T_struct). The exact path is Heun's method with 500 steps, the distance to it the root
mean square over 400 samples. The figures in the tooltip of `history` are rows of this table.
"""

from __future__ import annotations

import argparse
import types
from typing import Any

from . import common

NAMES, STEPS = ("euler", "heun", "dpmpp_2m", "plms", "f_pndm", "s_pndm"), (8, 12, 20, 40)
SAMPLES, EXACT, SWITCH, APART = 400, 500, 500, 0.3
MEANS, WEIGHTS, WIDTH = ((1.5, 1.0), (-1.0, 1.2), (0.3, -1.4)), (0.5, 0.3, 0.2), 0.25


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `python -m rapiddraw bench history`."""
    parser.add_argument("--steps", type=int, nargs="+", default=list(STEPS), help="steps of the walks (8 12 20 40)")


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Measure and return the result (see :func:`common.result`)."""
    walks = Walks()
    rows = []
    for name in NAMES:
        for steps in args.steps:
            kept, reset = walks.distances(name, steps)
            rows.append(
                {"sampler": name, "steps": steps, "kept": round(kept, 4), "reset": round(reset, 4), "ratio": round(reset / kept, 3)}
            )
    few = {row["sampler"]: row["ratio"] for row in rows if row["steps"] == min(args.steps)}
    worst = max(row["ratio"] for row in rows)
    checks = [
        common.check("ratio of reset to kept, PLMS at the fewest steps", few["plms"], "< 1", few["plms"] < 1),
        common.check("largest ratio of all", worst, "at most 1.1: a fresh start is never much worse", worst <= 1.1),
    ]
    notes = f"Scheduler simple, {SAMPLES} samples in float64. Euler and Heun have no memory: their rows differ by rounding only."
    return common.result("history", "python -m rapiddraw bench history", rows, checks, notes=notes)


class Walks:
    """Walks of the two models as one, from one noise."""

    def __init__(self) -> None:
        import torch

        from ..core.diffusion.samplers import SAMPLERS
        from ..core.diffusion.schedule import NoiseSchedule
        from ..core.diffusion.time_decoupled import switch_sigma

        self.samplers, self.schedule = SAMPLERS, NoiseSchedule()
        self.switch = switch_sigma(self.schedule, SWITCH)
        self.inner_model = types.SimpleNamespace(inner_model=types.SimpleNamespace(model_sampling=self.schedule))  # where samplers look
        noise = torch.randn(SAMPLES, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        self.start = noise * float((1 + self.schedule.sigma_max**2) ** 0.5)
        self.exact = self.walk(SAMPLERS["heun"], EXACT)

    def __call__(self, x: Any, sigma: Any, **_: Any) -> Any:
        from ..core.diffusion.time_decoupled import by_sigma

        moved = x.new_tensor([APART, -APART])
        return by_sigma(x, sigma, [self.switch], [lambda x, s, _: mixture(x, s), lambda x, s, _: mixture(x + moved, s) - moved])

    def walk(self, sampler: Any, steps: int) -> Any:
        from ..core.diffusion.schedule import calculate_sigmas

        return sampler(self, self.start, calculate_sigmas(self.schedule, "simple", steps).double())

    def distances(self, name: str, steps: int) -> tuple[float, float]:
        """(history kept, history reset): root mean square distances of a sampler's walk to the exact one."""
        from ..core.diffusion.time_decoupled import starting_afresh

        both = self.samplers[name], starting_afresh(self.samplers[name], self.switch)
        kept, reset = (float((self.walk(one, steps) - self.exact).pow(2).sum(-1).mean().sqrt()) for one in both)
        return kept, reset


def mixture(x: Any, sigma: Any) -> Any:
    """The exact denoiser of the mixture, for x (B, 2) at noise levels (B,)."""
    means, weights = x.new_tensor(MEANS), x.new_tensor(WEIGHTS)
    inner, outer = WIDTH**2, sigma[:, None] ** 2
    distance = ((x[:, None] - means) ** 2).sum(-1)
    share = (weights.log() - distance / (2 * (inner + outer))).softmax(-1)
    centre = (x[:, None] * inner + means * outer[:, None]) / (inner + outer)[:, None]
    return (share[..., None] * centre).sum(1)
