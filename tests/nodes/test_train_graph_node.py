"""Facts become vectors in a graph of nodes: the same for the same seed, resumed, and refused in one line where they cannot."""

from __future__ import annotations

import pytest
import torch
from rapiddraw.core.errors import BundleError, InputError, KnowledgeError
from rapiddraw.core.knowledge.graph import build_graph, load_knowledge
from rapiddraw.core.knowledge.transe import fit
from rapiddraw.core.paths import made_bundle_path
from rapiddraw.core.train.recipes import kg
from rapiddraw.nodes.facts import ExtendKnowledgeGraph
from rapiddraw.nodes.train_graph import TrainKnowledgeGraph
from rapiddraw.tests import helpers

FACTS = [fact for i in range(12) for fact in ((f"e{i}", "colour", f"c{i % 3}"), (f"e{i}", "shape", f"s{i % 2}"))]


def trained(graph=None, filename="mine", steps=40, **changes):
    given = {"dim": 8, "batch_size": 16, "lr": 0.05, "margin": 2.0, "negatives": 5, "held_out": 0.0, "seed": 0, "resume": True} | changes
    return TrainKnowledgeGraph().execute(graph or build_graph(FACTS), filename, steps, **given)["result"]


def test_triples_become_a_graph_that_can_be_loaded_and_extended(tiny_pack):
    graph, report, plot = trained(held_out=0.2)
    assert graph.dim == 8 and graph.relation_vectors.shape == (2, 8) and graph.extends == ""
    assert "40 steps on 24 triples" in report and "held-out triples" in report and "saved as mine.safetensors" in report
    assert plot.dim() == 4 and plot.shape[-1] == 3 and float(plot.min()) >= 0 and float(plot.max()) <= 1
    loaded = load_knowledge(made_bundle_path("mine"))
    assert torch.equal(loaded.embeddings, graph.embeddings) and torch.equal(loaded.relation_vectors, graph.relation_vectors)
    assert "new, 1 fact" in ExtendKnowledgeGraph().execute(loaded, "blumo, colour, c1")[1]


@pytest.mark.parametrize(("steps", "epochs"), [(40, 20), (1, 1)])
def test_the_second_run_is_as_long_as_the_first(tiny_pack, monkeypatch, steps, epochs):
    taken = []
    monkeypatch.setattr(kg, "fit", lambda graph, config, seed: (taken.append(config.epochs), fit(graph, config, seed))[1])
    trained(held_out=0.2, steps=steps)  # 20 triples are left: two batches of 16
    assert taken == [epochs]


def test_the_same_seed_gives_the_same_vectors_and_vectors_at_the_input_are_not_used(tiny_pack):
    first = trained(filename="a")[0]
    again = trained(first, filename="b")[0]
    assert torch.equal(first.embeddings, again.embeddings)
    assert not torch.equal(first.embeddings, trained(filename="c", seed=1)[0].embeddings)


@pytest.mark.parametrize("bad", [{"steps": 0}, {"dim": 0}, {"lr": float("nan")}, {"margin": 0.0}, {"held_out": 1.0}, {"negatives": 5000}])
def test_settings_are_checked_before_the_work(tiny_pack, bad):
    with pytest.raises(InputError):
        trained(**bad)
    assert not made_bundle_path("mine").exists()


def test_what_cannot_be_trained_or_written_is_said(tiny_pack):
    with pytest.raises(KnowledgeError, match="no triples"):
        trained(build_graph((), [("a", "en", "alone")]))
    with pytest.raises(InputError, match="hold out"):
        trained(build_graph([("a", "is", "b")]), held_out=0.5)
    with pytest.raises(InputError):
        trained(filename="../away")
    helpers.write_vae(made_bundle_path("taken"))
    with pytest.raises(BundleError, match="another kind"):
        trained(filename="taken")
