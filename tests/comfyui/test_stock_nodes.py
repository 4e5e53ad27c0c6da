"""Stock nodes of ComfyUI on our MODEL, CLIP, VAE, SAMPLER and UPSCALE_MODEL."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from rapiddraw.core.bundles.load import load_bundle
from rapiddraw.tests.comfyui.graphs import PROMPT, TINY, defaults, node, picture, sampled_by


def draw(server: Any, graph: dict[str, Any]) -> np.ndarray:
    """Run a graph that saves one picture and return its pixels."""
    run = server.run(graph)
    assert (run.status, run.node_errors, run.error) == ("success", {}, ""), server.tail()
    (data,) = server.pictures(run)
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"), dtype=np.int16)


@pytest.fixture(scope="module")
def plain(server: Any) -> np.ndarray:
    """The picture without anything special."""
    return draw(server, picture())


@pytest.fixture(scope="module")
def lora(server: Any, weights: Path) -> str:
    """A LoRA of rank 4 for the attention of the U-Net, in kohya's names, and of the text encoder, in ComfyUI's, in ComfyUI's folder."""
    from safetensors.torch import save_file

    changed = {}
    for name, weight in load_bundle(weights / "tiny-unet.safetensors").tensors.items():
        if name.endswith(("to_q.weight", "to_v.weight")):
            changed["lora_unet_" + name.removesuffix(".weight").replace(".", "_")] = weight.shape
    for name, weight in load_bundle(weights / "tiny-text.safetensors").tensors.items():
        if name.endswith(("q_proj.weight", "v_proj.weight")):
            changed[f"text_encoders.rapiddraw.transformer.{name.removesuffix('.weight')}"] = weight.shape
    generator = torch.Generator().manual_seed(0)
    tensors = {}
    for key, shape in changed.items():
        tensors[f"{key}.lora_up.weight"] = torch.randn(shape[0], 4, generator=generator)
        tensors[f"{key}.lora_down.weight"] = torch.randn(4, shape[1], generator=generator)
        tensors[f"{key}.alpha"] = torch.tensor(4.0)
    save_file(tensors, str(server.base / "models" / "loras" / "made.safetensors"))
    return "made.safetensors"


def test_prompt_weights_matter(server: Any, plain: np.ndarray) -> None:
    graph = picture(P=node("CLIPTextEncode", text=PROMPT.replace("red", "(red:1.8)"), clip=["L", 1]))
    assert (draw(server, graph) != plain).any()


def test_long_prompts_are_read_to_their_end(server: Any) -> None:
    def long(last: str) -> np.ndarray:
        return draw(server, picture(P=node("CLIPTextEncode", text="a red fruit " * 20 + last, clip=["L", 1])))

    assert (long("red") != long("blue")).any()


def test_clip_skip(server: Any, plain: np.ndarray) -> None:
    graph = picture(C=node("CLIPSetLastLayer", clip=["L", 1], stop_at_clip_layer=-2))
    graph["P"]["inputs"]["clip"] = ["C", 0]
    assert (draw(server, graph) != plain).any()


def test_sampler_custom_advanced_equals_ksampler(server: Any, plain: np.ndarray) -> None:
    graph = picture(
        G=node("CFGGuider", model=["L", 0], positive=["P", 0], negative=["N", 0], cfg=3.0),
        X=node("RandomNoise", noise_seed=1),
        A=node("KSamplerSelect", sampler_name="euler"),
        B=node("BasicScheduler", model=["L", 0], scheduler="normal", steps=3, denoise=1.0),
        K=node("SamplerCustomAdvanced", noise=["X", 0], guider=["G", 0], sampler=["A", 0], sigmas=["B", 0], latent_image=["E", 0]),
    )
    assert np.abs(draw(server, graph) - plain).max() <= 1


def test_our_sampler_in_a_stock_sampler_node(server: Any, plain: np.ndarray) -> None:
    graph = picture(
        A=node("RapidDrawSamplerPNDM", variant="F-PNDM"),
        B=node("BasicScheduler", model=["L", 0], scheduler="simple", steps=5, denoise=1.0),
        K=node(
            "SamplerCustom", model=["L", 0], add_noise=True, noise_seed=1, cfg=3.0, positive=["P", 0], negative=["N", 0],
            sampler=["A", 0], sigmas=["B", 0], latent_image=["E", 0],
        ),
    )  # fmt: skip
    assert (draw(server, graph) != plain).any()


