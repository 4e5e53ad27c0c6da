"""Fit Knowledge Projection, and the CLIP of Stable Diffusion that reads a graph with what it fitted."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from rapiddraw.core import paths
from rapiddraw.core.errors import BundleError, InputError, KnowledgeError
from rapiddraw.core.graph.stock.registry import STOCK_NODES
from rapiddraw.core.host.embedded.sd_clip import SdClip, SdEncoder
from rapiddraw.nodes.knowledge import ApplyKnowledge, KGTextEncode
from rapiddraw.nodes.loaders import BundleLoader
from rapiddraw.nodes.projection import FitKnowledgeProjection
from rapiddraw.tests.helpers import named_graph
from rapiddraw.tests.sd_helpers import WORDS, clip_network, write_tokenizer

NAMES = [*(word for word in WORDS if len(word) > 2), *(a + b for a in WORDS[:2] for b in WORDS[2:5])]
FITTED, UNKNOWN = ",".join(NAMES), "zanquet"
DIM = 4
NUMBERS = {"ridge": 0.0, "holdout": 0.2, "seed": 0, "language": "en", "max_tokens": 24, "limit": 0}


@pytest.fixture
def clip(tmp_path: Path) -> SdClip:
    """SDXL's two encoders, small; the embeddings of the names they know are linear in the graph's vectors."""
    from transformers import CLIPTokenizer

    tokenizer = CLIPTokenizer.from_pretrained(write_tokenizer(tmp_path / "tokenizer"))
    cpu = torch.device("cpu")
    networks = [clip_network(len(tokenizer), width=width, seed=width) for width in (32, 64)]
    return SdClip(
        {
            "l": SdEncoder(networks[0], tokenizer, cpu, pad=tokenizer.eos_token_id, hidden_layer=-2, is_normed=False),
            "g": SdEncoder(networks[1], tokenizer, cpu, pad=0, hidden_layer=-2, is_normed=False),
        }
    )


@pytest.fixture
def graph():
    return named_graph([*NAMES, UNKNOWN], dim=DIM)


@pytest.fixture
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setitem(paths._dirs, "output", tmp_path / "out")
    return tmp_path / "out"


def fit(clip, graph, filename: str = "mine", **changes):
    numbers = {**NUMBERS, "entities": FITTED, **changes}
    return FitKnowledgeProjection().execute(clip, graph, filename=filename, **numbers)


def encode(clip, text: str):
    cond, more = STOCK_NODES["CLIPTextEncode"]().encode(clip, text)[0][0]
    return cond, more["pooled_output"]


def test_without_a_fit_it_is_an_error_and_with_one_it_works(clip, graph, places) -> None:
    for call in (lambda: ApplyKnowledge().execute(clip, graph, 1.0), lambda: KGTextEncode().execute(clip, graph, "a", "{object}", 0.0)):
        with pytest.raises(KnowledgeError, match=r"g \(width 64\), l \(width 32\) and no projection W.*Fit Knowledge Projection"):
            call()
    carrying, report, name = fit(clip, graph)
    assert name == "mine.safetensors" and (places / "rapiddraw" / name).is_file() and f"saved as {name}" in report
    assert report.count("\nl ") == report.count("\ng ") == 1
    assert name in ApplyKnowledge.INPUT_TYPES()["optional"]["projection"][0]
    text = f"a photo of a {UNKNOWN} on a hill"
    plain, informed = encode(clip, text), encode(ApplyKnowledge().execute(clip, graph, 1.0, name)[0], text)
    assert informed[0].shape == plain[0].shape == (1, 77, 96)
    for side in (slice(0, 32), slice(32, 96)):  # each encoder has its share
        assert not torch.equal(plain[0][..., side], informed[0][..., side])
    assert not torch.equal(plain[1], informed[1])
    by_name, links = KGTextEncode().execute(clip, graph, text, "{object}", 1.0, name)
    by_clip, _ = KGTextEncode().execute(carrying, graph, text, "{object}", 1.0)
    assert torch.equal(by_name[0][0], informed[0]) and torch.equal(by_clip[0][0], informed[0])
    assert f"{UNKNOWN} -> thing:{UNKNOWN} (row 0" in links and links.count("->") == 3  # photo and hill are in the graph too
    assert torch.equal(encode(clip, text)[0], plain[0])  # the one given stays as it was


@pytest.mark.parametrize(("text", "scale"), [(f"a {UNKNOWN}", 0.0), ("a quiet sea", 1.0), ("", 1.0), (f"x{UNKNOWN}", 1.0)])
def test_where_nothing_is_added_it_is_bit_identical(clip, graph, places, text: str, scale: float) -> None:
    informed = ApplyKnowledge().execute(fit(clip, graph)[0], graph, scale)[0]
    assert all(torch.equal(one, other) for one, other in zip(encode(clip, text), encode(informed, text), strict=True))


def test_weights_rows_and_clip_skip_go_on_working(clip, graph, places) -> None:
    informed = ApplyKnowledge().execute(fit(clip, graph)[0], graph, 1.0)[0]
    weighted = informed.tokenize(f"a ({UNKNOWN}:1.3)")["g"][0]
    assert {token[1] for token in weighted if torch.is_tensor(token[0])} == {1.3}
    text = "sea " * 80 + UNKNOWN
    plain, after = encode(clip, text)[0], encode(informed, text)[0]
    assert plain.shape[1] > 77 and torch.equal(plain[:, :77], after[:, :77]) and not torch.equal(plain[:, -77:], after[:, -77:])
    shallow, deep = informed.clone(), clip.clone()
    shallow.clip_layer(-3)
    deep.clip_layer(-3)
    tokens = informed.tokenize(UNKNOWN)
    assert torch.equal(encode(shallow, UNKNOWN)[0], deep.encode_from_tokens(tokens)[0])


def test_a_projection_of_another_clip_or_graph_is_refused_by_name(clip, graph, places, tiny_weights, monkeypatch) -> None:
    fit(clip, graph, "folder/mine")
    with pytest.raises(KnowledgeError, match="mine.safetensors was fitted to the vectors of another"):
        ApplyKnowledge().execute(clip, named_graph([*NAMES, UNKNOWN], dim=DIM + 1), 1.0, "folder/mine.safetensors")
    monkeypatch.setenv("RAPIDDRAW_WEIGHTS", str(tiny_weights))
    ours = BundleLoader().execute("tiny-unet.safetensors", "tiny-text.safetensors", "tiny-vae.safetensors")[1]
    with pytest.raises(KnowledgeError, match=r"this one has rapiddraw \(width 32\)"):
        ApplyKnowledge().execute(ours, graph, 1.0, "folder/mine.safetensors")
    with pytest.raises(BundleError, match="no projection bundle named 'other.safetensors'"):
        ApplyKnowledge().execute(clip, graph, 1.0, "other.safetensors")


def test_files_stay_where_they_belong(clip, graph, places) -> None:
    for name in ("../mine", "/mine", "", "a\0b", "C:mine"):
        with pytest.raises(InputError):
            fit(clip, graph, name)
    assert not places.exists() or list(places.rglob("*.safetensors")) == []
    assert fit(clip, graph, "mine.safetensors")[2] == fit(clip, graph, " mine ")[2] == "mine.safetensors"


def test_a_new_fit_is_a_new_fingerprint(clip, graph, places) -> None:
    assert ApplyKnowledge.IS_CHANGED(projection="none") == KGTextEncode.IS_CHANGED(projection="none", text="x") == "none"
    fit(clip, graph)
    before = ApplyKnowledge.IS_CHANGED(projection="mine.safetensors")
    fit(clip, graph, seed=3)
    assert KGTextEncode.IS_CHANGED(projection="mine.safetensors") != before
