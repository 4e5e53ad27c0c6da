"""`bench kg` on a small graph: its shape, and that facts which follow from others are found."""

from __future__ import annotations

import argparse
import json

from rapiddraw.benchmarks import kg


def test_the_result_has_the_documented_shape_and_facts_are_found():
    result = kg.run(argparse.Namespace(entities=500, held_out=40, epochs=40))
    assert set(result) >= {"name", "command", "environment", "rows", "checks"} and result["name"] == "kg"
    assert 450 < result["rows"][0]["entities"] <= 500 and result["rows"][0]["held out"] == 40
    assert result["rows"][0]["tails among ten"] > 0.3 and all("interval" in check for check in result["checks"])
    json.dumps(result)


def test_values_follow_from_a_things_kind():
    facts = kg.drawn_facts(400)
    kinds = {head: tail for head, relation, tail in facts if relation == "is_a"}
    looks = {(kinds[head], tail) for head, relation, tail in facts if relation == "relation:0"}
    assert len(looks) == len({kind for kind, _ in looks})
