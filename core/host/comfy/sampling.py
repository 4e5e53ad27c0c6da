"""Sampling from parts inside ComfyUI, as its own SamplerCustomAdvanced does it, under a bar that several runs can share."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import comfy.model_management
import comfy.sample
import comfy.samplers
import latent_preview
import torch

from ...diffusion.samplers import SAMPLERS
from ...diffusion.samplers.picard import sample_picard
from ...diffusion.schedule import check_steps
from ...errors import InputError
from ...progress import Progress
from ..denoiser import prediction_named
from ..run import SamplingRun
from ..stages import guided
from .devices import device_shares


def make_guider(model: Any, positive: Any, negative: Any, cfg: float) -> Any:
    """See :meth:`SamplingTopic.make_guider`."""
    return guided(comfy.samplers.CFGGuider(model), positive, negative, cfg)


def make_sampler(function: Callable[..., torch.Tensor], options: Mapping[str, Any]) -> Any:
    """See :meth:`SamplingTopic.make_sampler`."""
    devices = {"shares": device_shares} if function is sample_picard else {}
    return comfy.samplers.KSAMPLER(function, extra_options={**options, **devices})


def sampler_names() -> list[str]:
    """See :meth:`SamplingTopic.sampler_names`."""
    stock = list(comfy.samplers.KSampler.SAMPLERS)
    return stock + [name for name in SAMPLERS if name not in stock]


def scheduler_names() -> list[str]:
    """See :meth:`SamplingTopic.scheduler_names`."""
    return list(comfy.samplers.KSampler.SCHEDULERS)


def named_sampler(name: str) -> Any:
    """See :meth:`SamplingTopic.named_sampler`."""
    if name not in sampler_names():
        raise InputError(f"unknown sampler {name!r}: the known ones are {', '.join(sampler_names())}")
    if name in comfy.samplers.KSampler.SAMPLERS:
        return comfy.samplers.sampler_object(name)
    return comfy.samplers.KSAMPLER(SAMPLERS[name])


def calculate_sigmas(model: Any, scheduler: str, steps: int, sampler_name: str = "euler") -> torch.Tensor:
    """See :meth:`SamplingTopic.calculate_sigmas`. Samplers that leave out the last level but one do so here too."""
    sampler = comfy.samplers.KSampler
    for name, known in ((scheduler, sampler.SCHEDULERS), (sampler_name, sampler_names())):
        if name not in known:
            raise InputError(f"unknown name {name!r}: the known ones are {', '.join(known)}")
    return sampler(model, steps=check_steps(steps), device="cpu", sampler=sampler_name, scheduler=scheduler, denoise=1.0).sigmas


def fit_latent(model: Any, latent: Mapping[str, Any]) -> dict[str, Any]:
    """See :meth:`SamplingTopic.fit_latent`. In newer versions of ComfyUI an empty latent takes on the model's cell size too."""
    out = dict(latent)
    ratio = out.pop("downscale_ratio_spacial", None)
    fix = comfy.sample.fix_empty_latent_channels
    sized = (ratio,) if len(inspect.signature(fix).parameters) > 2 else ()
    out["samples"] = fix(model, out["samples"], *sized)
    return out


def for_consistency(model: Any) -> Any:
    """See :meth:`SamplingTopic.for_consistency`: the stock node's own patch."""
    from comfy_extras.nodes_model_advanced import ModelSamplingDiscrete

    if prediction_named(model.get_model_object("model_sampling")) != "eps":
        return model
    out = ModelSamplingDiscrete().patch(model, "lcm", False)
    return getattr(out, "result", out)[0]


def keep_ready(model: Any) -> None:
    """See :meth:`SamplingTopic.keep_ready`. A VAE or another clone of the same network may have displaced the model."""
    if not any(loaded.model is model for loaded in comfy.model_management.current_loaded_models):
        comfy.model_management.load_models_gpu([model])
    if getattr(model.model, "current_patcher", model) is not model:  # clones share one network, which knows one patcher at a time
        model.model.current_patcher = model


def reporting(model: Any, bar: Progress, preview: Callable[[torch.Tensor], Any] | None = None) -> Callable[..., None]:
    """Return a sampler's callback that advances `bar` from where it stands and shows a preview of `denoised` if it can.

    `preview` makes a PIL image of a model's `denoised`; the default is ComfyUI's own, as its settings have it.
    """
    began = bar.done
    if preview is None:
        shower = latent_preview.get_previewer(model.load_device, model.model.latent_format)
        preview = None if shower is None else shower.decode_latent_to_preview

    def callback(step: int, denoised: torch.Tensor, x: torch.Tensor, total: int) -> None:
        bar.update(began + step + 1 - bar.done, preview=None if preview is None else preview(denoised))

    return callback


def step_callback(model: Any, bar: Progress) -> Callable[..., None]:
    """See :meth:`SamplingTopic.step_callback`."""
    return reporting(model, bar)


def sample(guider: Any, latent: Mapping[str, Any], run: SamplingRun) -> dict[str, Any]:
    """See :meth:`SamplingTopic.sample`."""
    return run_stock(guider, named_sampler(run.sampler_name), latent, run, run_sigmas(guider.model_patcher, run))


def run_sigmas(model: Any, run: SamplingRun) -> torch.Tensor:
    """Return the noise levels of the stock KSampler on `model`'s schedule, all of them; none at denoise 0."""
    if run.scheduler not in scheduler_names():
        raise InputError(f"unknown scheduler {run.scheduler!r}: the known ones are {', '.join(scheduler_names())}")
    kind = comfy.samplers.KSampler
    return kind(model, run.steps, model.load_device, sampler=run.sampler_name, scheduler=run.scheduler, denoise=run.denoise).sigmas


def run_stock(guider: Any, sampler: Any, latent: Mapping[str, Any], run: SamplingRun, whole: torch.Tensor) -> dict[str, Any]:
    """Run `sampler` along the run's part of the noise levels `whole`, through ComfyUI's own SamplerCustomAdvanced."""
    from comfy_extras.nodes_custom_sampler import Noise_EmptyNoise, Noise_RandomNoise, SamplerCustomAdvanced

    sigmas = run.part_of(whole)
    if len(sigmas) < 2:
        return dict(latent)
    noise = Noise_RandomNoise(run.seed)
    if not run.add_noise:
        noise = Noise_EmptyNoise()
        noise.seed = run.seed
    out = SamplerCustomAdvanced().sample(noise, guider, sampler, sigmas, dict(latent))
    return getattr(out, "result", out)[0]


def sample_custom(
    guider: Any, sampler: Any, sigmas: torch.Tensor, latent: Mapping[str, Any], seed: int | None, bar: Progress | None = None
) -> dict[str, Any]:
    """See :meth:`SamplingTopic.sample_custom`."""
    fitted = fit_latent(guider.model_patcher, latent)
    samples = fitted["samples"]
    noise = (
        torch.zeros_like(samples, device="cpu") if seed is None else comfy.sample.prepare_noise(samples, seed, fitted.get("batch_index"))
    )
    own = bar or Progress(max(len(sigmas) - 1, 0), "sampling")
    callback = reporting(guider.model_patcher, own)
    out = guider.sample(
        noise, samples, sampler, sigmas, denoise_mask=fitted.get("noise_mask"), callback=callback, disable_pbar=True, seed=seed or 0
    )
    return {**fitted, "samples": out.to(comfy.model_management.intermediate_device())}
