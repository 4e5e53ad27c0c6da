"""History of a sampler across the switch of two models, kept or reset at the switch: distances to the exact solution.

    python -m rapiddraw bench history

Two analytic models stand for a structure and a texture model: the exact denoisers of a mixture of three Gaussians, and of the same mixture
moved by 0.3, switched at timestep 500 (PanGu-Draw's T_struct). The exact solution is Heun's method with 500 steps; the distance to it is
the root mean square over 400 samples. The figures in the tooltip of `history` are rows of this table.
"""

from __future__ import annotations

import argparse
import types
from typing import Any

from . import common
from .checks import EARLIER, Basis, Expectation, at_most, below

NAMES, STEPS = ("euler", "heun", "dpmpp_2m", "plms", "f_pndm", "s_pndm"), (8, 12, 20, 40)
SAMPLES, EXACT, SWITCH, APART = 400, 500, 500, 0.3
MEANS, WEIGHTS, WIDTH = ((1.5, 1.0), (-1.0, 1.2), (0.3, -1.4)), (0.5, 0.3, 0.2), 0.25


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `python -m rapiddraw bench history`."""
    parser.add_argument("--steps", type=int, nargs="+", default=list(STEPS), help="sampling steps (8 12 20 40)")


def expectations(args: argparse.Namespace) -> dict[str, Expectation]:
    """Return the expectations by key."""
    basis = Basis(SAMPLES, "samples")
    return {
        "plms": Expectation(f"PLMS at {min(args.steps)} steps: distance with history reset over history kept", below(1), EARLIER, basis),
        "worst": Expectation("largest such ratio of any sampler and number of steps", at_most(1.1), EARLIER, basis),
    }


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Measure and return the result (see :func:`common.result`)."""
    from ..core.metrics.bootstrap import Estimate, largest

    wanted, models = expectations(args), TwoModels()
    rows: list[dict[str, Any]] = []
    ratios: dict[tuple[str, int], Estimate] = {}
    for name in NAMES:
        for steps in args.steps:
            kept, reset = models.squares(name, steps)
            ratios[name, steps] = ratio = root_ratio(reset, kept)
            distances = {key: round(float(square.mean() ** 0.5), 4) for key, square in (("kept", kept), ("reset", reset))}
            rows.append({"sampler": name, "steps": steps, **distances, "ratio": round(ratio.value, 3)})
    checks = [wanted["plms"].judge(ratios["plms", min(args.steps)]), wanted["worst"].judge(largest(list(ratios.values())))]
    notes = f"Scheduler simple, {SAMPLES} samples in float64. Euler and Heun have no history: their rows differ by rounding only."
    return common.result("history", "python -m rapiddraw bench history", rows, checks, notes=notes)


def root_ratio(squares: Any, others: Any) -> Any:
    """Return the ratio of two root mean squares, as an estimate over the samples."""
    from ..core.metrics.bootstrap import bootstrap

    return bootstrap(lambda drawn: float((squares[drawn].mean() / others[drawn].mean()) ** 0.5), len(squares))


class TwoModels:
    """Sampling runs of the two analytic models as one denoiser, from one noise."""

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
        self.exact = self.sample(SAMPLERS["heun"], EXACT)

    def __call__(self, x: Any, sigma: Any, **_: Any) -> Any:
        from ..core.diffusion.time_decoupled import by_sigma

        moved = x.new_tensor([APART, -APART])
        return by_sigma(x, sigma, [self.switch], [lambda x, s, _: mixture(x, s), lambda x, s, _: mixture(x + moved, s) - moved])

    def sample(self, sampler: Any, steps: int) -> Any:
        """Return the samples (SAMPLES, 2) after `steps` steps."""
        from ..core.diffusion.schedule import calculate_sigmas

        return sampler(self, self.start, calculate_sigmas(self.schedule, "simple", steps).double())

    def squares(self, name: str, steps: int) -> tuple[Any, Any]:
        """Return each sample's square distance (SAMPLES,) to the exact solution: (history kept, history reset)."""
        from ..core.diffusion.time_decoupled import starting_afresh

        both = self.samplers[name], starting_afresh(self.samplers[name], self.switch)
        kept, reset = ((self.sample(one, steps) - self.exact).pow(2).sum(-1).numpy() for one in both)
        return kept, reset


def mixture(x: Any, sigma: Any) -> Any:
    """Return what the exact denoiser of the mixture gives for x (B, 2) at noise levels (B,)."""
    means, weights = x.new_tensor(MEANS), x.new_tensor(WEIGHTS)
    inner, outer = WIDTH**2, sigma[:, None] ** 2
    distance = ((x[:, None] - means) ** 2).sum(-1)
    share = (weights.log() - distance / (2 * (inner + outer))).softmax(-1)
    centre = (x[:, None] * inner + means * outer[:, None]) / (inner + outer)[:, None]
    return (share[..., None] * centre).sum(1)
