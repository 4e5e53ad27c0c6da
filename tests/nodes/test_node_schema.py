"""Saved graphs keep working: node ids never change, inputs and outputs are only appended. See cli/node_schema.py."""

from __future__ import annotations

import copy
import json

import pytest
import rapiddraw
from rapiddraw.cli.node_schema import broken_promises, current_schema, schema_path

RELEASED = json.loads(schema_path().read_text(encoding="utf-8"))


def test_every_released_graph_still_loads():
    assert broken_promises(RELEASED, current_schema(rapiddraw.NODE_CLASS_MAPPINGS)) == []


def test_every_node_and_input_is_recorded():
    """After appending: python -m rapiddraw nodes --write-schema"""
    assert current_schema(rapiddraw.NODE_CLASS_MAPPINGS) == RELEASED


def _rename(schema):
    schema["RapidDrawNew"] = schema.pop("RapidDrawSamplerPNDM")


def _remove(schema):
    del schema["RapidDrawKGTextEncode"]["inputs"][2]


def _reorder(schema):
    inputs = schema["RapidDrawKGTextEncode"]["inputs"]
    inputs[2], inputs[3] = inputs[3], inputs[2]


def _insert(schema):
    schema["RapidDrawKGTextEncode"]["inputs"].insert(0, ["new", "INT", "optional"])


def _retype(schema):
    schema["RapidDrawKGTextEncode"]["outputs"][0][1] = "STRING"


def _require(schema):
    schema["RapidDrawKGTextEncode"]["inputs"][4][2] = "required"


def _demand(schema):
    schema["RapidDrawKGTextEncode"]["inputs"].append(["new", "INT", "required"])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (_rename, "RapidDrawSamplerPNDM is gone"),
        (_remove, "input 'text' was removed or renamed"),
        (_reorder, "moved from place 3 to 4"),
        (_insert, "append it at the end instead"),
        (_retype, "output 'conditioning' changed from CONDITIONING to STRING"),
        (_require, "was optional and is required"),
        (_demand, "is required and has no default"),
    ],
)
def test_a_change_that_breaks_graphs_is_told_with_what_to_do(change, said):
    changed = copy.deepcopy(RELEASED)
    change(changed)
    problems = broken_promises(RELEASED, changed)
    assert len(problems) == 1 and said in problems[0]


def test_appending_is_no_problem():
    changed = copy.deepcopy(RELEASED)
    changed["RapidDrawKGTextEncode"]["inputs"].append(["new", "INT", "optional"])
    changed["RapidDrawKGTextEncode"]["outputs"].append(["new", "INT"])
    changed["RapidDrawNew"] = {"inputs": [["needed", "INT", "required"]], "outputs": []}
    assert broken_promises(RELEASED, changed) == []


def test_an_input_may_take_more_types_and_never_fewer():
    changed = copy.deepcopy(RELEASED)
    changed["RapidDrawTimeDecoupledModel"]["inputs"][0][1] = "MODEL,GUIDER"
    assert broken_promises(RELEASED, changed) == []
    assert "changed from MODEL,GUIDER to MODEL" in broken_promises(changed, RELEASED)[0]
