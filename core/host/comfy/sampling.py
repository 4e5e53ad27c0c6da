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
from ...diffusion.schedule import check_steps
from ...errors import InputError
from ...progress import Progress


def make_guider(model: Any, positive: Any, negative: Any, cfg: float) -> Any:
    """ComfyUI's own classifier-free guidance."""
    guider = comfy.samplers.CFGGuider(model)
    guider.set_conds(positive, negative)
    guider.set_cfg(cfg)
    return guider


def sampler_names() -> list[str]:
    """ComfyUI's samplers, then those of ours that it does not have."""
    stock = list(comfy.samplers.KSampler.SAMPLERS)
    return stock + [name for name in SAMPLERS if name not in stock]


def named_sampler(name: str) -> Any:
    """The SAMPLER of a name of :func:`sampler_names`."""
    if name not in sampler_names():
        raise InputError(f"unknown sampler {name!r}: the known ones are {', '.join(sampler_names())}")
    if name in comfy.samplers.KSampler.SAMPLERS:
        return comfy.samplers.sampler_object(name)
    return comfy.samplers.KSAMPLER(SAMPLERS[name])


def calculate_sigmas(model: Any, scheduler: str, steps: int, sampler_name: str) -> torch.Tensor:
    """What KSampler would walk: samplers that leave out the last level but one do so here too. Raises :class:`InputError` for bad names."""
    sampler = comfy.samplers.KSampler
    for name, known in ((scheduler, sampler.SCHEDULERS), (sampler_name, sampler_names())):
        if name not in known:
            raise InputError(f"unknown name {name!r}: the known ones are {', '.join(known)}")
    return sampler(model, steps=check_steps(steps), device="cpu", sampler=sampler_name, scheduler=scheduler, denoise=1.0).sigmas


def fit_latent(model: Any, latent: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of a LATENT that fits `model`: an empty one takes on its channels (and, in newer versions, its cell size)."""
    out = dict(latent)
    ratio = out.pop("downscale_ratio_spacial", None)
    fix = comfy.sample.fix_empty_latent_channels
    sized = (ratio,) if len(inspect.signature(fix).parameters) > 2 else ()
    out["samples"] = fix(model, out["samples"], *sized)
    return out


def keep_ready(model: Any) -> None:
    """Load `model` again where a VAE, or another clone of the same network, has displaced it in the middle of a run."""
    if not any(loaded.model is model for loaded in comfy.model_management.current_loaded_models):
        comfy.model_management.load_models_gpu([model])
    if getattr(model.model, "current_patcher", model) is not model:  # clones share one network, which knows one patcher at a time
        model.model.current_patcher = model


def reporting(model: Any, bar: Progress, preview: Callable[[torch.Tensor], Any] | None = None) -> Callable[..., None]:
    """A sampler's callback that advances `bar` from where it stands and shows what the model sees, as a picture if it can.

    `preview` makes a PIL image of a model's `denoised`; the default is ComfyUI's own, as its settings have it.
    """
    began = bar.done
    if preview is None:
        shower = latent_preview.get_previewer(model.load_device, model.model.latent_format)
        preview = None if shower is None else shower.decode_latent_to_preview

    def callback(step: int, denoised: torch.Tensor, x: torch.Tensor, total: int) -> None:
        bar.update(began + step + 1 - bar.done, preview=None if preview is None else preview(denoised))

    return callback


def sample_custom(
    guider: Any, sampler: Any, sigmas: torch.Tensor, latent: Mapping[str, Any], seed: int | None, bar: Progress | None
) -> dict[str, Any]:
    """See :meth:`Host.sample_custom`."""
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
