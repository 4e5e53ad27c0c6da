"""Rows of the matrix for attention, compiling and guidance."""

from __future__ import annotations

import families
import torch
from inside import relative
from matrix import CFG, SEED, STEPS, Case, Wrong, equal, finite, row


@row("FlashAttentionPatch")
def _(case: Case) -> None:
    patched, _ = case.node("FlashAttentionPatch", model=case.model, backend="sdpa_math")
    equal("attention by sdpa_math", case.sampled(case.guider(patched)), case.stock, 1e-3)


@row("AttentionReport")
def _(case: Case) -> None:
    patched, _ = case.node("FlashAttentionPatch", model=case.model, backend="sdpa_math")
    latent = {"samples": case.sampled(case.guider(patched))}
    report, same = case.node("AttentionReport", model=patched, latent=latent)
    if same is not latent or "sdpa_math" not in report:
        raise Wrong(f"the report names no kernel: {report[:80]}")


@row("AttentionEntropyScale")
def _(case: Case) -> None:
    factor = getattr(case.model.model.latent_format, "spacial_downscale_ratio", 8)
    height, width = (side * factor for side in case.family.size[-2:])
    plain = case.node("AttentionEntropyScale", model=case.model, trained_width=width, trained_height=height)[0]
    equal("at the size of training", case.sampled(case.guider(plain)), case.stock)
    sharp = families.model(case.name, std=0.2)  # attention with a scale to see
    wide = case.node("AttentionEntropyScale", model=sharp, trained_width=width // 2, trained_height=height // 2)[0]
    scaled, whole = case.sampled(case.guider(wide)), case.sampled(case.guider(sharp))
    finite("at another size", scaled)
    if relative(scaled, whole) < 1e-6:
        raise Wrong("attention is not scaled at another size")


@row("Compile")
def _(case: Case) -> None:
    compiled = case.node("Compile", model=case.model, compile="never", budget=0.0)[0]
    equal("uncompiled", case.sampled(case.guider(compiled)), case.stock, 1e-3)


@row("TimeDecoupledGuider")
def _(case: Case) -> None:
    guider = case.node(
        "TimeDecoupledGuider", structure=case.model, texture=case.model, **case.prompts, structure_cfg=CFG, texture_cfg=CFG, **case.switch()
    )[0]
    equal("the same model twice", case.sampled(guider), case.stock)


@row("TimeDecoupledModel")
def _(case: Case) -> None:
    both = case.node("TimeDecoupledModel", structure=case.model, texture=case.model.clone(), **case.switch())[0]
    equal("the same model twice", case.sampled(case.guider(both)), case.stock)


@row("TimeDecoupledSampler")
def _(case: Case) -> None:
    drawn = case.node(
        "TimeDecoupledSampler", structure=case.model, texture=case.model, **case.prompts, latent_image=case.latent, seed=SEED, steps=STEPS,
        structure_cfg=CFG, texture_cfg=CFG, sampler_name="euler", scheduler="simple", **case.switch(),
    )[0]  # fmt: skip
    equal("the same model twice", drawn["samples"], case.stock)


@row("SplitSigmasAtTimestep")
def _(case: Case) -> None:
    high, low = case.node("SplitSigmasAtTimestep", model=case.model, sigmas=case.sigmas, **case.switch())
    equal("the two parts", torch.cat([high[:-1], low]), case.sigmas)


@row("StyleGuidance")
def _(case: Case) -> None:
    styled = case.node("StyleGuidance", model=case.model, style=case.positive, style_scale=3.0)[0]
    equal("style = prompt", case.sampled(case.guider(styled)), case.stock)
    other = case.node("StyleGuidance", model=case.model, style=families.conditioning(case.name, 2), style_scale=3.0)[0]
    moved = case.sampled(case.guider(other))
    finite("another style", moved)
    if relative(moved, case.stock) < 1e-6:
        raise Wrong("another style changes nothing")
