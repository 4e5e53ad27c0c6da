"""The user's world: a checkpoint of SD 1.5 in the stock loader, and every node of ours that takes what comes from it.

Once with a U-Net of three blocks; and, marked slow (2 GB of random weights on the disk, half an hour on one core), in its real size:
`make test-comfyui ARGS="-m slow"`. Nodes are found by their inputs and outputs, so that a new one is covered as it is; one that needs more
than defaults has a line in CHANGES.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from rapiddraw import NODE_CLASS_MAPPINGS
from rapiddraw.benchmarks.comfy_server import Graph
from rapiddraw.core.graph.inputs import input_specs
from rapiddraw.core.knowledge.graph import build_graph, save_knowledge
from rapiddraw.tests import sd_helpers
from rapiddraw.tests.comfyui.graphs import defaults, node
from rapiddraw.tests.comfyui.test_saved_graphs import embedded_pictures, pixels, psnr

SIZES = {"compact": sd_helpers.compact_sd15, "full": sd_helpers.full_sd15}
LEAST_PSNR = 40.0
WORDS = (
    "red", "blue", "green", "round", "tall", "small", "apple", "plum", "pear", "hill", "sky", "tree", "house", "dog", "cat", "bird",
    "fish", "stone",
)  # fmt: skip
FEW_STEPS = {"prompts": "a red apple", "batch_size": 1, "size": 64, "few_steps": 2, "teacher_steps": 2, "drawn": 2, "rank": 1}
PARTS: Graph = {  # what feeds a node, by the name of the part; only those that a graph reaches are run
    "checkpoint": node("CheckpointLoaderSimple", ckpt_name="random-sd15.safetensors"),
    "positive": node("CLIPTextEncode", text="a (red:1.2) apple on a green hill", clip=["checkpoint", 1]),
    "negative": node("CLIPTextEncode", text="", clip=["checkpoint", 1]),
    "empty": node("EmptyLatentImage", width=64, height=64, batch_size=1),
    "drawn": node(
        "KSampler", model=["checkpoint", 0], positive=["positive", 0], negative=["negative", 0], latent_image=["empty", 0],
        seed=1, steps=2, cfg=4.0, sampler_name="euler", scheduler="normal", denoise=1.0,
    ),
    "image": node("VAEDecode", samples=["drawn", 0], vae=["checkpoint", 2]),
    "mask": node("SolidMask", value=1.0, width=64, height=64),
    "sigmas": node("BasicScheduler", model=["checkpoint", 0], scheduler="normal", steps=2, denoise=1.0),
    "sampler": node("KSamplerSelect", sampler_name="euler"),
    "noise": node("RandomNoise", noise_seed=1),
    "guider": node("CFGGuider", model=["checkpoint", 0], positive=["positive", 0], negative=["negative", 0], cfg=4.0),
    "graph": node("RapidDrawKnowledgeGraphLoader", kg_name="words-kg.safetensors"),
    "fitted": node(
        "RapidDrawFitKnowledgeProjection", clip=["checkpoint", 1], knowledge=["graph", 0], ridge=0.1, holdout=0.2, seed=0, language="en",
        max_tokens=4, limit=0, filename="words",
    ),
    "upscaler": node("RapidDrawESRGANLoader", model_name="tiny-esrgan.safetensors"),
    "fast": node("RapidDrawFlashAttentionPatch", model=["checkpoint", 0], backend="auto", apply_to="both", allow_inexact=False),
    "student": node(
        "RapidDrawDistillFewSteps", model=["checkpoint", 0], clip=["checkpoint", 1], filename="loaded", method="trajectory", guidance=2.0,
        steps=1, lr=1e-4, network="LoRA", layers="attention", seed=0, save_every=100, resume=True, **FEW_STEPS,
    ),
    "pictures": node("RapidDrawOrchardDataset", folder="world", count=3, size=64, spoiled=0.0, seed=0),
    "pair": node(
        "RapidDrawTrainTimeDecoupledPair", model=["checkpoint", 0], clip=["checkpoint", 1], vae=["checkpoint", 2], folder="",
        filename="world-pair", steps=1, batch_size=1, lr=1e-4, rank=1, layers="attention", size=64, prompts="a red apple", seed=0,
        t_struct=500,
    ),
    "quick": node("RapidDrawCompile", model=["checkpoint", 0], compile="never", precision="keep", budget=1.0),
}  # fmt: skip
SOURCES: dict[str, list[Any]] = {
    "MODEL": ["checkpoint", 0], "CLIP": ["checkpoint", 1], "VAE": ["checkpoint", 2], "CONDITIONING": ["positive", 0],
    "LATENT": ["drawn", 0], "IMAGE": ["image", 0], "MASK": ["mask", 0], "SIGMAS": ["sigmas", 0], "SAMPLER": ["sampler", 0],
    "NOISE": ["noise", 0], "GUIDER": ["guider", 0], "KNOWLEDGE_GRAPH": ["graph", 0], "UPSCALE_MODEL": ["upscaler", 0],
}  # fmt: skip
PARTS_OF_A_MODEL = {"MODEL", "CLIP", "VAE", "UPSCALE_MODEL"}  # linked where a node takes them, also where it need not have them
TAKES, GIVES = {"MODEL", "CLIP", "VAE", "GUIDER"}, {"SAMPLER", "SIGMAS", "GUIDER"}
SMALL = {"width": 64, "height": 64, "steps": 2, "runs": 1, "warmup": 0, "max_nfe": 12}
CHANGES: dict[str, dict[str, Any]] = {  # inputs beyond the defaults, by node
    "RapidDrawApplyKnowledge": {"clip": ["fitted", 0]},
    "RapidDrawKGTextEncode": {"clip": ["fitted", 0], "text": "a red apple and a dog"},
    "RapidDrawFitKnowledgeProjection": {"filename": "words"},
    "RapidDrawNoiseCorrelation": {"clean": ["empty", 0]},
    "RapidDrawAttentionReport": {"model": ["fast", 0]},
    "RapidDrawCompileReport": {"model": ["quick", 0]},
    "RapidDrawFactorizeUNet": {"mode": "rank", "value": 16.0, **dict.fromkeys(("attention", "feed_forward", "resnet"), False)},  # minutes
    "RapidDrawDistillUNet": {"mode": "rank", "value": 4.0, "batch_size": 1, "size": 64, "lr": 1e-5},
    "RapidDrawDistillFewSteps": FEW_STEPS,
    "RapidDrawTrainKroneckerAdapter": {"size": 64},
    "RapidDrawTrainControlAdapter": {"size": 64, "format": "kronecker"},
    "RapidDrawTrainImageTokens": {"size": 64, "tower_name": "tiny-image.safetensors"},
    "RapidDrawFilterDataset": {"folder": ["pictures", 0], "out": "world-filtered"},
    "RapidDrawLoadTimeDecoupledLoras": {"pair": ["pair", 2]},
    "RapidDrawLoadFewStepModel": {"steps": 0, "file": ["student", 1]},
}


def kinds(node_class: Any) -> set[str]:
    return {spec.type for spec in input_specs(node_class).values()}


# Made for one model's own tokens or weights: a plain SD 1.5 is refused.
OTHERS = {"RapidDrawBilingualTextEncode", "RapidDrawConditioningConcatFeature", "RapidDrawKroneckerAdapterLoader"}
NODES = sorted(
    name for name, cls in NODE_CLASS_MAPPINGS.items() if name not in OTHERS and (kinds(cls) & TAKES or GIVES & set(cls.RETURN_TYPES))
)


@pytest.fixture(scope="module", params=["compact", pytest.param("full", marks=pytest.mark.slow)])
def world(request: pytest.FixtureRequest, server: Any, weights: Path) -> Any:
    """The server, with the checkpoint in its models folder and a graph of words in the pack's."""
    folder = server.base / "models" / "checkpoints"
    sd_helpers.write_single_file(folder / "random-sd15.safetensors", SIZES[request.param](), dtype=torch.float16)
    graph = build_graph([(word, "is", "thing") for word in WORDS], [(word, "en", word) for word in WORDS])
    vectors = torch.randn(len(graph.entities), 8, generator=torch.Generator().manual_seed(0))
    save_knowledge(weights / "words-kg.safetensors", graph.with_embeddings(vectors))
    yield server
    server.forget()
    (folder / "random-sd15.safetensors").unlink()


