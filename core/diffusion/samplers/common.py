"""Shared parts of the samplers: checks of their input, evaluations of the model, and noise.

A sampler is a function `sample_x(model, x, sigmas, extra_args=None, callback=None, disable=None, **options) -> x`, the signature of
k-diffusion and of ComfyUI:
- `model(x, sigma, **extra_args)` gives `denoised`, the estimate of x0, for `x` (B, ...) and `sigma` (B,);
- `x` = x0 + sigmas[0] * noise, or a flow model's mixture (see :mod:`..noise`); it is not modified;
- `sigmas` (N+1,) descends, usually to 0; N is the number of steps. With fewer than two entries `x` comes back unchanged;
- `callback` gets a dict in each step: `i` (from 0), and at the step's start `x`, `sigma`, `sigma_hat` (equal to `sigma`) and `denoised`;
- `disable` is accepted because callers pass it, and is not used: the caller that passes the callback draws the bar.
Before every evaluation a sampler stops if that was requested. All raise :class:`~rapiddraw.core.errors.InputError` for a bad `sigmas`.
"""

from __future__ import annotations

import functools
import logging
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ...errors import InputError
from ...progress import raise_if_cancelled
from ..noise import convention_of

Model = Callable[..., Tensor]
Callback = Callable[[dict[str, Any]], object]
NoiseSampler = Callable[[Tensor, Tensor], Tensor]
logger = logging.getLogger("rapiddraw")


@functools.cache
def warn_once(message: str) -> None:
    """Log a warning the first time it is given in this process."""
    logger.warning(message)


def check_sigmas(sigmas: Tensor) -> None:
    """Raise :class:`InputError` unless `sigmas` is 1-D, finite, descending and above 0 everywhere but at its end.

    A level may repeat (a grid of more steps than the table has levels does), but never rise.
    """
    if sigmas.ndim != 1:
        raise InputError(f"sigmas must be a list of noise levels, (N+1,); a tensor of shape {tuple(sigmas.shape)} was given")
    if not bool(sigmas.isfinite().all()):
        raise InputError("sigmas must be finite; a NaN or an infinite noise level was given")
    rises = (sigmas[1:] > sigmas[:-1]).nonzero()
    if len(rises):
        at = int(rises[0])
        raise InputError(
            f"sigmas must descend from noise to picture, but entry {at} is {float(sigmas[at]):.4g} and entry {at + 1} is "
            f"{float(sigmas[at + 1]):.4g}; take them from a scheduler node and do not flip them"
        )
    if bool((sigmas[:-1] <= 0).any()) or bool((sigmas < 0).any()):
        raise InputError("sigmas must be positive; only the last one may be 0")


def model_sampling_of(model: Any) -> Any:
    """Return the schedule of the network behind a ComfyUI-style chain of wrappers, or None."""
    inner = getattr(getattr(model, "inner_model", None), "inner_model", None)
    return getattr(inner, "model_sampling", None)


def below_noise_alone(model: Any, sigmas: Tensor) -> Tensor:
    """Return `sigmas` (N+1,) with a flow model's first level 1 moved a little below it, where its signal-to-noise ratio is above 0.

    Samplers that divide by that ratio need this. The level is the one that ComfyUI's own samplers take.
    """
    model_sampling = model_sampling_of(model)
    if len(sigmas) == 0 or not convention_of(model_sampling).flow or sigmas[0] < 1:
        return sigmas
    known = getattr(model_sampling, "percent_to_sigma", None)
    sigmas = sigmas.clone()
    sigmas[0] = max(float(sigmas[1:].max()) if len(sigmas) > 1 else 0.0, 1 - 1e-4 if known is None else float(known(1e-4)))
    return sigmas


def keep_stats(stats: dict[str, Any] | None, **found: Any) -> None:
    """Log the counts of a sampling run in one line, and write them into `stats` in place of an earlier run's."""
    logger.info("%s", ", ".join(f"{key.replace('_', ' ')} {value}" for key, value in found.items()))
    if stats is not None:
        stats.clear()
        stats.update(found)


