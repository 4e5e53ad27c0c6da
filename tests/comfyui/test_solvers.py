"""Our solvers inside a real ComfyUI: Picard against ComfyUI's own samplers, masks and ranges in a batch of noise levels, cancel."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
from PIL import Image
from rapiddraw.tests.comfyui.graphs import PROMPT, Graph, node, picture

STEPS = 12
PICARD = node("RapidDrawSamplerPicard", method="ddim", window=8, tolerance=0.0, max_states=0)
ADAPTIVE = node(
    "RapidDrawSamplerAdaptiveSDE", rtol=0.3, atol=0.05, h_init=0.05, safety=0.9, exponent=0.9, max_nfe=60, probability_flow=False
)


def sampled(sampler: dict[str, Any], steps: int = STEPS, seed: int = 1, **changes: Any) -> Graph:
    """The plain picture, two of them, by SamplerCustom with `sampler`."""
    graph = picture(
        E=node("EmptyLatentImage", width=64, height=64, batch_size=2),
        A=sampler,
        B=node("BasicScheduler", model=["L", 0], scheduler="simple", steps=steps, denoise=1.0),
        K=node(
            "SamplerCustom", model=["L", 0], add_noise=True, noise_seed=seed, cfg=3.0, positive=["P", 0], negative=["N", 0],
            sampler=["A", 0], sigmas=["B", 0], latent_image=["E", 0],
        ),
    )  # fmt: skip
    return {**graph, **changes}


def draw(server: Any, graph: Graph) -> list[np.ndarray]:
    run = server.run(graph)
    assert (run.status, run.node_errors, run.error) == ("success", {}, ""), server.tail()
    return [np.asarray(Image.open(io.BytesIO(data)).convert("RGB"), dtype=np.int16) for data in server.pictures(run)]


def apart(one: list[np.ndarray], other: list[np.ndarray]) -> int:
    assert len(one) == len(other) > 0
    return max(int(np.abs(a - b).max()) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize(("method", "stock"), [("ddim", "euler"), ("ddpm", "euler_ancestral")])
def test_picard_at_tolerance_0_is_the_stock_sampler(server: Any, method: str, stock: str) -> None:
    ours = draw(server, sampled(node("RapidDrawSamplerPicard", method=method, window=8, tolerance=0.0, max_states=3)))
    assert apart(ours, draw(server, sampled(node("KSamplerSelect", sampler_name=stock)))) <= 1


def test_masks_of_a_batch_reach_every_noise_level(server: Any) -> None:
    parts = {
        "M": node("SolidMask", value=1.0, width=32, height=64),
        "C": node("SolidMask", value=0.0, width=64, height=64),
        "O": node("MaskComposite", destination=["C", 0], source=["M", 0], x=0, y=0, operation="add"),
        "Z": node("EmptyLatentImage", width=64, height=64, batch_size=2),
        "E": node("SetLatentNoiseMask", samples=["Z", 0], mask=["O", 0]),
    }
    ours, theirs = (draw(server, sampled(one, **parts)) for one in (PICARD, node("KSamplerSelect", sampler_name="euler")))
    assert apart(ours, theirs) <= 1
    assert apart(ours, draw(server, sampled(PICARD))) > 1


def test_a_mask_that_changes_with_the_noise_level(server: Any) -> None:
    parts = {
        "M": node("SolidMask", value=0.5, width=64, height=64),
        "Z": node("EmptyLatentImage", width=64, height=64, batch_size=2),
        "E": node("SetLatentNoiseMask", samples=["Z", 0], mask=["M", 0]),
        "W": node("DifferentialDiffusion", model=["L", 0]),
    }
    drawn = []
    for one in (PICARD, node("KSamplerSelect", sampler_name="euler")):
        graph = sampled(one, **parts)
        graph["K"]["inputs"]["model"] = ["W", 0]
        drawn.append(draw(server, graph))
    assert apart(*drawn) <= 1


def test_prompts_with_a_start_and_an_end(server: Any) -> None:
    parts = {
        "Q": node("CLIPTextEncode", text="a tall blue fruit", clip=["L", 1]),
        "F": node("ConditioningSetTimestepRange", conditioning=["Q", 0], start=0.0, end=0.4),
        "R": node("CLIPTextEncode", text=PROMPT, clip=["L", 1]),
        "G": node("ConditioningSetTimestepRange", conditioning=["R", 0], start=0.4, end=1.0),
        "P": node("ConditioningCombine", conditioning_1=["F", 0], conditioning_2=["G", 0]),
    }
    ours, theirs = (draw(server, sampled(one, **parts)) for one in (PICARD, node("KSamplerSelect", sampler_name="euler")))
    assert apart(ours, theirs) <= 1


def test_cancel_inside_picard_then_a_clean_run(server: Any) -> None:
    before = draw(server, sampled(PICARD))
    slow = sampled(node("RapidDrawSamplerPicard", method="ddim", window=16, tolerance=0.0, max_states=1), steps=600, seed=2)
    since = len(server.logged())
    cancelled = server.run(slow, cancel_at=3)
    assert cancelled.of("execution_interrupted") and not cancelled.of("execution_success") and not cancelled.error
    told = server.logged(since)
    assert sum("Processing interrupted" in line for line in told) == 1 and not any("Traceback" in line for line in told)
    assert len(cancelled.of("progress")) < 100
    server.forget()
    assert apart(draw(server, sampled(PICARD)), before) == 0


def test_the_adaptive_sampler_reports_and_repeats(server: Any) -> None:
    graph = sampled(
        ADAPTIVE,
        R=node("RapidDrawSamplerReport", sampler=["A", 0], latent=["K", 0]),
        V=node("PreviewAny", source=["R", 1]),
        D=node("VAEDecode", samples=["R", 0], vae=["L", 2]),
    )
    run = server.run(graph)
    assert (run.status, run.error) == ("success", ""), server.tail()
    assert "evaluations: " in run.outputs["V"]["text"][0]
    shown = [data["value"] for data in run.of("progress") if data["node"] == "K"]
    assert shown == sorted(shown) and shown[-1] == STEPS and run.previews > 3
    first = server.pictures(run)
    server.forget()
    assert server.pictures(server.run(graph)) == first


@pytest.mark.parametrize(("order", "method"), [(2, "singlestep"), (3, "singlestep"), (3, "multistep")])
def test_dpm_solver_draws(server: Any, order: int, method: str) -> None:
    ours = draw(server, sampled(node("RapidDrawSamplerDPMSolver", order=order, method=method)))
    assert apart(ours, draw(server, sampled(node("KSamplerSelect", sampler_name="dpmpp_2m")))) > 0


def test_order_2_multistep_is_the_stock_dpmpp_2m(server: Any) -> None:
    ours = draw(server, sampled(node("RapidDrawSamplerDPMSolver", order=2, method="multistep")))
    assert apart(ours, draw(server, sampled(node("KSamplerSelect", sampler_name="dpmpp_2m")))) <= 1