def reached(graph: Graph) -> Graph:
    """`graph` with the parts that it leads back to."""
    whole, waiting = {}, dict(graph)
    while waiting:
        name, entry = waiting.popitem()
        whole[name] = entry
        links = (value[0] for value in entry["inputs"].values() if isinstance(value, list))
        waiting |= {link: PARTS[link] for link in links if link not in whole and link not in graph}
    return whole


def sinks(output: str, link: list[Any], name: str) -> Graph:
    """Nodes that make a picture, or a text, of an output."""
    drawn = PARTS["drawn"]["inputs"]
    by_guider = {name: [name, 0] for name in ("noise", "guider", "sampler", "sigmas")} | {"latent_image": ["empty", 0]}
    made: Graph = {}
    latent = [f"{name} drawn", 0]
    if output == "MODEL":
        made[latent[0]] = node("KSampler", **{**drawn, "model": link, "steps": 1})
    elif output == "CONDITIONING":
        made[latent[0]] = node("KSampler", **{**drawn, "positive": link, "steps": 1})
    elif output == "CLIP":
        made[f"{name} text"] = node("CLIPTextEncode", text="a red apple", clip=link)
        made[latent[0]] = node("KSampler", **{**drawn, "positive": [f"{name} text", 0], "steps": 1})
    elif output.lower() in by_guider:
        made[latent[0]] = node("SamplerCustomAdvanced", **{**by_guider, output.lower(): link})
    elif output == "LATENT":
        latent = link
    elif output == "UPSCALE_MODEL":
        made[f"{name} large"] = node("ImageUpscaleWithModel", upscale_model=link, image=["image", 0])
        return made | {f"{name} shown": node("PreviewImage", images=[f"{name} large", 0])}
    elif output not in ("IMAGE", "VAE"):
        return {f"{name} shown": node("PreviewAny", source=link)}
    vae = link if output == "VAE" else ["checkpoint", 2]
    image = link
    if output != "IMAGE":
        image = [f"{name} image", 0]
        made[image[0]] = node("VAEDecode", samples=["drawn", 0] if output == "VAE" else latent, vae=vae)
    return made | {f"{name} shown": node("PreviewImage", images=image)}