class BoundModel:
    """`model` with its arguments bound: `denoise(x, sigma)` for one noise level or for one level each sample, (B,). Each call may stop."""

    def __init__(self, model: Model, extra_args: dict[str, Any] | None) -> None:
        self.model, self.extra_args = model, extra_args or {}

    def __call__(self, x: Tensor, sigma: Tensor) -> Tensor:
        raise_if_cancelled()
        return self.model(x, sigma * x.new_ones([x.shape[0]]), **self.extra_args)

    def step(self, x: Tensor, sigmas: Tensor, i: int, callback: Callback | None) -> tuple[Tensor, Tensor, Tensor]:
        """Return (sigmas[i], sigmas[i + 1], `denoised` of `x` at the former), reported to `callback`: the start of step `i`."""
        denoised = self(x, sigmas[i])
        report(callback, i, x, sigmas[i], denoised)
        return sigmas[i], sigmas[i + 1], denoised


class CommonForm(BoundModel):
    """`model` for states in the common form and common levels (see :mod:`..noise`), in which every model's noise is a VE model's."""

    def __init__(self, model: Model, extra_args: dict[str, Any] | None) -> None:
        super().__init__(model, extra_args)
        self.convention = convention_of(model_sampling_of(model))

    def __call__(self, x: Tensor, sigma: Tensor) -> Tensor:
        own = self.convention.sigma(sigma)
        return super().__call__(self.convention.from_common(x, own), own)

    def report(self, callback: Callback | None, i: int, x: Tensor, sigma: Tensor, denoised: Tensor) -> None:
        """Call `callback`, where there is one, with the model's own state and level."""
        own = self.convention.sigma(sigma)
        report(callback, i, self.convention.from_common(x, own), own, denoised)


def slope(x: Tensor, sigma: Tensor, denoised: Tensor) -> Tensor:
    """Return the noise estimate (x - denoised) / sigma: dx/dsigma of the probability-flow ODE (Karras et al. 2022, eqs. 1 and 3)."""
    return (x - denoised) / sigma


def report(callback: Callback | None, i: int, x: Tensor, sigma: Tensor, denoised: Tensor) -> None:
    """Call `callback`, where there is one, for step `i`."""
    if callback is not None:
        callback({"x": x, "i": i, "sigma": sigma, "sigma_hat": sigma, "denoised": denoised})


def gaussian_noise(x: Tensor, seed: int | None) -> NoiseSampler:
    """Return a source of independent unit noise shaped like `x`, one draw for each step, with a generator of its own.

    The noise equals that of ComfyUI's default noise sampler: drawn on the device of `x`, and on the CPU from `seed + 1`, because there the
    first noise has used `seed` already. Without a seed the noise differs in each run. The global generator is never touched.
    """
    generator = torch.Generator(device=x.device)
    if seed is None:
        generator.seed()
    else:
        generator.manual_seed((int(seed) + (x.device.type == "cpu")) % 2**64)
    return lambda sigma, sigma_next: torch.randn(x.shape, dtype=x.dtype, device=x.device, generator=generator)


def brownian_noise(x: Tensor, sigmas: Tensor, seed: int | None) -> NoiseSampler:
    """Return a source of increments of one Brownian path over sigma, scaled to unit variance, for SDE samplers.

    The path depends on sigma and not on the number of steps, so that a finer grid refines the same picture. It is ComfyUI's path
    (`torchsde.BrownianTree` on the CPU, entropy = seed). Without the package torchsde each step gets independent noise instead. The sample
    is as good, but the picture is not ComfyUI's; a warning says so once.
    """
    try:
        import torchsde
    except ImportError:
        warn_once("the package torchsde is not installed: SDE samplers draw independent noise, so pictures differ from ComfyUI's")
        return gaussian_noise(x, seed)
    low, high = (level.detach().cpu().float() for level in (sigmas[sigmas > 0].min(), sigmas.max()))
    if seed is None:
        seed = int(torch.randint(2**63 - 1, (), generator=_fresh_generator()))
    # Made at the first draw: a run of one step draws nothing, and a path needs two distinct ends.
    tree = functools.cache(lambda: torchsde.BrownianTree(low, torch.zeros_like(x, device="cpu"), high, entropy=int(seed)))

    def draw(sigma: Tensor, sigma_next: Tensor) -> Tensor:
        start, end = sigma_next.detach().cpu().float(), sigma.detach().cpu().float()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # the package rounds its ends to 6 digits and then finds ours outside
            return -tree()(start, end).to(x) / (sigma - sigma_next).sqrt()

    return draw


def _fresh_generator() -> torch.Generator:
    generator = torch.Generator()
    generator.seed()
    return generator
