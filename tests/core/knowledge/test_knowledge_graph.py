"""Knowledge files: what is read, what is refused, and that one bundle is the whole graph."""

from __future__ import annotations

import json
import unicodedata

import pytest
import torch
from rapiddraw.core.bundles.format import BundleInfo, save_bundle
from rapiddraw.core.bundles.load import load_bundle
from rapiddraw.core.errors import KnowledgeError
from rapiddraw.core.knowledge import graph as module
from rapiddraw.core.knowledge.graph import build_graph, load_knowledge, save_knowledge
from rapiddraw.core.knowledge.triples import load_triples

ZH = "\u7c73\u62c9\u6735"


def write(tmp_path, name, text):
    path = tmp_path / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode("utf-8"))
    return path


def test_tsv_and_json_lines_give_the_same_graph(tmp_path):
    tsv = write(tmp_path, "g.tsv", f"# comment\nf:a\thas_shape\tround\n\nf:b\tis_a\tf:a\r\nf:a\talias@en\tmirado\nf:a\talias@zh\t{ZH}\n")
    rows = [
        {"head": "f:a", "relation": "has_shape", "tail": "round"},
        {"head": "f:b", "relation": "is_a", "tail": "f:a"},
        {"id": "f:a", "aliases": {"en": ["mirado"], "zh": [ZH]}},
    ]
    jsonl = write(tmp_path, "g.jsonl", "\n".join(json.dumps(row) for row in rows))
    graph = load_triples(tsv)
    assert graph == load_triples(jsonl)
    assert graph.entities == ("f:a", "round", "f:b")
    assert graph.aliases == {"f:a": {"en": ("mirado",), "zh": (ZH,)}}
    assert graph.neighbours("f:a") == [("f:a", "has_shape", "round"), ("f:b", "is_a", "f:a")]


def test_strings_are_normalised_and_repeats_count_once():
    composed, decomposed = "caf\u00e9", unicodedata.normalize("NFD", "caf\u00e9")
    graph = build_graph([(composed, "r", "x"), (decomposed, "r", "x ")], [(composed, "en", "n1"), (decomposed, "en", "n1")])
    assert graph.entities == (composed, "x")
    assert len(graph.triples) == 1
    assert graph.aliases[composed]["en"] == ("n1",)


def test_cycles_and_self_loops_are_harmless():
    graph = build_graph([("a", "r", "b"), ("b", "r", "a"), ("a", "r", "a")])
    assert len(graph.triples) == 3
    assert len(graph.neighbours("a")) == 3


def test_an_entity_without_triples_knows_nothing():
    graph = build_graph([("a", "r", "b")], [("lonely", "en", "lonely")]).with_embeddings(torch.ones(3, 4))
    assert graph.vector("lonely") is None
    assert graph.vector("not in the graph") is None
    assert graph.embeddings[graph.index["lonely"]].abs().sum() == 0
    assert torch.equal(graph.vector("a"), torch.ones(4))


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("g.csv", "a,b,c", "tsv"),
        ("g.tsv", "", "no statement"),
        ("g.tsv", "a\tb\n", "line 1"),
        ("g.tsv", "a\tr\tb\na\tr\n", "line 2"),
        ("g.tsv", "a\t\tb\n", "empty"),
        ("g.tsv", "a\tr\x07\tb\n", "control"),
        ("g.tsv", b"a\tr\t\xff\xfe\n", "UTF-8"),
        ("g.tsv", "a\tr\t" + "x" * 300 + "\n", "300 characters"),
        ("g.tsv", "a\talias@!!\tname\n", "language"),
        ("g.jsonl", "not json", "line 1"),
        ("g.jsonl", "[1, 2]", "expected"),
        ("g.jsonl", '{"head": 1, "relation": "r", "tail": "t"}', "strings"),
        ("g.jsonl", '{"id": "a", "aliases": {"en": "name"}}', "list"),
        ("g.jsonl", '{"id": ["a"], "aliases": {"en": ["name"]}}', "line 1: .*strings"),
        ("g.jsonl", "[" * 100_000, "line 1"),
    ],
)
def test_malformed_files_are_refused_with_the_cause(tmp_path, name, text, says):
    with pytest.raises(KnowledgeError, match=says) as error:
        load_triples(write(tmp_path, name, text))
    assert name in str(error.value)