def graph_of(server: Any, class_type: str, **changes: Any) -> Graph:
    """A graph around one node of ours, with small numbers, every output looked at."""
    schema = server.get(f"/object_info/{class_type}")[class_type]
    inputs = defaults(schema)
    for name, spec in schema["input"]["required"].items():
        if isinstance(spec[0], str) and spec[0] in SOURCES:
            inputs[name] = SOURCES[spec[0]]
    for name, spec in schema["input"].get("optional", {}).items():
        if isinstance(spec[0], str) and spec[0] in PARTS_OF_A_MODEL:
            inputs[name] = SOURCES[spec[0]]
    inputs |= {name: value for name, value in SMALL.items() if name in schema["input"]["required"]}
    graph = {"X": node(class_type, **{**inputs, **changes})}
    for slot, output in enumerate(schema["output"]):
        graph |= sinks(output, ["X", slot], f"output {slot}")
    return reached(graph)


@pytest.mark.parametrize("class_type", NODES)
def test_a_node_accepts_what_comes_from_the_users_checkpoint(world: Any, class_type: str) -> None:
    run = world.run(graph_of(world, class_type, **CHANGES.get(class_type, {})))
    assert (run.status, run.node_errors, run.error) == ("success", {}, ""), world.tail()
    pictures = [np.asarray(Image.open(io.BytesIO(data))) for data in world.pictures(run, "temp")]
    assert run.outputs and all(picture.std() > 1 for picture in pictures), "a picture of one colour"


@pytest.mark.parametrize("class_type", ["RapidDrawApplyKnowledge", "RapidDrawKGTextEncode"])
def test_knowledge_without_a_fit_is_refused_with_the_way_out(world: Any, class_type: str) -> None:
    run = world.run(graph_of(world, class_type, **{**CHANGES[class_type], "clip": ["checkpoint", 1]}))
    assert run.status == "error" and "Fit Knowledge Projection" in run.error


def test_factored_saved_and_loaded_again_it_draws_the_same(world: Any) -> None:
    factors = node(
        "RapidDrawFactorizeUNet", model=["checkpoint", 0], mode="rank", value=8.0, split="paper", latency="off", attention=True,
        feed_forward=False, resnet=False, projection=True,
    )  # fmt: skip
    saved = node("RapidDrawSaveLowRankUNet", model=["factors", 0], filename="random-sd15-low-rank", as_dense=False)
    drawn = {**PARTS["drawn"]["inputs"], "model": ["factors", 0]}
    shown = {"drawn low": node("KSampler", **drawn), "image low": node("VAEDecode", samples=["drawn low", 0], vae=["checkpoint", 2])}
    shown["shown"] = node("SaveImage", images=["image low", 0], filename_prefix="low")
    first = world.run(reached({"factors": factors, "saved": saved, **shown}))
    assert (first.status, first.error) == ("success", ""), world.tail()
    loader = node("RapidDrawLowRankUNETLoader", unet_name="random-sd15-low-rank.safetensors")
    again = world.run(reached({"factors": loader, **shown}))
    assert (again.status, again.error) == ("success", ""), world.tail()
    pictures = [world.pictures(run)[0] for run in (first, again)]
    assert psnr(*(pixels(picture) for picture in pictures)) >= LEAST_PSNR  # it is stored in half precision


def test_both_hosts_draw_the_same_with_it(world: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    graph = reached({"saved": node("SaveImage", images=["image", 0], filename_prefix="world")})
    run = world.run(graph)
    assert (run.status, run.error) == ("success", ""), world.tail()
    (native,) = world.pictures(run)
    world.forget()
    (embedded,) = embedded_pictures(graph, world.base / "models", tmp_path, monkeypatch)
    assert psnr(pixels(native), pixels(embedded)) >= LEAST_PSNR and pixels(native).std() > 0.01
