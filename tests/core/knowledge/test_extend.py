"""New things from their facts: the mean of what the facts say, edits that keep all else, and lines that cannot be read."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from rapiddraw.core.errors import InputError, KnowledgeError
from rapiddraw.core.knowledge.extend import extend_graph, relations_of
from rapiddraw.core.knowledge.graph import KnowledgeGraph, build_graph, load_knowledge, save_knowledge
from rapiddraw.core.knowledge.projection import Projection
from rapiddraw.core.knowledge.query import describe_entity

COLOURS, SHAPES = ("red", "green", "blue"), ("round", "star")
ZH = "\u7c73\u62c9\u6735"


def world(noise: float = 0.05) -> KnowledgeGraph:
    """Twelve things with a colour and a shape whose vectors are the mean of value - relation, apart from `noise`."""
    facts = [
        fact
        for i in range(12)
        for fact in ((f"thing:{i}", "has_colour", f"colour:{COLOURS[i % 3]}"), (f"thing:{i}", "has_shape", f"shape:{SHAPES[i % 2]}"))
    ]
    graph = build_graph([*facts, ("maker", "makes", "thing:0")], [("thing:0", "en", "nullo"), ("thing:0", "zh", ZH)])
    generator = torch.Generator().manual_seed(0)
    relations = torch.randn(3, 16, generator=generator)
    vectors = torch.randn(len(graph.entities), 16, generator=generator)
    for i in range(12):
        ends = [graph.index[f"colour:{COLOURS[i % 3]}"], graph.index[f"shape:{SHAPES[i % 2]}"]]
        mean = (vectors[ends[0]] - relations[0] + vectors[ends[1]] - relations[1]) / 2
        vectors[graph.index[f"thing:{i}"]] = mean + noise * torch.randn(16, generator=generator)
    return graph.with_embeddings(vectors, relations=relations)


def test_a_new_thing_lies_where_its_facts_say():
    graph = world()
    relations = relations_of(graph)
    made = extend_graph(graph, "blumo, has colour, red\nblumo, has_shape, star").graph
    weights, step = relations.weights, relations.vectors
    red, star = graph.vector("colour:red"), graph.vector("shape:star")
    expected = (weights[0] * (red - step[0]) + weights[1] * (star - step[1])) / (weights[0] + weights[1])
    torch.testing.assert_close(made.vector("blumo"), expected)
    like = graph.index["thing:3"]  # red and a star, as the new thing
    distance = (graph.embeddings - made.vector("blumo")).norm(dim=1)
    assert int(distance.argmin()) in (like, graph.index["thing:9"])


def test_a_new_value_lies_at_head_plus_relation():
    graph = world()
    made = extend_graph(graph, "maker, makes, blumo\nblumo, has_shape, star").graph
    relations = relations_of(graph)
    aims = torch.stack([graph.vector("maker") + relations.vectors[2], graph.vector("shape:star") - relations.vectors[1]])
    weights = relations.weights[[2, 1]]
    torch.testing.assert_close(made.vector("blumo"), (weights[:, None] * aims).sum(0) / weights.sum())


def test_new_things_that_name_each_other_are_solved_together():
    graph = world()
    made = extend_graph(graph, "inner, has_shape, star\nouter, makes, inner").graph
    step = relations_of(graph).vectors
    # Two facts and two unknowns: both hold exactly.
    torch.testing.assert_close(made.vector("inner"), graph.vector("shape:star") - step[1], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(made.vector("outer"), made.vector("inner") - step[2], rtol=1e-4, atol=1e-4)


def test_facts_that_are_known_change_nothing():
    graph = world()
    made = extend_graph(graph, "nullo, has_colour, red").graph
    assert torch.equal(made.embeddings, graph.embeddings) and set(made.triples) == set(graph.triples)


def test_a_changed_fact_moves_only_its_own_thing_and_back():
    graph = world()
    made = extend_graph(graph, "nullo, has_colour, blue").graph
    same = [i for i in range(len(graph.entities)) if i != graph.index["thing:0"]]
    assert torch.equal(made.embeddings[same], graph.embeddings[same])
    assert ("thing:0", "has_colour", "colour:blue") in made.neighbours("thing:0")
    assert ("thing:0", "has_colour", "colour:red") not in made.neighbours("thing:0")
    near = (graph.embeddings - made.vector("thing:0")).norm(dim=1).argmin()
    assert graph.entities[near] in ("thing:2", "thing:8")  # blue and round
    back = extend_graph(made, "nullo, has_colour, red").graph
    torch.testing.assert_close(back.vector("thing:0"), graph.vector("thing:0"), rtol=0, atol=0.05)  # the relation's variance has changed


def test_older_bundles_get_estimated_relations():
    graph = replace(world(noise=0.0), relation_vectors=None)
    vectors, relations = graph.embeddings, relations_of(graph)
    shape = [vectors[t] - vectors[h] for h, r, t in graph.triples if r == 1]
    torch.testing.assert_close(relations.vectors[1], torch.stack(shape).mean(0))
    # A relation that holds better counts more.
    spread = world(noise=0.0)
    assert relations_of(spread).weights[0] > 0 and bool(relations_of(spread).single[:2].all())


def test_names_in_any_language_are_kept_and_found(tmp_path):
    graph = world()
    made = extend_graph(graph, f"\u84dd\u83ab\uff0chas_colour\uff0cblue\nblumo, has_shape, star\nblumo, alias@zh, {ZH}{ZH}")
    assert made.graph.aliases["\u84dd\u83ab"] == {"zh": ("\u84dd\u83ab",)}
    assert made.graph.aliases["blumo"] == {"en": ("blumo",), "zh": (ZH + ZH,)}
    assert "nearest" in describe_entity(made.graph, ZH + ZH)
    kept = load_knowledge(save_knowledge(tmp_path / "kg.safetensors", made.graph))
    assert kept.aliases == made.graph.aliases and torch.equal(kept.embeddings, made.graph.embeddings)
    assert torch.equal(kept.relation_vectors, graph.relation_vectors) and kept.digest == graph.digest


def test_a_projection_of_the_graph_serves_the_extended_one():
    graph = world()
    made = extend_graph(graph, "blumo, has_shape, star").graph
    projection = Projection({"l": torch.zeros(8, 16)}, graph.digest)
    projection.check({"l": 8}, made)
    with pytest.raises(KnowledgeError, match="another knowledge graph"):
        projection.check({"l": 8}, graph.with_embeddings(torch.ones(len(graph.entities), 16)))


def test_the_report_says_what_is_read_back():
    report = extend_graph(world(), "blumo, has_shape, star\nnullo, has_colour, blue").report
    assert "blumo: new, 1 fact" in report and "has_shape: shape:star (read back as number 1 of 2, then shape:round" in report
    assert "thing:0: known before" in report and "colour:red -> colour:blue" in report and "100%" in report


def test_a_thing_that_contradicts_its_kind_is_noted():
    graph = build_graph(
        [("genus", "has_shape", "star"), ("pear", "has_shape", "round"), ("nullo", "is_a", "genus"), ("x", "is_a", "genus")]
    )
    graph = graph.with_embeddings(torch.randn(len(graph.entities), 8, generator=torch.Generator().manual_seed(0)))
    assert "is_a genus still says has_shape star" in extend_graph(graph, "nullo, has_shape, round").report


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("blumo, has_color, red", "line 1: .*has_colour"),
        ("# a comment\nblumo, has_colour, rad", "line 2: .*'rad'.*red"),
        ("blumo, has_colour", "three parts"),
        ("blumo, very, has_colour, red", "tabs"),
        ("blumo, makes, krumo", "no value 'krumo'"),
        ("blumo, makes, blumo", "said of itself"),
        ("one_new, makes, two_new\ntwo_new, makes, one_new", "nothing is said of one_new, two_new"),
        ("ab, has_shape, star", "too short"),
        ("blumo, alias@zh, " + ZH, "nothing is said of blumo"),
        ("blumo, has_shape, star\nblumo, alias@!!, x1x", "language code"),
        ("b\x07lumo, has_shape, star", "control"),
        ("x" * 300 + ", has_shape, star", "300 characters"),
    ],
)
def test_facts_that_cannot_be_placed_are_refused_with_what_is_near(text, says):
    with pytest.raises(KnowledgeError, match=says):
        extend_graph(world(), text)


def test_a_text_without_facts_and_a_graph_without_vectors_are_refused():
    with pytest.raises(InputError, match="no facts"):
        extend_graph(world(), "\n# nothing\n")
    with pytest.raises(InputError, match="characters"):
        extend_graph(world(), "x" * 300_000)
    with pytest.raises(KnowledgeError, match="no vectors"):
        extend_graph(world().with_embeddings(None), "blumo, has_shape, star")


def test_a_query_names_facts_neighbours_and_what_is_near_a_wrong_name():
    graph = world()
    text = describe_entity(graph, "nullo", 2)
    assert text.startswith("thing:0\nnames (en): nullo") and "  maker, makes, thing:0" in text and text.count("distance") == 2
    assert "has_colour colour:red" in text.partition("nearest:")[2]  # shared with the nearest
    assert describe_entity(graph, "red", 0).startswith("colour:red")
    with pytest.raises(KnowledgeError, match="nullo"):
        describe_entity(graph, "nulo")
    with pytest.raises(InputError, match="no entity is named"):
        describe_entity(graph, " ")
    with pytest.raises(InputError, match="0 to 100"):
        describe_entity(graph, "nullo", -1)
    assert "no vector" in describe_entity(graph.with_embeddings(None), "nullo")
