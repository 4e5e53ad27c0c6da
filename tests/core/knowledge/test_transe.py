"""TransE learns translations, draws honest negatives, and is the same every time."""

from __future__ import annotations

import pytest
import torch
from rapiddraw.core.errors import InputError, KnowledgeError
from rapiddraw.core.knowledge import transe
from rapiddraw.core.knowledge.graph import build_graph
from rapiddraw.core.knowledge.transe import Corruptor, TransE, TransEConfig, fit, link_prediction, split_triples

SMALL = TransEConfig(dim=16, epochs=80, batch=64, negatives=10)


def world(count=40):
    """Every entity has one of 4 colours and one of 3 shapes."""
    return build_graph([t for i in range(count) for t in ((f"e{i}", "colour", f"c{i % 4}"), (f"e{i}", "shape", f"s{i % 3}"))])


def test_loss_falls_and_known_triples_rank_first():
    graph = world()
    model, losses = fit(graph, SMALL)
    assert losses[-1] < 0.2 * losses[0]
    assert link_prediction(model, graph)["hits@10"] > 0.8


def test_the_same_seed_gives_the_same_vectors():
    graph = world(12)
    config = TransEConfig(dim=8, epochs=5)
    first, again, other = (fit(graph, config, seed)[0].entities for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_entities_that_share_a_value_end_up_where_it_can_be_read():
    graph = world()
    vectors = fit(graph, TransEConfig(dim=32, epochs=200, batch=64, negatives=10))[0].entities.detach()
    x = torch.stack([vectors[graph.index[f"e{i}"]] for i in range(40)])
    wanted = torch.eye(4)[torch.arange(40) % 4]
    probe = torch.linalg.solve(x[:30].T @ x[:30] + torch.eye(32), x[:30].T @ wanted[:30])
    assert ((x[30:] @ probe).argmax(1) == wanted[30:].argmax(1)).float().mean() >= 0.9


def test_negatives_are_never_true_and_change_one_end():
    graph = world(12)
    corruptor = Corruptor(graph)
    negative, valid = corruptor.draw(corruptor.triples, 50, torch.Generator().manual_seed(0))
    known = set(graph.triples)
    for row, ok in zip(negative.reshape(-1, 3).tolist(), valid.reshape(-1).tolist(), strict=True):
        assert (tuple(row) not in known) == ok
    changed = (negative != corruptor.triples[:, None]).sum(-1)
    assert changed.max() == 1
    assert (negative[..., 1] == corruptor.triples[:, None, 1]).all()


def test_bern_corrupts_the_head_where_one_tail_has_few_heads():
    one_to_many = build_graph([("h", "r", f"t{i}") for i in range(20)])
    many_to_one = build_graph([(f"h{i}", "r", "t") for i in range(20)])
    assert Corruptor(one_to_many).head_probability[0] > 0.9
    assert Corruptor(many_to_one).head_probability[0] < 0.1


def test_link_prediction_by_hand():
    graph = build_graph([("a", "r", "b"), ("a", "r", "c")])
    model = TransE(graph, TransEConfig(dim=1), torch.Generator())
    with torch.no_grad():
        model.entities.copy_(torch.tensor([[0.0], [2.0], [1.0]]))  # a, b, c
        model.relations.copy_(torch.tensor([[1.0]]))
    # tail: from a + r = 1 c is nearer than b, but (a, r, c) is known and filtered; a ties with b: rank 1.5
    # head: x + r = 2 holds for c, which nothing filters; b ties with a: rank 2.5
    scores = link_prediction(model, graph, torch.tensor([[0, 0, 1]]))
    assert scores["mrr"] == pytest.approx((1 / 1.5 + 1 / 2.5) / 2, abs=1e-4)
    assert scores["hits@10"] == 1.0


def test_held_out_triples_are_not_trained_on():
    rest, hidden = split_triples(world(), 0.1)
    assert len(hidden) == 8
    assert len(rest.triples) == 72
    assert not {tuple(row) for row in hidden.tolist()} & set(rest.triples)


def test_bad_settings_and_an_empty_graph_are_refused():
    with pytest.raises(InputError, match="dim=0"):
        TransEConfig(dim=0)
    with pytest.raises(InputError, match="margin"):
        TransEConfig(margin=0)
    with pytest.raises(KnowledgeError, match="no triples"):
        Corruptor(build_graph([], [("a", "en", "name")]))


def test_batches_rank_as_one_triple_at_a_time(monkeypatch):
    graph = world(12)
    model = TransE(graph, TransEConfig(dim=4), torch.Generator().manual_seed(0))
    whole = link_prediction(model, graph)
    monkeypatch.setattr(transe, "_DISTANCES", 1)
    assert link_prediction(model, graph) == whole
    known = set(graph.triples)
    ranks = []
    for head, relation, tail in graph.triples:
        for place, true in ((2, tail), (0, head)):
            others = [[head, relation, tail] for _ in graph.entities]
            for entity, row in enumerate(others):
                row[place] = entity
            distance = model.distance(torch.tensor(others)).tolist()
            rivals = [d for entity, d in enumerate(distance) if entity != true and tuple(others[entity]) not in known]
            ranks.append(1 + sum(d < distance[true] for d in rivals))
    assert whole["mrr"] == pytest.approx(sum(1 / rank for rank in ranks) / len(ranks), abs=1e-4)


def test_a_large_graph_is_scored_on_a_sample(monkeypatch):
    graph = world(40)
    model = fit(graph, SMALL)[0]
    assert link_prediction(model, graph, most=30) == link_prediction(model, graph, most=30)
    assert link_prediction(model, graph, most=30) != link_prediction(model, graph, most=0)
    assert link_prediction(model, graph, most=1000) == link_prediction(model, graph, most=0)
