"""Rows of the matrix for the bridges between resolutions and between latent spaces."""

from __future__ import annotations

from typing import Any

import comfy.samplers
import torch
from comfy_extras import nodes_custom_sampler
from matrix import CFG, SEED, STEPS, Case, Wrong, equal, finite, row


@row("ResolutionBridge")
def _(case: Case) -> None:
    half = {"samples": case.sampled(sigmas=case.sigmas[:-1])}
    larger, image, *_ = case.node(
        "ResolutionBridge", model=case.model, **case.prompts, vae=case.vae, vae_high=case.vae, latent=half, sigmas=case.sigmas[-2:], cfg=CFG
    )
    _larger(case, larger, image)


@row("ResolutionBridgeSampler")
def _(case: Case) -> None:
    prompts = {f"{name}_{end}": value for name, value in case.prompts.items() for end in ("low", "high")}
    larger, image = case.node(
        "ResolutionBridgeSampler", model_low=case.model, model_high=case.model, **prompts, vae_low=case.vae, vae_high=case.vae,
        latent_image=case.latent, seed=SEED, steps=STEPS, cfg_low=CFG, cfg_high=CFG, sampler_name="euler", scheduler="simple",
        **case.switch("ResolutionBridgeSampler"),
    )  # fmt: skip
    _larger(case, larger, image)


def _larger(case: Case, latent: dict[str, torch.Tensor], image: torch.Tensor) -> None:
    """The latent has twice the sides, and its picture is a batch of pictures."""
    *rest, height, width = case.latent["samples"].shape
    if list(latent["samples"].shape) != [*rest, 2 * height, 2 * width]:
        raise Wrong(f"a latent of {tuple(latent['samples'].shape)} from one of {tuple(case.latent['samples'].shape)}")
    if image.ndim != 4 or image.shape[-1] != 3:
        raise Wrong(f"a picture of {tuple(image.shape)}")
    finite("the bridge", latent["samples"], image)


def _sides(case: Case) -> dict[str, Any]:
    parts = {"model": case.model, "vae": case.vae, **case.prompts, "cfg": CFG}
    return {f"{key}_{side}": value for key, value in parts.items() for side in "ab"}


@row("LatentSpaceBridgeGuider")
def _(case: Case) -> None:
    for strength in (0.0, 0.5):
        guider = case.node("LatentSpaceBridgeGuider", **_sides(case), strength=strength)[0]
        out = nodes_custom_sampler.SamplerCustomAdvanced().execute(
            case.noise, guider, comfy.samplers.sampler_object("euler"), case.sigmas, case.latent
        )[0]["samples"]
        a = out.unbind()[0] if getattr(out, "is_nested", False) else out
        if strength == 0:
            equal("strength 0", a, case.stock)
        finite("strength 0.5", a)


@row("LatentSpaceBridgeSampler")
def _(case: Case) -> None:
    for strength in (0.0, 0.5):
        a, b, image = case.node(
            "LatentSpaceBridgeSampler", noise=case.noise, sampler=comfy.samplers.sampler_object("euler"), sigmas=case.sigmas,
            latent_a=case.latent, **_sides(case), strength=strength,
        )  # fmt: skip
        if strength == 0:
            equal("strength 0", a["samples"], case.stock)
        finite("strength 0.5", a["samples"], b["samples"], image)
