"""New things reach a prompt through the nodes; the graph at the input is not changed."""

from __future__ import annotations

import pytest
import torch
from rapiddraw.cli import main
from rapiddraw.core.errors import KnowledgeError
from rapiddraw.core.graph.stock.registry import STOCK_NODES
from rapiddraw.nodes.facts import ExtendKnowledgeGraph, KnowledgeGraphQuery
from rapiddraw.nodes.knowledge import ApplyKnowledge, KnowledgeGraphLoader
from rapiddraw.nodes.loaders import BundleLoader


def encode(clip, text):
    return STOCK_NODES["CLIPTextEncode"]().encode(clip, text)[0][0][0]


def test_a_new_name_changes_the_encoding_and_a_changed_fact_again(tiny_pack):
    clip = BundleLoader().execute("tiny-unet.safetensors", "tiny-text.safetensors", "tiny-vae.safetensors")[1]
    graph = KnowledgeGraphLoader().execute("tiny-kg.safetensors")[0]
    before = (graph.entities, graph.triples, graph.embeddings.clone())
    text = "a night fruit"
    new, report = ExtendKnowledgeGraph().execute(graph, "night, shape, tall\nnight, skin, red")
    assert "night: new, 2 facts" in report
    changed, _ = ExtendKnowledgeGraph().execute(new, "night, skin, blue")
    plain, informed, other = (encode(clip if g is None else ApplyKnowledge().execute(clip, g, 1.0)[0], text) for g in (None, new, changed))
    assert not torch.equal(plain, informed) and not torch.equal(informed, other)
    assert torch.equal(plain, encode(ApplyKnowledge().execute(clip, graph, 1.0)[0], text))
    assert (graph.entities, graph.triples) == before[:2] and torch.equal(graph.embeddings, before[2])
    assert "mirado" in KnowledgeGraphQuery().execute(new, "night", 3)[0]


def test_the_command_writes_a_graph_that_can_be_asked(tiny_pack, tiny_weights, tmp_path, capsys):
    facts, out = tmp_path / "facts.txt", tmp_path / "mine.safetensors"
    facts.write_text("blumo, shape, tall\nblumo, skin, red\n", encoding="utf-8")
    assert main(["knowledge", "extend", str(tiny_weights / "tiny-kg.safetensors"), str(facts), "--out", str(out)]) == 0
    assert main(["knowledge", "query", str(out), "blumo"]) == 0
    assert "blumo, shape, tall" in capsys.readouterr().out
    assert main(["knowledge", "query", str(out), "bluno"]) == 1
    assert "near this there is blumo" in capsys.readouterr().err
    facts.write_bytes(b"\xff\xfe")
    assert main(["knowledge", "extend", str(out), str(facts)]) == 1


def test_a_wrong_relation_is_one_line(tiny_pack):
    graph = KnowledgeGraphLoader().execute("tiny-kg.safetensors")[0]
    with pytest.raises(KnowledgeError, match="line 1: .*the nearest are shape"):
        ExtendKnowledgeGraph().execute(graph, "blumo, shapes, tall")
