"""CLIP Vision models from files: as transformers reads them, from every layout that is known, and hostile ones in one line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from rapiddraw.core.bundles.find import resolve_bundle
from rapiddraw.core.bundles.load import load_bundle
from rapiddraw.core.errors import BundleError
from rapiddraw.core.text.clip_vision import load_clip_vision, network_of_tensors, prepared
from rapiddraw.core.text.image_tower import load_image_tower
from rapiddraw.core.text.picture_reader import clip_vision_reader
from rapiddraw.tests.helpers import seeded
from safetensors.torch import load_file, save_file

CPU = torch.device("cpu")
IMAGE = torch.rand(2, 60, 90, 3, generator=torch.Generator().manual_seed(0))


def vision(**config: Any) -> Any:
    """transformers' CLIPVisionModelWithProjection with random weights: 2 heads of 64 features."""
    from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

    whole = {
        "hidden_size": 128, "intermediate_size": 64, "num_hidden_layers": 3, "num_attention_heads": 2, "image_size": 32, "patch_size": 8,
        "projection_dim": 24, **config,
    }  # fmt: skip
    return seeded(lambda: CLIPVisionModelWithProjection(CLIPVisionConfig(**whole)).eval(), 5)


def embedded(network: Any) -> torch.Tensor:
    with torch.no_grad():
        return network(pixel_values=prepared(IMAGE, 32)).image_embeds


def file_of(network: Any, path: Path, **more: torch.Tensor) -> Path:
    save_file({**network.state_dict(), **more}, path)
    return path


def test_pictures_are_prepared_as_transformers_does() -> None:
    from transformers import CLIPImageProcessor

    picture = Image.fromarray((np.random.default_rng(0).random((75, 50, 3)) * 255).astype(np.uint8)).resize(
        (100, 150), Image.Resampling.BILINEAR
    )
    wanted = CLIPImageProcessor(size={"shortest_edge": 32}, crop_size=32)(picture, return_tensors="pt")["pixel_values"]
    made = prepared(torch.from_numpy(np.array(picture)).float()[None] / 255, 32)
    assert made.shape == wanted.shape == (1, 3, 32, 32)
    assert float((made - wanted).abs().mean()) < 0.03, "rounding and the edges of the resizing alone"


def test_a_file_gives_what_its_network_gives(tmp_path: Path) -> None:
    network = vision()
    made = load_clip_vision(file_of(network, tmp_path / "vision.safetensors"), CPU).encode_image(IMAGE)
    torch.testing.assert_close(made["image_embeds"], embedded(network))
    assert clip_vision_reader(load_clip_vision(tmp_path / "vision.safetensors", CPU)).width == 24


def test_a_folder_tells_what_weights_do_not(tmp_path: Path) -> None:
    network = vision(hidden_act="gelu", num_attention_heads=4)
    network.save_pretrained(tmp_path / "alone")
    torch.testing.assert_close(load_clip_vision(tmp_path / "alone", CPU).encode_image(IMAGE)["image_embeds"], embedded(network))
    config = json.loads((tmp_path / "alone" / "config.json").read_text(encoding="utf-8"))
    (tmp_path / "alone" / "config.json").write_text(json.dumps({"model_type": "clip", "vision_config": config}), encoding="utf-8")
    tensors = load_file(tmp_path / "alone" / "model.safetensors")
    save_file({**tensors, "text_model.x": torch.zeros(1), "logit_scale": torch.zeros(1)}, tmp_path / "alone" / "model.safetensors")
    torch.testing.assert_close(load_clip_vision(tmp_path / "alone", CPU).encode_image(IMAGE)["image_embeds"], embedded(network))


@pytest.mark.parametrize(("layers", "act"), [(24, "quick_gelu"), (25, "gelu")])
def test_larger_networks_have_the_activation_of_open_clip(layers: int, act: str) -> None:
    network = vision(num_hidden_layers=layers, hidden_size=64, num_attention_heads=1)
    assert network_of_tensors(network.state_dict(), "x", {}).config.hidden_act == act


@pytest.mark.parametrize(("width", "heads"), [(128, 2), (1024, 16), (1280, 16), (1664, 16)])
def test_heads_are_those_of_the_published_networks(width: int, heads: int) -> None:
    network = vision(num_hidden_layers=1, hidden_size=width, num_attention_heads=heads)
    assert network_of_tensors(network.state_dict(), "x", {}).config.num_attention_heads == heads


def test_an_image_tower_of_this_pack_reads_pictures_too(tiny_pack: Path) -> None:
    path = resolve_bundle("tiny-image.safetensors", "image")
    tower = load_image_tower(load_bundle(path, "image"))
    with torch.no_grad():
        wanted = tower(IMAGE.movedim(-1, 1) * 2 - 1)
    torch.testing.assert_close(load_clip_vision(path, CPU).encode_image(IMAGE)["image_embeds"], wanted)


def test_what_is_none_is_refused_by_name(tmp_path: Path, tiny_weights: Path) -> None:
    network = vision()
    whole = network.state_dict()
    hostile = {
        "no-projection": {key: one for key, one in whole.items() if "projection" not in key},
        "no-layers": {key: one for key, one in whole.items() if ".layers." not in key},
        "half": {key: one for key, one in whole.items() if ".layers.1." not in key},
        "odd": {**whole, "vision_model.embeddings.patch_embedding.weight": torch.zeros(3)},
        "other": {"weight": torch.zeros(2, 2)},
        "open-clip": {"visual.conv1.weight": torch.zeros(2, 3, 4, 4)},
    }
    for name, tensors in hostile.items():
        save_file(tensors, tmp_path / f"{name}.safetensors")
        with pytest.raises(BundleError, match=name):
            load_clip_vision(tmp_path / f"{name}.safetensors", CPU)
    (tmp_path / "broken.safetensors").write_bytes(b"no tensors")
    (tmp_path / "pickle.pth").write_bytes(b"x")
    (tmp_path / "empty").mkdir()
    for name in ("broken.safetensors", "pickle.pth", "empty", "missing.safetensors"):
        with pytest.raises(BundleError):
            load_clip_vision(tmp_path / name, CPU)
    with pytest.raises(BundleError, match="image"):
        load_clip_vision(tiny_weights / "tiny-text.safetensors", CPU)
    network.save_pretrained(tmp_path / "folder")
    for changes in ({"num_attention_heads": 0}, {"num_attention_heads": "x"}, {"hidden_act": 3}, {"hidden_act": "none"}):
        config = json.loads((tmp_path / "folder" / "config.json").read_text(encoding="utf-8"))
        (tmp_path / "folder" / "config.json").write_text(json.dumps({**config, **changes}), encoding="utf-8")
        with pytest.raises(BundleError, match="folder"):
            load_clip_vision(tmp_path / "folder", CPU)
