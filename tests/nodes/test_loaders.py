"""The thin path: bundles in, a PNG out, by direct calls of the nodes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image
from rapiddraw.core.errors import BundleError
from rapiddraw.core.graph.stock.registry import STOCK_NODES
from rapiddraw.nodes.loaders import BundleLoader


def run(node_id: str, **inputs):
    node = STOCK_NODES[node_id]
    return getattr(node(), node.FUNCTION)(**inputs)


def load():
    return BundleLoader().execute("tiny-unet.safetensors", "tiny-text.safetensors", "tiny-vae.safetensors")


def test_from_bundles_to_a_png(tiny_pack: Path) -> None:
    model, clip, vae = load()
    positive, negative = (run("CLIPTextEncode", clip=clip, text=text)[0] for text in ("a red fruit", ""))
    latent = run("EmptyLatentImage", width=64, height=48, batch_size=2)[0]
    (sampled,) = run(
        "KSampler", model=model, seed=7, steps=3, cfg=4.0, sampler_name="euler", scheduler="normal", positive=positive, negative=negative,
        latent_image=latent, denoise=1.0,
    )  # fmt: skip
    (images,) = run("VAEDecode", samples=sampled, vae=vae)
    assert images.shape == (2, 48, 64, 3)
    assert 0 <= images.min() < images.max() <= 1
    saved = run(
        "SaveImage", images=images, filename_prefix="fruit", prompt={"1": {"class_type": "X"}}, extra_pnginfo={"workflow": {"nodes": []}}
    )
    names = [entry["filename"] for entry in saved["ui"]["images"]]
    assert names == ["fruit_00001_.png", "fruit_00002_.png"]
    with Image.open(tiny_pack / "output" / names[0]) as picture:
        assert picture.size == (64, 48)
        assert json.loads(picture.text["prompt"]) == {"1": {"class_type": "X"}}
        assert json.loads(picture.text["workflow"]) == {"nodes": []}


def test_choices_are_bundles_of_the_kind(tiny_pack: Path) -> None:
    inputs = BundleLoader.INPUT_TYPES()["required"]
    assert inputs["unet_name"][0] == ["tiny-unet.safetensors"]
    assert inputs["vae_name"][0] == ["tiny-vae.safetensors"]


def test_nothing_to_load_is_said_and_how_to_change_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("rapiddraw.core.paths.weights_dirs", lambda: [tmp_path])
    (choice,) = BundleLoader.INPUT_TYPES()["required"]["unet_name"][0]
    assert "train" in choice
    with pytest.raises(BundleError, match="RAPIDDRAW_WEIGHTS"):
        BundleLoader().execute(choice, choice, choice)


def test_a_bundle_of_another_kind_is_refused(tiny_pack: Path) -> None:
    with pytest.raises(BundleError, match="kind 'vae'.*'unet' is needed"):
        BundleLoader().execute("tiny-vae.safetensors", "tiny-text.safetensors", "tiny-vae.safetensors")


def test_is_changed_follows_the_content(tiny_pack: Path) -> None:
    names = ("tiny-unet.safetensors", "tiny-text.safetensors", "tiny-vae.safetensors")
    assert BundleLoader.IS_CHANGED(*names) == BundleLoader.IS_CHANGED(*names)