def test_a_lora_changes_the_picture_and_leaves_the_model_alone(server: Any, plain: np.ndarray, lora: str) -> None:
    loader = node("LoraLoaderModelOnly", model=["L", 0], lora_name=lora, strength_model=1.0)
    graph = sampled_by(["A", 0]) | {"A": loader}
    assert (draw(server, graph) != plain).any()
    assert "not loaded: lora_unet" not in server.tail()  # what it has for the text encoder is left alone
    off = sampled_by(["A", 0]) | {"A": node("LoraLoaderModelOnly", model=["L", 0], lora_name=lora, strength_model=0.0)}
    assert np.array_equal(draw(server, off), plain)
    server.forget()
    assert np.array_equal(draw(server, picture()), plain)


def test_a_lora_of_the_text_encoder(server: Any, plain: np.ndarray, lora: str) -> None:
    def drawn(of_model: float, of_clip: float) -> np.ndarray:
        loader = node("LoraLoader", model=["L", 0], clip=["L", 1], lora_name=lora, strength_model=of_model, strength_clip=of_clip)
        graph = sampled_by(["A", 0]) | {"A": loader}
        graph["P"]["inputs"]["clip"] = ["A", 1]
        since = len(server.logged())
        found = draw(server, graph)
        assert not any("not loaded" in line.lower() for line in server.logged(since))
        return found

    both, of_clip = drawn(1.0, 1.0), drawn(0.0, 1.0)
    assert (of_clip != plain).any() and (both != of_clip).any()
    assert np.array_equal(drawn(0.0, 0.0), plain)


def test_merging_text_encoders(server: Any, plain: np.ndarray, lora: str) -> None:
    def drawn(class_type: str, **inputs: Any) -> np.ndarray:
        graph = picture(
            A=node("LoraLoader", model=["L", 0], clip=["L", 1], lora_name=lora, strength_model=0.0, strength_clip=1.0),
            M=node(class_type, clip1=["L", 1], clip2=["A", 1], **inputs),
        )
        graph["P"]["inputs"]["clip"] = ["M", 0]
        return draw(server, graph)

    assert (drawn("CLIPMergeSimple", ratio=0.5) != plain).any()
    assert np.abs(drawn("CLIPMergeSimple", ratio=1.0) - plain).max() <= 1


def test_merging_with_another_model(server: Any, plain: np.ndarray, lora: str) -> None:
    parts = {
        "A": node("LoraLoaderModelOnly", model=["L", 0], lora_name=lora, strength_model=1.0),
        "M": node("ModelMergeSimple", model1=["L", 0], model2=["A", 0], ratio=0.5),
    }
    merged = draw(server, sampled_by(["M", 0]) | parts)
    assert (merged != plain).any()
    for kind, ratios in (("ModelMergeSimple", ("ratio",)), ("ModelMergeBlocks", ("input", "middle", "out"))):
        parts["M"] = node(kind, model1=["L", 0], model2=["A", 0], **dict.fromkeys(ratios, 1.0))
        assert np.abs(draw(server, sampled_by(["M", 0]) | parts) - plain).max() <= 1
    parts["M"] = node("ModelMergeBlocks", model1=["L", 0], model2=["A", 0], input=1.0, middle=0.5, out=0.0)
    assert (draw(server, sampled_by(["M", 0]) | parts) != plain).any()


@pytest.mark.parametrize(
    ("class_type", "inputs"),
    [
        ("FreeU", {"b1": 1.1, "b2": 1.2, "s1": 0.9, "s2": 0.2}),
        ("FreeU_V2", {"b1": 1.3, "b2": 1.4, "s1": 0.9, "s2": 0.2}),
        ("RescaleCFG", {"multiplier": 0.7}),
        ("PerturbedAttentionGuidance", {"scale": 3.0}),
        ("ModelSamplingDiscrete", {"sampling": "v_prediction", "zsnr": True}),
    ],
)
def test_patches_of_a_model(server: Any, plain: np.ndarray, class_type: str, inputs: dict[str, Any]) -> None:
    assert (draw(server, sampled_by(["A", 0]) | {"A": node(class_type, model=["L", 0], **inputs)}) != plain).any()


def test_a_controlnet_changes_the_picture_by_its_strength(probe: dict[str, Any]) -> None:
    control = probe["control"]
    assert control["strength 1"] > control["strength 0.5"] > 1e-4
    assert control["strength 0"] == control["after"] == 0 and control["never"] < control["strength 0.5"]


