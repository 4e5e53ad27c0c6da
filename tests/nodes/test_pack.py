"""What ComfyUI sees of the pack: complete, tidy, and still there when one family is not."""

from __future__ import annotations

import importlib
import sys

import pytest
import rapiddraw
from rapiddraw import nodes
from rapiddraw.core.graph.inputs import input_specs

NODES = rapiddraw.NODE_CLASS_MAPPINGS


def test_every_family_loads():
    assert nodes.FAILED == {}
    assert rapiddraw.WEB_DIRECTORY == "./web"
    assert set(rapiddraw.NODE_DISPLAY_NAME_MAPPINGS) == set(NODES)


@pytest.mark.parametrize("node_id", sorted(NODES))
def test_a_node_explains_itself(node_id):
    node = NODES[node_id]
    assert node_id == f"RapidDraw{node.__name__}"
    assert node.CATEGORY.startswith("RapidDraw/") and node.DESCRIPTION and node.DISPLAY_NAME
    assert callable(getattr(node, node.FUNCTION))
    assert len(node.RETURN_TYPES) == len(getattr(node, "RETURN_NAMES", node.RETURN_TYPES)) == len(node.OUTPUT_TOOLTIPS)
    for spec in input_specs(node).values():
        assert spec.options.get("tooltip"), f"{spec.name} has no tooltip"
        if spec.type in ("INT", "FLOAT"):
            assert spec.options["min"] <= spec.default <= spec.options["max"], spec.name
        if spec.choices is not None:
            assert spec.choices, f"{spec.name}: an empty list can never be valid"
        if spec.name in ("seed", "noise_seed"):
            assert spec.is_seed and spec.options["max"] == 2**64 - 1


def test_one_broken_family_leaves_the_others(monkeypatch, caplog):
    monkeypatch.setitem(sys.modules, "rapiddraw.nodes.sampling", None)  # importing it now fails
    try:
        broken = importlib.reload(nodes)
        assert list(broken.FAILED) == ["sampling"] and "RapidDrawSamplerPNDM" not in broken.NODE_CLASS_MAPPINGS
        assert "RapidDrawBundleLoader" in broken.NODE_CLASS_MAPPINGS
        assert [record.levelname for record in caplog.records] == ["ERROR"] and "nodes/sampling.py" in caplog.text
    finally:
        monkeypatch.undo()
        importlib.reload(nodes)
    assert nodes.FAILED == {}
