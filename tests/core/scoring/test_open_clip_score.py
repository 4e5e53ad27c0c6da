"""open_clip's models with the user's weights: names are checked first, files are read without running code, nothing is downloaded."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from rapiddraw.core.errors import BundleError, InputError, MissingPackageError
from rapiddraw.core.scoring.open_clip_score import load_open_clip
from safetensors.torch import save_file
from torch import Tensor

CPU = torch.device("cpu")
CONFIGS: dict[str, dict[str, Any]] = {
    "ViT-B-32": {"text_cfg": {"context_length": 77}},
    "ViT-B-16-SigLIP": {"text_cfg": {}},
    "roberta-ViT-B-32": {"text_cfg": {"hf_model_name": "roberta-base"}},
    "custom": {"text_cfg": {"hf_tokenizer_name": "xlm"}},
}


class FakeClip(torch.nn.Module):
    """Embeds pictures by their mean colour, and texts by the first letters of the colours' names in them."""

    def __init__(self) -> None:
        super().__init__()
        self.project = torch.nn.Parameter(torch.empty(3, 3))

    def encode_image(self, pictures: Tensor) -> Tensor:
        return pictures.mean((2, 3)) @ self.project.T

    def encode_text(self, tokens: Tensor) -> Tensor:
        return tokens.float()


def fake_open_clip(patch: pytest.MonkeyPatch) -> None:
    def create(name: str, pretrained: str, weights_only: bool) -> tuple[Any, None, Any]:
        assert Path(pretrained).is_absolute() and weights_only, "a name such as 'openai' would be downloaded"
        network = FakeClip()
        if pretrained.endswith(".safetensors"):
            from safetensors.torch import load_file

            network.load_state_dict(load_file(pretrained))
        else:
            network.load_state_dict(torch.load(pretrained, weights_only=weights_only))
        return network, None, lambda image: torch.from_numpy(np.array(image.resize((4, 4)))).permute(2, 0, 1).float() / 255

    def tokenize(texts: list[str]) -> Tensor:
        return torch.tensor([[float(colour in text) for colour in ("red", "green", "blue")] for text in texts])

    package = SimpleNamespace(
        list_models=lambda: list(CONFIGS), get_model_config=CONFIGS.__getitem__, create_model_and_transforms=create,
        get_tokenizer=lambda name: tokenize,
    )  # fmt: skip
    patch.setitem(sys.modules, "open_clip", package)


def weights(path: Path) -> Path:
    state = {"project": torch.eye(3)}
    if path.suffix == ".safetensors":
        save_file(state, path)
    else:
        torch.save(state, path)
    return path


@pytest.mark.parametrize("name", ["w.safetensors", "w.pt", "w.bin"])
def test_pictures_and_texts_are_embedded_in_order(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_open_clip(monkeypatch)
    model = load_open_clip("ViT-B-32", weights(tmp_path / name), CPU)
    colours = [np.full((20 + i % 3, 20, 3), np.eye(3)[i % 3] * 255, np.uint8) for i in range(40)]
    images = model.images(iter(colours))
    assert torch.allclose(images, torch.eye(3).repeat(14, 1)[:40], atol=1e-6)
    assert torch.equal(model.texts(["red", "a blue one"] * 20), torch.tensor([[1.0, 0, 0], [0, 0, 1]]).repeat(20, 1))


def test_an_unknown_name_suggests_near_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_open_clip(monkeypatch)
    with pytest.raises(InputError, match="no model 'ViT-B32'; it has 4, such as ViT-B-32"):
        load_open_clip("ViT-B32", tmp_path / "none.pt", CPU)


@pytest.mark.parametrize("name", ["ViT-B-16-SigLIP", "roberta-ViT-B-32", "custom"])
def test_a_model_that_would_download_is_refused(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_open_clip(monkeypatch)
    with pytest.raises(InputError, match=f"{name} would download its tokenizer"):
        load_open_clip(name, weights(tmp_path / "w.pt"), CPU)


@pytest.mark.parametrize("ending", [".pt", ".safetensors"])
def test_other_weights_are_refused(ending: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_open_clip(monkeypatch)
    path = tmp_path / f"other{ending}"
    state = {"a": torch.ones(2)}
    save_file(state, path) if ending == ".safetensors" else torch.save(state, path)
    with pytest.raises(BundleError, match="does not hold the weights of open_clip's ViT-B-32 .* choose the model of the file"):
        load_open_clip("ViT-B-32", path, CPU)
    path.write_bytes(b"nothing")
    with pytest.raises(BundleError, match=path.name):
        load_open_clip("ViT-B-32", path, CPU)


def test_a_file_with_code_is_refused_before_open_clip_reads_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_open_clip(monkeypatch)
    torch.save({"project": Path("a")}, tmp_path / "code.pt")
    with pytest.raises(BundleError, match=r"code\.pt is not a checkpoint of plain tensors"):
        load_open_clip("ViT-B-32", tmp_path / "code.pt", CPU)


def test_without_the_package_the_command_that_installs_it_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "open_clip", None)
    with pytest.raises(MissingPackageError, match="needs the package open_clip_torch .* python -m pip install open_clip_torch"):
        load_open_clip("ViT-B-32", tmp_path / "w.pt", CPU)


def test_most_names_of_open_clip_itself_are_taken_and_those_that_download_are_not() -> None:
    open_clip = pytest.importorskip("open_clip")
    from rapiddraw.core.scoring.open_clip_score import check_open_clip

    for name in ("ViT-B-32", "ViT-B-32-quickgelu", "ViT-H-14", "RN50", "ViT-S-32-alt"):
        check_open_clip(name)
    for name in ("ViT-B-16-SigLIP", "roberta-ViT-B-32", "xlm-roberta-base-ViT-B-32"):
        assert name in open_clip.list_models()
        with pytest.raises(InputError, match="would download"):
            check_open_clip(name)
