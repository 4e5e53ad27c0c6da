"""`bench hardening` at its smallest: refused, accepted and lost; an input is made again by its number; the folders are put back."""

from __future__ import annotations

import argparse
import json
import os
import random
import time

import pytest
from rapiddraw.benchmarks import hardening
from rapiddraw.benchmarks.doors import Door
from rapiddraw.benchmarks.mutations import ODD_TEXTS, ODD_VALUES, damaged, hostile_text, odd_json, odd_tree
from rapiddraw.cli import main
from rapiddraw.core import paths
from rapiddraw.core.errors import InputError

TREE = {"a": [1, {"b": "c"}], "d": {"e": None}}


def arguments(**changes):
    given = {"count": 40, "seed": 0, "first": 0, "limit": 5.0, "only": None, "command_line": main}
    return argparse.Namespace(**given | changes)


class Toy(Door):
    """A door whose inputs are told what to do."""

    name = "toy"

    def prepare(self):
        self.made = [("good", lambda: 1), ("bad", self.refuse), ("worse", self.lose), ("slow", self.wait)]

    def refuse(self):
        raise InputError("no")

    def lose(self):
        raise KeyError("x")

    def wait(self):
        while True:
            time.perf_counter()

    def call(self, data, label):
        return data


def test_refused_accepted_and_lost(tmp_path):
    tally = hardening.try_door(Toy(tmp_path), 4, arguments(limit=0.05))
    assert (tally.tried, tally.accepted, tally.refused) == (4, 1, 1) and tally.slowest == "slow"
    assert [one[:3] for one in tally.lost] == [(2, "worse", "KeyError: 'x'"), (3, "slow", "more than 0.05 s")]
    assert tally.row()["lost"] == 2


def test_every_door_is_tried_and_the_world_is_put_back(monkeypatch):
    before = (paths.input_dir(), paths.output_dir(), paths.temp_dir(), os.getcwd(), os.environ.get("RAPIDDRAW_WEIGHTS"))
    outcome = hardening.run(arguments())
    json.dumps(outcome)
    assert {row["door"] for row in outcome["rows"]} == set(hardening.doors())
    assert all(row["inputs tried"] == row["refused"] + row["accepted"] + row["lost"] for row in outcome["rows"])
    assert before == (paths.input_dir(), paths.output_dir(), paths.temp_dir(), os.getcwd(), os.environ.get("RAPIDDRAW_WEIGHTS"))
    assert not outcome["checks"][1]["holds"], "forty are too few"
    with pytest.raises(InputError, match="no door is named 'windows'"):
        hardening.run(arguments(only="windows"))


def test_an_input_is_made_again_by_its_number(tmp_path):
    door = hardening.doors()["knowledge files"](tmp_path)
    number = len(door.made) + 7
    one, again, other = (door.mutation(random.Random(f"0/{n}")) for n in (number, number, number + 1))
    assert one == again != other


def test_mutations_leave_their_input_alone_and_differ():
    trees, texts, before = set(), set(), repr(ODD_VALUES)
    for seed in range(300):
        rng = random.Random(seed)
        trees.add(repr(odd_tree(TREE, rng)))
        texts.add(hostile_text(rng))
        assert isinstance(odd_json(TREE, rng), bytes) and isinstance(damaged(b"hello world", rng), bytes)
    assert repr(ODD_VALUES) == before, "a value that was put into one tree is not changed by the next"
    assert TREE == {"a": [1, {"b": "c"}], "d": {"e": None}} and len(trees) > 150 and len(texts) > 100
    assert damaged(b"", random.Random(0)) is not None and any("\ud800" in text for text in ODD_TEXTS)
