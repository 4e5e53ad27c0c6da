"""Guidance of the embedded host, by the same steps as ComfyUI 0.18, so that a seed gives the same picture in both.

The chain that a sampler sees is ComfyUI's too: `model` (masks) `.inner_model` (guider) `.inner_model` (:class:`BaseModel`)
`.model_sampling`.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ...data.buckets import INDEX_KEY
from ...diffusion.guidance import cfg_denoised, needs_uncond
from ...errors import InputError
from .control import checked_control
from .latent import prepare_mask, repeat_to
from .model import BaseModel, Model, copy_options

log = logging.getLogger("rapiddraw")
MAX_TOKEN_REPEAT = 4  # beyond this, padding one prompt to another's length costs more than a second call
_FOREIGN = ("area", "mask", "gligen", "hooks", "concat_latent_image")  # conditioning entries only ComfyUI honours


class CFGGuider:
    """The GUIDER socket: classifier-free guidance over two conditionings. Samplers call it as `guider(x, sigma, ...) -> denoised`.

    `inner_model` is the :class:`BaseModel` and `conds` holds the prepared conditionings, both only while :meth:`sample` runs.
    """

    inner_model: BaseModel
    conds: dict[str, list[dict[str, Any]]]

    def __init__(self, model: Model) -> None:
        self.model_patcher, self.model_options, self.cfg = model, model.model_options, 1.0
        self.original_conds: dict[str, list[Any]] = {}

    def set_conds(self, positive: list[Any], negative: list[Any] | None = None) -> None:
        """Set the CONDITIONING for and against. Without a negative only scale 1 is possible."""
        self.original_conds = {"positive": positive} if negative is None else {"positive": positive, "negative": negative}

    def set_cfg(self, cfg: float) -> None:
        """Set the guidance scale; 1 switches guidance, and its cost, off."""
        if not math.isfinite(cfg):
            raise InputError(f"cfg must be a finite number, {cfg} was given")
        self.cfg = float(cfg)

    def __call__(self, x: Tensor, timestep: Tensor, model_options: dict[str, Any] | None = None, seed: int | None = None) -> Tensor:
        return self.predict_noise(x, timestep, model_options, seed)

    def predict_noise(self, x: Tensor, timestep: Tensor, model_options: dict[str, Any] | None = None, seed: int | None = None) -> Tensor:
        """Return guided `denoised` at `x` (B, C, h, w) and sigmas `timestep` (B,). (The name is ComfyUI's.)"""
        options = self.model_options if model_options is None else model_options
        return guided_denoised(self.inner_model, self.conds, self.cfg, x, timestep, options)

    @torch.no_grad()
    def sample(
        self,
        noise: Tensor,
        latent_image: Tensor,
        sampler: Sampler,
        sigmas: Tensor,
        denoise_mask: Tensor | None = None,
        callback: Callable[[int, Tensor, Tensor, int], None] | None = None,
        disable_pbar: bool = True,
        seed: int | None = None,
    ) -> Tensor:
        """Return unscaled latents (B, C, h, w) on the CPU, from `noise` and an unscaled `latent_image`, along `sigmas` (steps + 1,).

        `callback(step, denoised, x, total_steps)` runs after each step; `denoised` is in the model's own scale.
        """
        if sigmas.numel() == 0:
            return latent_image
        model, device = self.model_patcher.model, self.model_patcher.load_device
        noise, start = noise.to(device, torch.float32), latent_image.to(device, torch.float32)
        mask = None if denoise_mask is None else prepare_mask(denoise_mask.to(device), noise.shape)
        if start.any():  # an empty latent means "nothing there", not "the mean colour": it is not shifted
            start = model.process_latent_in(start)
        self.inner_model = model
        self.conds = {key: prepare_conds(model, conds, key) for key, conds in self.original_conds.items()}
        options = copy_options(self.model_options)
        options.setdefault("transformer_options", {})["sample_sigmas"] = sigmas
        try:
            samples = sampler.sample(
                self, sigmas.to(device), {"model_options": options, "seed": seed}, callback, noise, start, mask, disable_pbar
            )
        finally:
            del self.inner_model, self.conds
        return model.process_latent_out(samples.float()).cpu()


def guided_denoised(
    model: BaseModel, conds: Mapping[str, list[dict[str, Any]]], cfg: float, x: Tensor, sigma: Tensor, options: Mapping[str, Any]
) -> Tensor:
    """Return `denoised` of `model` at `x` (B, C, h, w) and `sigma` (B,), guided by prepared `conds` at scale `cfg`."""
    negative = conds.get("negative")
    if not needs_uncond(cfg) and not options.get("disable_cfg1_optimization", False):
        negative = None
    cond, uncond = calc_cond_batch(model, [conds["positive"], negative], x, sigma, options)
    about = {"cond": conds["positive"], "cond_denoised": cond, "uncond_denoised": uncond, "cond_scale": cfg, "input": x, "sigma": sigma,
             "timestep": sigma, "model": model, "model_options": options}  # fmt: skip
    return _guide(about, options)


def _guide(about: dict[str, Any], options: Mapping[str, Any]) -> Tensor:
    cond, uncond, x = about["cond_denoised"], about["uncond_denoised"], about["input"]
    if "sampler_cfg_function" in options:
        noises = {"cond": x - cond, "uncond": x - (torch.zeros_like(x) if uncond is None else uncond)}
        guided = x - options["sampler_cfg_function"]({**about, **noises})
    else:
        guided = cfg_denoised(cond, uncond, about["cond_scale"])
    for function in options.get("sampler_post_cfg_function", []):
        guided = function({**about, "denoised": guided})
    return guided


def prepare_conds(model: BaseModel, conditioning: Any, prompt_type: str = "") -> list[dict[str, Any]]:
    """Return CONDITIONING entries as dicts with `cross_attn` (1 or B, T, width), sigma bounds, and the `details` they were made of.

    Among the details is the `prompt_type` ("positive" or "negative") that SDXL's refiner takes.

    Raises :class:`InputError` where a width does not fit the U-Net, or an entry needs what only ComfyUI can do.
    """
    prepared = []
    for tokens, details in conditioning:
        if foreign := [key for key in _FOREIGN if details.get(key) is not None]:
            raise InputError(
                f"the conditioning carries {', '.join(foreign)}, which this headless host cannot honour; run the graph in ComfyUI"
            )
        if tokens.ndim != 3 or tokens.shape[2] != model.context_width:
            raise InputError(
                f"the conditioning has shape {tuple(tokens.shape)} but the model attends to tokens of width {model.context_width}; "
                "encode the text with the CLIP that was loaded with this model"
            )
        if details.get(INDEX_KEY) is not None and not model.takes_index:
            log.info("the model takes no resolution index: the one in the conditioning has no effect")
        entry = {"cross_attn": tokens.to(model.device, torch.float32), "strength": float(details.get("strength", 1.0))}
        entry["details"] = {**details, "prompt_type": prompt_type}
        entry["control"] = checked_control(model, details.get("control"))
        for key in ("start_percent", "end_percent"):
            if details.get(key) is not None:
                entry[key] = model.model_sampling.percent_to_sigma(float(details[key]))
        prepared.append(entry)
    return prepared


def calc_cond_batch(
    model: BaseModel, conds: Sequence[list[dict[str, Any]] | None], x: Tensor, sigma: Tensor, options: Mapping[str, Any]
) -> list[Any]:
    """Return `denoised` for each list of conditionings (None for a list that is None), as few U-Net calls as their shapes allow.

    Several entries of one list are averaged by strength. Entries outside their sigma range are left out.
    """
    jobs = [(index, entry) for index, entries in enumerate(conds) for entry in entries or () if _is_active(entry, sigma)]
    sums = [torch.zeros_like(x) for _ in conds]
    weights = [1e-37] * len(conds)  # so small that it only serves to divide 0 by something where no entry is active (as in ComfyUI)
    while jobs:
        length, control = jobs[0][1]["cross_attn"].shape[1], jobs[0][1].get("control")
        together = [job for job in jobs if _repeats(job[1]["cross_attn"].shape[1], length) <= MAX_TOKEN_REPEAT]
        together = [job for job in together if job[1].get("control") is control]
        jobs = [job for job in jobs if not any(job is one for one in together)]
        together.reverse()  # ComfyUI's order within a batch: unconditional first
        context = _stack([repeat_to(entry["cross_attn"], x.shape[0]) for _, entry in together])
        inputs, sigmas = torch.cat([x] * len(together)), torch.cat([sigma] * len(together))
        arguments = {"c_crossattn": context, "transformer_options": options.get("transformer_options", {})}
        if model.pooled_width:
            arguments["y"] = torch.cat([repeat_to(model.encode_adm(entry["details"], x), x.shape[0]) for _, entry in together])
        if control is not None:
            residuals = control.get_control(model, inputs, sigmas, len(together), arguments)
            arguments |= {} if residuals is None else {"control": residuals}
        if "model_function_wrapper" in options:
            which = [index for index, _ in together]
            call = {"input": inputs, "timestep": sigmas, "c": arguments, "cond_or_uncond": which}
            output = options["model_function_wrapper"](model.apply_model, call)
        else:
            output = model.apply_model(inputs, sigmas, **arguments)
        for (index, entry), part in zip(together, output.chunk(len(together)), strict=True):
            sums[index] = sums[index] + part * entry["strength"]
            weights[index] += entry["strength"]
    return [None if entries is None else sums[i] / weights[i] for i, entries in enumerate(conds)]


def _is_active(entry: Mapping[str, Any], sigma: Tensor) -> bool:
    now = float(sigma[0])
    return not now > entry.get("start_percent", math.inf) and not now < entry.get("end_percent", -math.inf)


def _repeats(one: int, other: int) -> int:
    return math.lcm(one, other) // min(one, other)


def _stack(contexts: list[Tensor]) -> Tensor:
    """Return contexts (B, T_i, width) in one batch. Repeating all tokens k times does not change what attention returns."""
    length = math.lcm(*[context.shape[1] for context in contexts])
    return torch.cat([context.repeat(1, length // context.shape[1], 1) for context in contexts])


class _Masked:
    """The model that a sampler calls: the guider, with the kept part of a masked picture put back before and after."""

    def __init__(self, guider: CFGGuider, sigmas: Tensor, noise: Tensor, latent_image: Tensor) -> None:
        self.inner_model, self.sigmas, self.noise, self.latent_image = guider, sigmas, noise, latent_image

    def __call__(
        self, x: Tensor, sigma: Tensor, denoise_mask: Tensor | None = None, model_options: Any = None, seed: int | None = None
    ) -> Tensor:
        if denoise_mask is None:
            return self.inner_model(x, sigma, model_options=model_options, seed=seed)
        kept = 1.0 - denoise_mask
        known = self.inner_model.inner_model.scale_latent_inpaint(sigma=sigma, noise=self.noise, latent_image=self.latent_image)
        out = self.inner_model(x * denoise_mask + known * kept, sigma, model_options=model_options, seed=seed)
        return out * denoise_mask + self.latent_image * kept


class Sampler:
    """The SAMPLER socket: a k-diffusion function with its options.

    `fresh_inpaint_noise`: the kept part of a masked picture is noised with noise of its own, as ComfyUI's "ddim" does.
    """

    def __init__(
        self, function: Callable[..., Tensor], options: Mapping[str, Any] | None = None, fresh_inpaint_noise: bool = False
    ) -> None:
        self.sampler_function, self.extra_options, self.fresh_inpaint_noise = function, dict(options or {}), fresh_inpaint_noise

    def sample(
        self,
        guider: CFGGuider,
        sigmas: Tensor,
        extra_args: dict[str, Any],
        callback: Callable[[int, Tensor, Tensor, int], None] | None,
        noise: Tensor,
        latent_image: Tensor,
        denoise_mask: Tensor | None = None,
        disable_pbar: bool = True,
    ) -> Tensor:
        """Run the function from `noise` scaled to sigmas[0] over `latent_image` (both in the model's scale)."""
        schedule, total = guider.inner_model.model_sampling, len(sigmas) - 1
        fixed = noise
        if self.fresh_inpaint_noise:
            generator = torch.Generator("cpu").manual_seed(((extra_args.get("seed") or 0) + 1) % 2**64)
            fixed = torch.randn(noise.shape, generator=generator, dtype=noise.dtype).to(noise.device)
        model = _Masked(guider, sigmas, fixed, latent_image)
        top, first = float(schedule.sigma_max), float(sigmas[0])
        x = schedule.noise_scaling(sigmas[0], noise, latent_image, max_denoise=first > top or math.isclose(first, top, rel_tol=1e-5))
        report = None if callback is None else lambda state: callback(state["i"], state["denoised"], state["x"], total)
        arguments = {**extra_args, "denoise_mask": denoise_mask}
        x = self.sampler_function(model, x, sigmas, extra_args=arguments, callback=report, disable=disable_pbar, **self.extra_options)
        return schedule.inverse_noise_scaling(sigmas[-1], x)
