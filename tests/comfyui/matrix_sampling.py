"""Rows of the matrix for samplers and for measures of a sampling run."""

from __future__ import annotations

import families
import torch
from matrix import Case, Wrong, equal, finite, row


@row("NoiseCorrelation")
def _(case: Case) -> None:
    """White noise at a middle level has no correlation and the strength 1."""
    sampling, shape = case.model.get_model_object("model_sampling"), (16, *case.family.size)
    clean, noise = (torch.randn(shape, generator=torch.Generator().manual_seed(seed)) for seed in (7, 8))
    format_in, format_out = case.model.model.process_latent_in, case.model.model.process_latent_out
    noisy = format_out(sampling.noise_scaling(case.sigmas[1], noise, format_in(clean)))
    correlation, std, _ = case.node(
        "NoiseCorrelation", model=case.model, noisy={"samples": noisy}, clean={"samples": clean}, sigmas=case.sigmas[1:]
    )
    if abs(correlation) > 0.05 or abs(std - 1) > 0.05:
        raise Wrong(f"white noise gives the correlation {correlation:.3f} and the strength {std:.3f}")


@row("ProfilePipeline")
def _(case: Case) -> None:
    side = max(128, case.family.size[-1] * families.FACTOR)  # PixArt draws nothing smaller than its positions allow
    table, chart, *_ = case.node(
        "ProfilePipeline", model=case.model, clip=case.clip, vae=case.vae, width=side, height=side, steps=2, runs=1, warmup=0
    )
    finite("the chart", chart)
    if "%" not in table:
        raise Wrong(f"no shares in the table: {table[:80]}")


@row("SamplerPicard ddim")
def _(case: Case) -> None:
    sampler = case.node("SamplerPicard", method="ddim", tolerance=0.0)[0]
    equal("tolerance 0", case.sampled(sampler=sampler), case.stock)


@row("SamplerPicard ddpm")
def _(case: Case) -> None:
    sampler = case.node("SamplerPicard", method="ddpm", tolerance=0.0)[0]
    equal("tolerance 0 is euler_ancestral", case.sampled(sampler=sampler), case.sampled(sampler="euler_ancestral"))


@row("SamplerDPMSolver")
def _(case: Case) -> None:
    """Order 1 is DDIM, which is euler in sigma."""
    sampler = case.node("SamplerDPMSolver", order=1, method="multistep")[0]
    equal("order 1", case.sampled(sampler=sampler), case.stock)
    finite("order 2", case.sampled(sampler=case.node("SamplerDPMSolver")[0]))


@row("SamplerPNDM")
def _(case: Case) -> None:
    for variant in ("PLMS", "F-PNDM", "S-PNDM"):
        finite(variant, case.sampled(sampler=case.node("SamplerPNDM", variant=variant)[0]))


@row("SamplerAdaptiveSDE")
def _(case: Case) -> None:
    for flow in (True, False):
        sampler = case.node("SamplerAdaptiveSDE", rtol=0.5, atol=1.0, max_nfe=60, probability_flow=flow)[0]
        finite("ODE" if flow else "SDE", case.sampled(sampler=sampler))
