"""`bench extend-knowledge`: what it takes out comes back by the typed facts, and an edit says one thing only."""

from __future__ import annotations

import random

import torch
from rapiddraw.benchmarks.extend_knowledge import FRUIT_RELATIONS, edit, facts_of, without
from rapiddraw.core.knowledge.extend import extend_graph
from rapiddraw.core.orchard.entities import entities
from rapiddraw.core.train.recipes.kg import orchard_graph


def graph():
    found = orchard_graph()
    vectors = torch.randn(len(found.entities), 8, generator=torch.Generator().manual_seed(0))
    return found.with_embeddings(vectors, relations=torch.randn(len(found.relations), 8))


def test_fruits_that_were_taken_out_come_back_by_their_facts():
    known = graph()
    unseen = [entity for entity in entities() if entity.split == "unseen"]
    rest = without(known, {entity.id for entity in unseen})
    assert rest.relation_vectors is None and not any(entity.id in rest.entities for entity in unseen)
    kept = [i for i, entity in enumerate(known.entities) if entity in rest.index]
    assert torch.equal(rest.embeddings, known.embeddings[kept])
    back = extend_graph(rest, "\n".join(line for entity in unseen for line in facts_of(known, entity))).graph
    assert {tuple(back.neighbours(entity.id)) for entity in unseen} == {tuple(known.neighbours(entity.id)) for entity in unseen}
    assert all(back.aliases[entity.id]["zh"] == (entity.name_zh,) for entity in unseen)


def test_a_fact_is_left_out():
    known, fruit = graph(), next(entity for entity in entities() if entity.genus is not None)
    for attribute, relation in FRUIT_RELATIONS.items():
        left = "\n".join(facts_of(known, fruit, attribute))
        assert relation not in left and ("is_a" not in left) == (attribute == "shape")


def test_an_edit_changes_what_it_says():
    known, rng = graph(), random.Random(0)
    fruits = [entity for entity in entities() if entity.pattern != "plain"]
    for fruit in (next(e for e in fruits if e.genus), next(e for e in fruits if not e.genus)):
        for attribute in FRUIT_RELATIONS:
            _, lines, changed, value = edit(fruit, attribute, rng)
            assert changed == attribute and value != getattr(fruit, attribute) and len(lines) == 1
            said = extend_graph(known, lines[0]).graph.neighbours(fruit.id)
            ends = {tail for _, _, tail in said}
            ends |= {tail for end in ends if end.startswith("genus:") for head, _, tail in known.neighbours(end) if head == end}
            assert f"{attribute}:{value}" in ends and f"{attribute}:{getattr(fruit, attribute)}" not in ends