def test_decoding_in_tiles(server: Any) -> None:
    size = node("EmptyLatentImage", width=128, height=128, batch_size=1)
    whole = draw(server, picture(E=size))
    tiled = node("VAEDecodeTiled", samples=["K", 0], vae=["L", 2], tile_size=96, overlap=32, temporal_size=64, temporal_overlap=8)
    assert draw(server, picture(E=size, D=tiled)).shape == whole.shape == (128, 128, 3)


def test_encoding_a_picture_and_going_on_from_it(server: Any) -> None:
    array = np.random.default_rng(0).integers(0, 255, (72, 64, 3), dtype=np.uint8)
    Image.fromarray(array).save(server.base / "input" / "start.png")
    graph = picture(
        I=node("LoadImage", image="start.png"),
        E=node("VAEEncode", pixels=["I", 0], vae=["L", 2]),
    )
    graph["K"]["inputs"]["denoise"] = 0.5
    assert draw(server, graph).shape == (72, 64, 3)


def test_another_latent_space(server: Any) -> None:
    loader = node("RapidDrawBundleLoader", **{**TINY, "unet_name": "wide-unet.safetensors", "vae_name": "wide-vae.safetensors"})
    height, width, _ = draw(server, picture(L=loader)).shape
    assert height == width and height in (32, 64)  # newer versions fit the empty latent's size to the space, older ones its channels only


def test_upscaling_by_the_stock_node(server: Any) -> None:
    graph = picture(
        U=node("RapidDrawESRGANLoader", model_name="tiny-esrgan.safetensors"),
        X=node("ImageUpscaleWithModel", upscale_model=["U", 0], image=["D", 0]),
    )
    graph["S"]["inputs"]["images"] = ["X", 0]
    assert draw(server, graph).shape == (256, 256, 3)


def test_our_upscaler_node_on_a_stock_upscaler(server: Any, weights: Path) -> None:
    from safetensors.torch import load_file, save_file

    tensors = load_file(str(weights / "tiny-esrgan.safetensors"))
    save_file(tensors, str(server.base / "models" / "upscale_models" / "stock.safetensors"))
    graph = picture(
        U=node("UpscaleModelLoader", model_name="stock.safetensors"),
        X=node("RapidDrawESRGANUpscale", upscale_model=["U", 0], image=["D", 0], factor=2.0, long_side=0, tile=64, overlap=8),
    )
    graph["S"]["inputs"]["images"] = ["X", 0]
    assert draw(server, graph).shape == (128, 128, 3)


def test_training_a_lora_on_our_model(server: Any, plain: np.ndarray) -> None:
    Image.new("RGB", (64, 64), "red").save(server.base / "input" / "train.png")
    schema = server.get("/object_info/TrainLoraNode")["TrainLoraNode"]
    wanted = {
        **defaults(schema), "model": ["L", 0], "latents": ["V", 0], "positive": ["P", 0], "batch_size": 1, "steps": 2, "rank": 2,
        "learning_rate": 0.01, "training_dtype": "fp32", "lora_dtype": "fp32", "existing_lora": "[None]", "seed": 1,
    }  # fmt: skip
    known = {**schema["input"]["required"], **schema["input"].get("optional", {})}
    graph = {
        "L": node("RapidDrawBundleLoader", **TINY),
        "P": node("CLIPTextEncode", text=PROMPT, clip=["L", 1]),
        "I": node("LoadImage", image="train.png"),
        "V": node("VAEEncode", pixels=["I", 0], vae=["L", 2]),
        "T": node("TrainLoraNode", **{name: value for name, value in wanted.items() if name in known}),
        "O": node("SaveLoRA", lora=["T", _output(schema, "LORA_MODEL")], prefix="loras/trained"),
    }
    run = server.run(graph)
    assert (run.status, run.node_errors, run.error) == ("success", {}, ""), server.tail()
    (made,) = (server.base / "output" / "loras").glob("trained*.safetensors")
    made.rename(server.base / "models" / "loras" / "trained.safetensors")
    loader = node("LoraLoaderModelOnly", model=["L", 0], lora_name="trained.safetensors", strength_model=1.0)
    assert (draw(server, sampled_by(["A", 0]) | {"A": loader}) != plain).any()


def _output(schema: dict[str, Any], kind: str) -> int:
    return schema["output"].index(kind)
