"""Solvers on a mixture of Gaussians, seen as a diffusion model and as a flow model; the rows `solvers` of `bench families`."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

ORDERS = {
    "euler": 1, "ddim": 1, "heun": 2, "dpmpp_2m": 2, "dpm_solver_2s": 2, "dpm_solver_3s": 3, "dpm_solver_3m": 2, "s_pndm": 2, "plms": 2,
    "f_pndm": 2, "picard": 1,
}  # fmt: skip
"""Sampler -> its order of convergence. PNDM's methods are limited by their transfer part, dpm_solver_3m by its first two steps."""
STOCHASTIC = ("euler_ancestral", "dpmpp_2m_sde", "adaptive_sde")
POINTS, STEPS = 1024, (15, 30, 60, 120)  # of three parts each, as dpm_solver_3s takes its steps
TOP, END = 10.0, 0.1
"""The common levels (a diffusion model's sigma) between which is sampled."""
_MEANS, _WEIGHTS, _WIDTH = ((1.5, 1.0), (-1.0, 1.2), (0.3, -1.4)), (0.5, 0.3, 0.2), 0.25


class FlowSampling:
    """A flow model's schedule without a shift: timesteps from 0 to 1000, x = (1 - sigma) x0 + sigma n."""

    def __init__(self) -> None:
        import torch

        self.sigmas = torch.arange(1, 1001) / 1000

    sigma_min, sigma_max = 0.001, 1.0

    def timestep(self, sigma: Any) -> Any:
        return sigma * 1000

    def sigma(self, timestep: Any) -> Any:
        return timestep / 1000

    def noise_scaling(self, sigma: Any, noise: Any, latent: Any, max_denoise: bool = False) -> Any:
        return sigma * noise + (1 - sigma) * latent


class Model:
    """The exact denoiser of the mixture inside the chain of wrappers that a sampler sees in a host, for x (B, 2)."""

    def __init__(self, flow: bool) -> None:
        self.flow = flow
        self.inner_model = SimpleNamespace(inner_model=SimpleNamespace(model_sampling=FlowSampling() if flow else None))

    def __call__(self, x: Any, sigma: Any, **_: Any) -> Any:
        sigma = sigma[:, None]
        return mixture(x / (1 - sigma), sigma / (1 - sigma)) if self.flow else mixture(x, sigma)

    def sigmas(self, steps: int) -> Any:
        """Return levels of the model from `TOP` to `END`, as each kind of model spaces them: alike in log sigma, or alike in sigma."""
        import torch

        if self.flow:
            return torch.linspace(TOP / (1 + TOP), END / (1 + END), steps + 1, dtype=torch.float64)
        return torch.logspace(math.log10(TOP), math.log10(END), steps + 1, dtype=torch.float64)


def mixture(x: Any, level: Any) -> Any:
    """Return the mean of x0 given x0 + level * n = x, for x (B, 2) and level (B, 1)."""
    import torch

    means, weights = torch.tensor(_MEANS, dtype=x.dtype), torch.tensor(_WEIGHTS, dtype=x.dtype)
    inner, outer = _WIDTH**2, level**2
    distance = ((x[:, None] - means) ** 2).sum(-1)
    share = (weights.log() - distance / (2 * (inner + outer))).softmax(-1)
    centre = (x[:, None] * inner + means * outer[:, None]) / (inner + outer)[:, None]
    return (share[..., None] * centre).sum(1)


def measure_solvers() -> list[dict[str, Any]]:
    """Return a row for each sampler and kind of model: distances and order, or the error of mean and covariance."""
    import torch

    from ..core.diffusion.samplers import FREE_SAMPLERS, SAMPLERS

    functions = {**SAMPLERS, **FREE_SAMPLERS}
    generator = torch.Generator().manual_seed(0)
    start = _draw(POINTS, generator) + TOP * torch.randn(POINTS, 2, generator=generator, dtype=torch.float64)
    fine = torch.logspace(math.log10(TOP), math.log10(END), 2001, dtype=torch.float64)
    end = SAMPLERS["heun"](Model(flow=False), start, fine)
    rows = []
    for kind in ("diffusion", "flow"):
        model = Model(kind == "flow")

        def drawn(name: str, steps: int, model: Model = model) -> Any:
            sigmas = model.sigmas(steps)
            first, last = ((1 - float(sigmas[i])) if model.flow else 1.0 for i in (0, -1))
            options = {"tolerance": 0.0} if name == "picard" else {}
            return functions[name](model, start * first, sigmas, extra_args={"seed": 0}, **options) / last

        for name in ORDERS:
            errors = [float((drawn(name, steps) - end).pow(2).mean(-1).sqrt().median()) for steps in STEPS]
            distances = {f"{steps} steps": float(f"{error:.3g}") for steps, error in zip(STEPS, errors, strict=True)}
            rows.append({"name": f"{name} {kind}", **distances, "order": round(math.log2(errors[-2] / errors[-1]), 2)})
        for name in STOCHASTIC:
            rows.append({"name": f"{name} {kind}", "moments": round(_moments(drawn(name, STEPS[-1])), 3)})
    return rows


def _draw(count: int, generator: Any) -> Any:
    """Return `count` points of the mixture, (count, 2)."""
    import torch

    chosen = torch.multinomial(torch.tensor(_WEIGHTS), count, replacement=True, generator=generator)
    noise = torch.randn(count, 2, generator=generator, dtype=torch.float64)
    return torch.tensor(_MEANS, dtype=torch.float64)[chosen] + _WIDTH * noise


def _moments(points: Any) -> float:
    """Return the largest difference of the points' mean and covariance from those of the mixture at the level `END`."""
    import torch

    means, weights = torch.tensor(_MEANS, dtype=torch.float64), torch.tensor(_WEIGHTS, dtype=torch.float64)
    mean = weights @ means
    covariance = (weights[:, None] * means).T @ means - torch.outer(mean, mean) + (_WIDTH**2 + END**2) * torch.eye(2, dtype=torch.float64)
    return max(float((points.mean(0) - mean).abs().max()), float((points.T.cov() - covariance).abs().max()))
