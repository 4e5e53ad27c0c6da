"""Two models in time through ComfyUI's API: identities by pixels, refusals, stops, previews."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from rapiddraw.tests.comfyui.graphs import PROMPT, TINY, node, picture
from safetensors.torch import load_file

EPS = {**TINY, "unet_name": "eps-unet.safetensors"}


def draw(server: Any, graph: dict[str, Any]) -> np.ndarray:
    run = server.run(graph)
    assert (run.status, run.node_errors, run.error) == ("success", {}, ""), server.tail()
    (data,) = server.pictures(run)
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"), dtype=np.int16)


def stock(name: str = "euler", model: Any = ("L", 0)) -> dict[str, Any]:
    graph = picture(1, 4, T=node("RapidDrawBundleLoader", **EPS))
    graph["K"]["inputs"].update(sampler_name=name, model=list(model))
    return graph


def pair(name: str = "euler", t_struct: int = 500, texture: Any = ("T", 0), steps: int = 4, seed: int = 1, **more: Any) -> dict[str, Any]:
    inputs = {
        "structure": ["L", 0], "texture": list(texture), "positive": ["P", 0], "negative": ["N", 0], "latent_image": ["E", 0], "seed": seed,
        "steps": steps, "structure_cfg": 3.0, "texture_cfg": 3.0, "sampler_name": name, "scheduler": "normal", "denoise": 1.0,
        "t_struct": t_struct, "history": "keep", **more,
    }  # fmt: skip
    return {**stock(), "K": node("RapidDrawTimeDecoupledSampler", **inputs)}


@pytest.mark.parametrize("name", ["euler", "dpmpp_2m", "heun", "uni_pc", "ddim"])
def test_the_same_model_twice_is_the_stock_picture(server: Any, name: str) -> None:
    assert np.array_equal(draw(server, pair(name, texture=("L", 0))), draw(server, stock(name)))


def latents(server: Any, graph: dict[str, Any], *sources: str) -> list[torch.Tensor]:
    """What each of those samplers of a graph gives, bit for bit."""
    saved = {f"S{name}": node("SaveLatent", samples=[name, 0], filename_prefix="latents/l") for name in sources}
    run = server.run({key: entry for key, entry in graph.items() if key not in ("D", "S")} | saved)
    assert (run.status, run.node_errors, run.error) == ("success", {}, ""), server.tail()
    files = [run.outputs[f"S{name}"]["latents"][0] for name in sources]
    return [load_file(server.base / "output" / file["subfolder"] / file["filename"])["latent_tensor"] for file in files]


def test_every_sampler_gives_the_stock_latent_bit_for_bit(server: Any) -> None:
    """One graph: for every sampler of this ComfyUI the stock KSampler, and the pair of one model twice."""
    names = server.get("/object_info/KSampler")["KSampler"]["input"]["required"]["sampler_name"][0]
    names = names["options"] if isinstance(names, dict) else names
    graph = stock()
    for name in names:
        graph |= {f"stock {name}": stock(name)["K"], f"pair {name}": pair(name, texture=("L", 0))["K"]}
    drawn = latents(server, graph, *(f"{kind} {name}" for name in names for kind in ("stock", "pair")))
    assert len(names) >= 40 and [name for i, name in enumerate(names) if not torch.equal(drawn[2 * i], drawn[2 * i + 1])] == []


@pytest.mark.parametrize("history", ["keep", "reset"])
def test_one_model_alone_is_the_stock_latent_bit_for_bit(server: Any, history: str) -> None:
    graph, ends = stock(), {"L": 0, "T": 1000}
    for name in (names := ("euler", "dpmpp_2m", "dpmpp_2m_sde", "uni_pc")):
        for model, t_struct in ends.items():
            both = pair(name, t_struct, history=history)["K"]
            graph |= {f"stock {name} {model}": stock(name, (model, 0))["K"], f"pair {name} {model}": both}
    pairs = [(name, model) for name in names for model in ends]
    drawn = latents(server, graph, *(f"{kind} {name} {model}" for name, model in pairs for kind in ("stock", "pair")))
    assert [one for i, one in enumerate(pairs) if not torch.equal(drawn[2 * i], drawn[2 * i + 1])] == []


def test_one_model_alone_is_the_stock_picture_with_it(server: Any) -> None:
    assert np.array_equal(draw(server, pair(t_struct=0)), draw(server, stock()))
    assert np.array_equal(draw(server, pair(t_struct=1000)), draw(server, stock(model=("T", 0))))


def test_all_ways_to_a_pair_agree(server: Any) -> None:
    """The node, the guider, the composite MODEL and two stock samplers: one picture of euler, up to rounding."""
    mixed = draw(server, pair())
    assert (mixed != draw(server, stock())).any() and (mixed != draw(server, stock(model=("T", 0)))).any()
    parts = {
        "X": node("RandomNoise", noise_seed=1),
        "A": node("KSamplerSelect", sampler_name="euler"),
        "B": node("BasicScheduler", model=["L", 0], scheduler="normal", steps=4, denoise=1.0),
    }
    pair_of = {"structure": ["L", 0], "texture": ["T", 0], "t_struct": 500}
    prompts = {"positive": ["P", 0], "negative": ["N", 0]}
    base = {**stock(), **parts}
    sampling = {"sampler": ["A", 0], "latent_image": ["E", 0]}
    guider = node("RapidDrawTimeDecoupledGuider", **pair_of, **prompts, structure_cfg=3.0, texture_cfg=3.0)
    by_guider = {**base, "G": guider, "K": node("SamplerCustomAdvanced", noise=["X", 0], guider=["G", 0], sigmas=["B", 0], **sampling)}
    composite = {**base, "M": node("RapidDrawTimeDecoupledModel", **pair_of)}
    composite["K"] = {**composite["K"], "inputs": {**composite["K"]["inputs"], "model": ["M", 0]}}
    split = {
        **base,
        "C": node("RapidDrawSplitSigmasAtTimestep", model=["L", 0], sigmas=["B", 0], timestep=500),
        "G1": node("CFGGuider", model=["L", 0], **prompts, cfg=3.0),
        "G2": node("CFGGuider", model=["T", 0], **prompts, cfg=3.0),
        "O": node("DisableNoise"),
        "K1": node("SamplerCustomAdvanced", noise=["X", 0], guider=["G1", 0], sigmas=["C", 0], **sampling),
        "K": node("SamplerCustomAdvanced", noise=["O", 0], guider=["G2", 0], sigmas=["C", 1], sampler=["A", 0], latent_image=["K1", 0]),
    }
    for graph in (by_guider, composite, split):
        assert np.abs(draw(server, graph) - mixed).max() <= 1


def test_style_guidance_in_a_graph(server: Any) -> None:
    plain = draw(server, stock())

    def styled(scale: float) -> np.ndarray:
        guidance = node("RapidDrawStyleGuidance", model=["L", 0], style=["C", 0], style_scale=scale, start_percent=0.0, end_percent=1.0)
        return draw(
            server, {**stock(model=("Y", 0)), "C": node("CLIPTextEncode", text=PROMPT + " with dots", clip=["L", 1]), "Y": guidance}
        )

    assert np.array_equal(styled(0.0), plain) and (styled(6.0) != plain).any()


def test_a_misfit_names_the_bridge(server: Any) -> None:
    graph = pair(texture=("W", 0))
    graph["W"] = node("RapidDrawBundleLoader", **{**TINY, "unet_name": "wide-unet.safetensors", "vae_name": "wide-vae.safetensors"})
    run = server.run(graph)
    assert run.status == "error" and "RapidDrawLatentSpaceBridge" in run.error


@pytest.mark.parametrize("at", [3, 330])
def test_a_cancel_in_either_stage_does_not_poison_the_next_run(server: Any, at: int) -> None:
    before = draw(server, pair(seed=7))
    cancelled = server.run(pair(steps=400, seed=8), cancel_at=at)
    assert cancelled.of("execution_interrupted") and not cancelled.of("execution_success") and not cancelled.error
    server.forget()
    assert np.array_equal(draw(server, pair(seed=7)), before)


def test_one_bar_and_previews_for_both_stages(server: Any) -> None:
    run = server.run(pair(steps=8, seed=9))
    values = [(data["value"], data["max"]) for data in run.of("progress") if data["node"] == "K"]
    assert [value for value, _ in values] == sorted({value for value, _ in values}) and values[-1] == (8, 8) and run.previews >= 2