def test_every_size_is_capped(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "MAX_TRIPLES", 5)
    with pytest.raises(KnowledgeError, match="more than 5 triples"):
        build_graph((f"h{i}", "r", "t") for i in range(10))
    monkeypatch.setattr(module, "MAX_TRIPLES", 1000)
    monkeypatch.setattr(module, "MAX_DEGREE", 5)
    with pytest.raises(KnowledgeError, match="'t' is in more than 5"):
        build_graph((f"h{i}", "r", "t") for i in range(10))
    monkeypatch.setattr(module, "MAX_DEGREE", 1000)
    monkeypatch.setattr(module, "MAX_ENTITIES", 5)
    with pytest.raises(KnowledgeError, match="more than 5 entities"):
        build_graph((f"h{i}", "r", "t") for i in range(10))
    monkeypatch.setattr(module, "MAX_ALIASES", 2)
    with pytest.raises(KnowledgeError, match="more than 2 names"):
        build_graph([("a", "r", "b")], [("a", "en", f"n{i}") for i in range(3)])
    monkeypatch.setattr(module, "MAX_BYTES", 8)
    with pytest.raises(KnowledgeError, match="bytes"):
        load_triples(write(tmp_path, "big.tsv", "a\tr\tb\nc\tr\td\n"))


def test_one_bundle_is_the_whole_graph(tmp_path):
    graph = build_graph([("a", "r", "b"), ("b", "s", "a")], [("a", "zh", ZH), ("c", "en", "nothing")])
    graph = graph.with_embeddings(torch.randn(3, 8, generator=torch.Generator().manual_seed(0)))
    back = load_knowledge(save_knowledge(tmp_path / "kg.safetensors", graph, {"recipe": "test"}))
    assert (back.entities, back.relations, back.triples, back.aliases) == (graph.entities, graph.relations, graph.triples, graph.aliases)
    assert torch.equal(back.embeddings, graph.embeddings)
    assert back.provenance == {"recipe": "test"}
    assert back.vector("c") is None


def test_vectors_of_another_version_of_the_graph_are_refused():
    with pytest.raises(KnowledgeError, match="another version"):
        build_graph([("a", "r", "b")]).with_embeddings(torch.zeros(3, 4))
    with pytest.raises(KnowledgeError, match="NaN"):
        build_graph([("a", "r", "b")]).with_embeddings(torch.full((2, 4), float("nan")))


@pytest.mark.parametrize(
    ("extra", "triples", "says"),
    [
        ({"entities": ["a", "a"], "relations": ["r"]}, [[0, 0, 1]], "twice"),
        ({"entities": ["a", "b"], "relations": ["r"]}, [[0, 0, 2]], "points at"),
        ({"entities": ["a", "b"], "relations": ["r"]}, [[0, 0, -1]], "points at"),
        ({"entities": "ab", "relations": ["r"]}, [[0, 0, 1]], "list"),
        ({"entities": ["a", "b"], "relations": ["r"], "aliases": {"c": {"en": ["n"]}}}, [[0, 0, 1]], "does not list"),
        ({"entities": ["a", "b"], "relations": ["r"], "aliases": [1]}, [[0, 0, 1]], "aliases"),
        ({"entities": ["a", "b", "c"], "relations": ["r"]}, [[0, 0, 1]], "do not fit"),
    ],
)
def test_a_bundle_whose_parts_disagree_is_refused(tmp_path, extra, triples, says):
    tensors = {"embeddings": torch.zeros(2, 4), "triples": torch.tensor(triples, dtype=torch.int32)}
    path = save_bundle(tmp_path / "bad.safetensors", tensors, BundleInfo("kg", extra=extra))
    with pytest.raises(KnowledgeError, match=says):
        load_knowledge(load_bundle(path, "kg"))
