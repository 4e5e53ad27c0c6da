"""`bench pair-lora` and `bench domain-lora` on tiny networks: what is trained, what is drawn, and what is compared."""

from __future__ import annotations

import argparse
import json

import pytest
from rapiddraw.benchmarks import domain_lora, domain_training, pair_lora
from rapiddraw.core.knowledge.facts import read_facts
from rapiddraw.core.orchard.new_fruits import new_fruits, samples_of
from rapiddraw.core.train.recipes.kg import orchard_graph


@pytest.fixture
def small(orchard, monkeypatch):
    monkeypatch.setattr(domain_training, "SIDE", 64)
    monkeypatch.setattr(domain_training, "STEPS", 2)
    monkeypatch.setattr(domain_training, "SETTINGS", {"batch_size": 2, "lr": 1e-2, "rank": 2, "size": 64})
    return argparse.Namespace(quick=True)


def test_a_pair_is_compared_with_one_lora_of_as_many_evaluations(small):
    outcome = pair_lora.run(small)
    assert [(row["model"], row["steps"]) for row in outcome["rows"]] == [("base", 0), ("one LoRA", 4), ("pair", 2)]
    assert len(outcome["checks"]) == len(pair_lora.expectations(small)) == 2
    assert all(check["count"] == "6 pictures, 1 seed" and check["interval"] for check in outcome["checks"])
    json.dumps(outcome)


def test_the_full_run_has_three_seeds():
    parser = argparse.ArgumentParser()
    pair_lora.add_arguments(parser)
    assert pair_lora.expectations(parser.parse_args([]))["pair"].basis.count() == "108 pictures, 3 seeds"


def test_two_conditions_are_trained_and_old_names_are_drawn_too(small, monkeypatch):
    monkeypatch.setattr("rapiddraw.core.knowledge.extend.extend_graph", lambda graph, lines: argparse.Namespace(graph=graph))
    outcome = domain_lora.run(small)
    seen = {(row["condition"], row["model"], row["names"]) for row in outcome["rows"]}
    assert len(seen) == len(outcome["rows"]) == 8 and ("graph", "LoRA", "old names") in seen
    assert len(outcome["checks"]) == 4 and all(check["interval"] for check in outcome["checks"])
    json.dumps(outcome)


def test_facts_tell_of_every_new_fruit_in_the_graphs_own_words():
    graph, lines = orchard_graph(), domain_training.facts_of_new_fruits()
    facts = read_facts(lines, graph)
    assert "\n" in lines and facts
    for fruit in new_fruits():
        assert fruit.id not in graph.index and f"{fruit.id}, skin_colour, skin:{fruit.skin}" in lines


def test_scenes_that_are_drawn_are_not_those_of_the_training():
    trained = {str(one.scene) for one in samples_of(new_fruits(), 300)}
    drawn = [str(scene) for _, scene in domain_training.new_scenes(72, 0)]
    assert drawn == [str(scene) for _, scene in domain_training.new_scenes(72, 0)] != [str(s) for _, s in domain_training.new_scenes(72, 1)]
    assert len(set(drawn) - trained) == len(set(drawn))
