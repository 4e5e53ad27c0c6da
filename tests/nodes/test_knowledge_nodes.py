"""The graph changes what it should and nothing else, whichever node brings it in."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from rapiddraw.core.errors import BundleError, InputError, KnowledgeError
from rapiddraw.core.graph.stock.registry import STOCK_NODES
from rapiddraw.nodes.knowledge import ApplyKnowledge, KGTextEncode, KnowledgeGraphLoader
from rapiddraw.nodes.loaders import BundleLoader

NAMED = "the photo of a mirado on a green hill"


@pytest.fixture
def clip(tiny_pack: Path):
    return BundleLoader().execute("tiny-unet.safetensors", "tiny-text.safetensors", "tiny-vae.safetensors")[1]


@pytest.fixture
def graph(tiny_pack: Path):
    return KnowledgeGraphLoader().execute("tiny-kg.safetensors")[0]


def encode(clip, text: str) -> torch.Tensor:
    return STOCK_NODES["CLIPTextEncode"]().encode(clip, text)[0][0][0]


def test_a_named_entity_changes_the_encoding_from_its_tokens_on(clip, graph) -> None:
    plain, informed = encode(clip, NAMED), encode(ApplyKnowledge().execute(clip, graph, 1.0)[0], NAMED)
    assert torch.equal(plain[:, :5], informed[:, :5])  # start, the, photo, of, a: a causal encoder does not look ahead
    assert not torch.equal(plain[:, 5], informed[:, 5])


@pytest.mark.parametrize("text", ["", "a red fruit", "a silento on a green hill", "amirado"])
def test_a_text_without_knowledge_is_bit_identical(clip, graph, text: str) -> None:
    assert torch.equal(encode(clip, text), encode(ApplyKnowledge().execute(clip, graph, 1.0)[0], text))


def test_scale_zero_is_bit_identical(clip, graph) -> None:
    conditioning, report = KGTextEncode().execute(clip, graph, NAMED, "{object}", 0.0)
    assert torch.equal(conditioning[0][0], encode(clip, NAMED))
    assert "mirado" in report and "nothing is added" in report


def test_both_nodes_give_one_conditioning(clip, graph) -> None:
    conditioning, _ = KGTextEncode().execute(clip, graph, "mirado", "the photo of a {object} on a green hill", 1.5)
    assert torch.equal(conditioning[0][0], encode(ApplyKnowledge().execute(clip, graph, 1.5)[0], NAMED))


def test_attaching_again_replaces_the_scale(clip, graph) -> None:
    twice = ApplyKnowledge().execute(ApplyKnowledge().execute(clip, graph, 1.0)[0], graph, 0.5)[0]
    assert torch.equal(encode(twice, NAMED), encode(ApplyKnowledge().execute(clip, graph, 0.5)[0], NAMED))


def test_the_clip_given_is_not_changed(clip, graph) -> None:
    before = encode(clip, NAMED)
    ApplyKnowledge().execute(clip, graph, 2.0)
    assert torch.equal(before, encode(clip, NAMED))


def test_the_report_says_what_where_and_cut(clip, graph) -> None:
    _, report = KGTextEncode().execute(clip, graph, "a (mirado:1.3) and a quelba", "{object}", 1.0)
    assert "mirado -> mirado (row 0, tokens 2 to" in report and "quelba -> quelba" in report and "cut" not in report
    _, report = KGTextEncode().execute(clip, graph, "a " * 29 + "mirado", "{object}", 1.0)
    assert "row 0" in report and "row 1" in report and "cut" in report


def test_chinese_names_are_linked_inside_a_sentence(clip, graph) -> None:
    text = "\u7c73\u62c9"
    _, report = KGTextEncode().execute(clip, graph, f"a {text}{text}", "{object}", 1.0)
    assert report.count("-> mirado") == 2


def test_the_null_prompt_stays_empty_whatever_the_template(clip, graph) -> None:
    conditioning, report = KGTextEncode().execute(clip, graph, "", "a mirado {object}", 1.0)
    assert torch.equal(conditioning[0][0], encode(clip, ""))
    assert report == "no entity of the graph is named in this prompt"


def test_knowledge_survives_into_later_rows(clip, graph) -> None:
    text = "a " * 40 + "mirado"
    plain, informed = encode(clip, text), encode(ApplyKnowledge().execute(clip, graph, 1.0)[0], text)
    assert plain.shape[1] == 64
    assert torch.equal(plain[:, :32], informed[:, :32]) and not torch.equal(plain[:, 32:], informed[:, 32:])


def test_errors_say_what_to_do(clip, graph, tiny_pack: Path) -> None:
    from rapiddraw.tests.helpers import tiny_graph

    with pytest.raises(InputError, match="kg_scale"):
        ApplyKnowledge().execute(clip, graph, float("nan"))
    with pytest.raises(InputError, match="{object}"):
        KGTextEncode().execute(clip, graph, "mirado", "a photo", 1.0)
    with pytest.raises(KnowledgeError, match="16 features.*with 8"):
        ApplyKnowledge().execute(clip, tiny_graph(dim=16), 1.0)
    with pytest.raises(BundleError, match="nothing-here"):
        KnowledgeGraphLoader().execute("nothing-here.safetensors")


def test_triples_of_ones_own_load_without_vectors(clip, tiny_pack: Path) -> None:
    (tiny_pack / "input" / "mine.tsv").write_text("pear\tshape\tround\npear\talias@en\tpear\n", encoding="utf-8")
    assert KnowledgeGraphLoader.INPUT_TYPES()["required"]["kg_name"][0] == ["tiny-kg.safetensors", "mine.tsv"]
    graph, stats = KnowledgeGraphLoader().execute("mine.tsv")
    assert "triples: 1" in stats and "train" in stats
    with pytest.raises(KnowledgeError, match="train"):
        ApplyKnowledge().execute(clip, graph, 1.0)
    with pytest.raises(InputError):
        KnowledgeGraphLoader().execute("../mine.tsv")
