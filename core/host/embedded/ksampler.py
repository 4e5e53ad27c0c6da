"""What the stock sampling nodes do in the embedded host: names to samplers, steps and denoise to sigmas, one bar for a run."""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor

from ...diffusion.samplers import SAMPLERS
from ...diffusion.schedule import MAX_STEPS, calculate_sigmas, check_steps
from ...errors import InputError
from ...progress import Progress
from .latent import EmptyNoise, RandomNoise, fit_empty_latent
from .model import Model
from .sampling import CFGGuider, Sampler

# The samplers that ComfyUI's own KSampler offers too, so that a graph valid here is valid there; the others have nodes of their own.
STOCK_SAMPLERS = ("euler", "euler_ancestral", "heun", "dpmpp_2m", "dpmpp_2m_sde", "ddim")


def sampler_object(name: str) -> Sampler:
    """The SAMPLER of a stock name. "ddim" is Euler with fresh noise on the kept part of a masked picture, as in ComfyUI."""
    if name not in STOCK_SAMPLERS:
        raise InputError(f"unknown sampler {name!r}: the known ones are {', '.join(STOCK_SAMPLERS)}")
    return Sampler(SAMPLERS["euler"], fresh_inpaint_noise=True) if name == "ddim" else Sampler(SAMPLERS[name])


def sampler_names() -> list[str]:
    """The stock samplers, then those of ours that ComfyUI does not have."""
    return [*STOCK_SAMPLERS, *(name for name in SAMPLERS if name not in STOCK_SAMPLERS)]


def named_sampler(name: str) -> Sampler:
    """The SAMPLER of a name of :func:`sampler_names`."""
    if name not in sampler_names():
        raise InputError(f"unknown sampler {name!r}: the known ones are {', '.join(sampler_names())}")
    return sampler_object(name) if name in STOCK_SAMPLERS else Sampler(SAMPLERS[name])


def scheduled_sigmas(model: Model, scheduler: str, steps: int, denoise: float = 1.0) -> Tensor:
    """Sigmas (steps + 1,) for `steps` steps. With `denoise` < 1: the last ones of a walk of steps / denoise; at 0 none."""
    if not math.isfinite(denoise) or not 0 <= denoise <= 1:
        raise InputError(f"denoise must lie between 0 and 1, {denoise} was given")
    steps = check_steps(steps)
    if denoise <= 0:
        return torch.zeros(0)
    walk = steps if denoise > 0.9999 else int(steps / denoise)
    if walk > MAX_STEPS:
        raise InputError(f"{steps} steps at denoise {denoise} are the end of a walk of {walk} steps; at most {MAX_STEPS} are possible")
    return calculate_sigmas(model.get_model_object("model_sampling"), scheduler, walk)[-(steps + 1) :]


def sample_latent(
    noise: RandomNoise | EmptyNoise,
    guider: CFGGuider,
    sampler: Sampler,
    sigmas: Tensor,
    latent: Mapping[str, Any],
    bar: Progress | None = None,
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Sample a LATENT under one progress bar, or under the caller's. Returns (the result, what the model took it to be at its last step).

    Nothing given is changed. Cancelling stops before the next call of the U-Net.
    """
    fitted = fit_empty_latent(guider.model_patcher, latent)
    last: dict[str, Tensor] = {}
    total = max(len(sigmas) - 1, 0)
    with nullcontext(bar) if bar is not None else Progress(total, "sampling") as shown:
        began = shown.done

        def report(step: int, denoised: Tensor, x: Tensor, total_steps: int) -> None:
            last["denoised"] = denoised
            shown.update(began + step + 1 - shown.done)

        samples = guider.sample(
            noise.generate_noise(fitted), fitted["samples"], sampler, sigmas, fitted.get("noise_mask"), report, seed=noise.seed
        )
    out = {**fitted, "samples": samples}
    if "denoised" not in last:
        return out, out
    return out, {**fitted, "samples": guider.model_patcher.model.process_latent_out(last["denoised"].float()).cpu()}


def ksample(
    model: Model,
    noise: RandomNoise | EmptyNoise,
    steps: int,
    cfg: float,
    sampler_name: str,
    scheduler: str,
    positive: list[Any],
    negative: list[Any],
    latent: Mapping[str, Any],
    denoise: float = 1.0,
    start_step: int = 0,
    last_step: int = MAX_STEPS,
    force_full_denoise: bool = True,
) -> dict[str, Any]:
    """KSampler and KSamplerAdvanced. `start_step` and `last_step` cut the walk; `force_full_denoise` ends a cut walk at sigma 0."""
    sigmas = scheduled_sigmas(model, scheduler, steps, denoise)
    if last_step < len(sigmas) - 1:
        sigmas = sigmas[: last_step + 1].clone()
        if force_full_denoise:
            sigmas[-1] = 0
    if start_step > 0:
        sigmas = sigmas[start_step:] if start_step < len(sigmas) - 1 else sigmas[:0]
    guider = CFGGuider(model)
    guider.set_conds(positive, negative)
    guider.set_cfg(cfg)
    return sample_latent(noise, guider, sampler_object(sampler_name), sigmas, latent)[0]
