"""CLIP from a text encoder's own file: what transformers gives beside pictures, and in one line what cannot."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from rapiddraw.core.errors import BundleError, InputError
from rapiddraw.core.host import current
from rapiddraw.core.host.embedded.clip_file import load_clip
from rapiddraw.tests.sd_helpers import clip_network, write_tokenizer
from safetensors.torch import save_file

TEXTS = ["a red fruit", "a photo of a round green hill", ""]


@pytest.fixture
def vocabulary(tmp_path: Path) -> int:
    """The number of tokens of a tokenizer beside the files."""
    return len(json.loads((write_tokenizer(tmp_path / "tokenizer") / "vocab.json").read_text(encoding="utf-8")))


def wanted(network: Any, folder: Path, pad: int | None) -> torch.Tensor:
    """The network's own vectors of the texts."""
    from transformers import CLIPTokenizer

    tokenizer = CLIPTokenizer.from_pretrained(str(folder))
    rows = [tokenizer(text)["input_ids"] for text in TEXTS]
    filled = [row + [tokenizer.eos_token_id if pad is None else pad] * (77 - len(row)) for row in rows]
    network.config.eos_token_id = network.text_model.eos_token_id = tokenizer.eos_token_id
    with torch.no_grad():
        return network(input_ids=torch.tensor(filled)).text_embeds


@pytest.mark.parametrize(("layers", "act", "pad"), [(3, "quick_gelu", None), (13, "gelu", 0)])
def test_a_file_gives_texts_their_vectors_beside_pictures(tmp_path: Path, vocabulary: int, layers: int, act: str, pad: int | None) -> None:
    network = clip_network(vocabulary, width=64, layers=layers, num_attention_heads=1, projection_dim=24, hidden_act=act)
    save_file(network.state_dict(), tmp_path / "clip.safetensors")
    made = current().clip.beside_pictures(load_clip(tmp_path / "clip.safetensors"), TEXTS, 24)
    torch.testing.assert_close(made, wanted(network, tmp_path / "tokenizer", pad), rtol=1e-4, atol=1e-5)
    with pytest.raises(InputError, match="of 24 features and the CLIP_VISION of 32"):
        current().clip.beside_pictures(load_clip(tmp_path / "clip.safetensors"), TEXTS, 32)


def test_a_folder_of_both_encoders_gives_its_texts(tmp_path: Path, vocabulary: int) -> None:
    network = clip_network(vocabulary, width=64, num_attention_heads=2, projection_dim=24, hidden_act="gelu")
    folder = write_tokenizer(tmp_path / "both")
    told = {"model_type": "clip", "text_config": {"hidden_act": "gelu", "num_attention_heads": 2}}
    (folder / "config.json").write_text(json.dumps(told), encoding="utf-8")
    save_file({**network.state_dict(), "vision_model.x": torch.zeros(1)}, folder / "model.safetensors")
    made = current().clip.beside_pictures(load_clip(folder), TEXTS, 24)
    torch.testing.assert_close(made, wanted(network, folder, None), rtol=1e-4, atol=1e-5)


def test_a_text_bundle_is_read_as_ever(tiny_weights: Path) -> None:
    path = tiny_weights / "tiny-text.safetensors"
    made, ever = (current().clip.encode(one, "a red fruit")[0][0] for one in (load_clip(path), current().clip.load(path)))
    assert torch.equal(made, ever)


def test_what_is_none_is_refused_by_name(tmp_path: Path, vocabulary: int, tiny_weights: Path) -> None:
    whole = clip_network(vocabulary).state_dict()
    hostile = {
        "without": ({key: one for key, one in whole.items() if "projection" not in key}, "no vector beside pictures"),
        "checkpoint": ({"cond_stage_model.transformer.text_model.x": torch.zeros(1)}, "none of CLIP's text encoders alone"),
        "half": ({key: one for key, one in whole.items() if ".layers.0." not in key}, "lacks parts"),
    }
    for name, (tensors, words) in hostile.items():
        save_file(tensors, tmp_path / f"{name}.safetensors")
        with pytest.raises(BundleError, match=f"{name}.*{words}"):
            load_clip(tmp_path / f"{name}.safetensors")
    (tmp_path / "empty").mkdir()
    for name in ("empty", "missing.safetensors", "clip.pt"):
        with pytest.raises(BundleError):
            load_clip(tmp_path / name)
    with pytest.raises(BundleError, match="text"):
        load_clip(tiny_weights / "tiny-image.safetensors")
