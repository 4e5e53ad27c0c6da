"""Sampling runs of the embedded host, as the stock nodes do them: names to samplers, steps and denoise to sigmas, one bar for a run."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor

from ...diffusion import schedule
from ...diffusion.samplers import SAMPLERS
from ...diffusion.schedule import MAX_STEPS, SCHEDULER_NAMES, check_steps
from ...errors import InputError
from ...progress import Progress
from ..run import SamplingRun
from ..run import cut_sigmas as cut_sigmas
from ..stages import guided
from .guider import CFGGuider, Sampler
from .latent import EmptyNoise, RandomNoise, fit_latent
from .model import Model
from .preview import preview_of

# The samplers that ComfyUI's own KSampler offers too, so that a graph valid here is valid there; the others have nodes of their own.
STOCK_SAMPLERS = ("euler", "euler_ancestral", "heun", "dpmpp_2m", "dpmpp_2m_sde", "ddim", "lcm")


def sampler_object(name: str) -> Sampler:
    """Return the SAMPLER of a stock name. "ddim" is Euler with fresh noise on the kept part of a masked picture, as in ComfyUI."""
    if name not in STOCK_SAMPLERS:
        raise InputError(f"unknown sampler {name!r}: the known ones are {', '.join(STOCK_SAMPLERS)}")
    return Sampler(SAMPLERS["euler"], fresh_inpaint_noise=True) if name == "ddim" else Sampler(SAMPLERS[name])


def sampler_names() -> list[str]:
    """See :meth:`SamplingTopic.sampler_names`."""
    return [*STOCK_SAMPLERS, *(name for name in SAMPLERS if name not in STOCK_SAMPLERS)]


def scheduler_names() -> list[str]:
    """See :meth:`SamplingTopic.scheduler_names`."""
    return list(SCHEDULER_NAMES)


def named_sampler(name: str) -> Sampler:
    """See :meth:`SamplingTopic.named_sampler`."""
    if name not in sampler_names():
        raise InputError(f"unknown sampler {name!r}: the known ones are {', '.join(sampler_names())}")
    return sampler_object(name) if name in STOCK_SAMPLERS else Sampler(SAMPLERS[name])


def scheduled_sigmas(model: Model, scheduler: str, steps: int, denoise: float = 1.0) -> Tensor:
    """Return the sigmas (steps + 1,) of `steps` steps.

    With `denoise` < 1 they are the last ones of a schedule of `steps / denoise`; at 0 there are none.
    """
    if not math.isfinite(denoise) or not 0 <= denoise <= 1:
        raise InputError(f"denoise must lie between 0 and 1, {denoise} was given")
    steps = check_steps(steps)
    if denoise <= 0:
        return torch.zeros(0)
    total = steps if denoise > 0.9999 else int(steps / denoise)
    if total > MAX_STEPS:
        raise InputError(f"{steps} steps at denoise {denoise} are the end of a schedule of {total} steps; at most {MAX_STEPS} are possible")
    return schedule.calculate_sigmas(model.get_model_object("model_sampling"), scheduler, total)[-(steps + 1) :]


def sample_latent(
    noise: RandomNoise | EmptyNoise,
    guider: CFGGuider,
    sampler: Sampler,
    sigmas: Tensor,
    latent: Mapping[str, Any],
    bar: Progress | None = None,
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Sample a LATENT under one progress bar, or under the caller's. Returns (the result, the model's last estimate of the clean picture).

    Nothing given is changed. Cancelling stops before the next call of the U-Net.
    """
    fitted = fit_latent(guider.model_patcher, latent)
    last: dict[str, Tensor] = {}
    total = max(len(sigmas) - 1, 0)
    with nullcontext(bar) if bar is not None else Progress(total, "sampling") as shown:
        began = shown.done

        def report(step: int, denoised: Tensor, x: Tensor, total_steps: int) -> None:
            last["denoised"] = denoised
            shown.update(began + step + 1 - shown.done, preview_of(guider.model_patcher.model.latent_format, denoised))

        samples = guider.sample(
            noise.generate_noise(fitted), fitted["samples"], sampler, sigmas, fitted.get("noise_mask"), report, seed=noise.seed
        )
    out = {**fitted, "samples": samples}
    if "denoised" not in last:
        return out, out
    return out, {**fitted, "samples": guider.model_patcher.model.process_latent_out(last["denoised"].float()).cpu()}


def make_guider(model: Model, positive: list[Any], negative: list[Any], cfg: float) -> CFGGuider:
    """See :meth:`SamplingTopic.make_guider`."""
    return guided(CFGGuider(model), positive, negative, cfg)


def sample(guider: CFGGuider, latent: Mapping[str, Any], run: SamplingRun) -> dict[str, Any]:
    """See :meth:`SamplingTopic.sample`."""
    whole = scheduled_sigmas(guider.model_patcher, run.scheduler, run.steps, run.denoise)
    return run_stock(guider, named_sampler(run.sampler_name), latent, run, whole)


def run_stock(guider: CFGGuider, sampler: Sampler, latent: Mapping[str, Any], run: SamplingRun, whole: Tensor) -> dict[str, Any]:
    """Run `sampler` along the run's part of the noise levels `whole`, as the stock KSampler and KSamplerAdvanced do."""
    noise = RandomNoise(run.seed) if run.add_noise else EmptyNoise(run.seed)
    return sample_latent(noise, guider, sampler, run.part_of(whole), latent)[0]


def sample_custom(
    guider: CFGGuider, sampler: Sampler, sigmas: Tensor, latent: Mapping[str, Any], seed: int | None, bar: Progress | None = None
) -> dict[str, Any]:
    """See :meth:`SamplingTopic.sample_custom`."""
    return sample_latent(EmptyNoise() if seed is None else RandomNoise(seed), guider, sampler, sigmas, latent, bar)[0]


def make_sampler(function: Callable[..., Tensor], options: Mapping[str, Any]) -> Sampler:
    """See :meth:`SamplingTopic.make_sampler`."""
    return Sampler(function, options)


def calculate_sigmas(model: Model, scheduler: str, steps: int, sampler_name: str = "euler") -> Tensor:
    """See :meth:`SamplingTopic.calculate_sigmas`."""
    named_sampler(sampler_name)
    return scheduled_sigmas(model, scheduler, steps)


def step_callback(model: Model, bar: Progress) -> Callable[[int, Tensor, Tensor, int], None]:
    """See :meth:`SamplingTopic.step_callback`."""
    began = bar.done
    return lambda step, denoised, x, total: bar.update(began + step + 1 - bar.done, preview_of(model.model.latent_format, denoised))


def keep_ready(model: Model) -> None:
    """See :meth:`SamplingTopic.keep_ready`. Everything stays where it is here."""


def for_consistency(model: Model) -> Model:
    """See :meth:`SamplingTopic.for_consistency`."""
    return model
