"""What ComfyUI sees of the pack: complete, tidy, and still there when one family is not."""

from __future__ import annotations

import importlib
import sys

import pytest
import rapiddraw
from rapiddraw import nodes
from rapiddraw.core import paths
from rapiddraw.core.graph.inputs import input_specs

NODES = rapiddraw.NODE_CLASS_MAPPINGS


def _files(node):
    """The inputs of a node that choose a file, each with one that is there."""
    choices = {spec.name: spec.choices or [] for spec in input_specs(node).values()}
    found = {name: [str(one) for one in listed if str(one).endswith(".safetensors")] for name, listed in choices.items()}
    return {name: files[0] for name, files in found.items() if files}


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


@pytest.mark.parametrize("node_id", sorted(name for name, node in NODES.items() if _files(node)))
def test_a_node_that_reads_a_file_is_fingerprinted_by_its_content(node_id, monkeypatch):
    node, looked_at = NODES[node_id], set()
    monkeypatch.setattr(paths, "file_sha256", lambda path: looked_at.add(path.name) or "content")
    node.IS_CHANGED(**_files(node))
    assert {name.rpartition("/")[2] for name in _files(node).values()} <= looked_at


@pytest.mark.parametrize("node_id", sorted(name for name, node in NODES.items() if hasattr(node, "IS_CHANGED")))
def test_a_fingerprint_can_be_taken_where_every_value_comes_by_a_link(node_id):
    """ComfyUI gives None for each; an exception there makes the node run every time."""
    NODES[node_id].IS_CHANGED(**dict.fromkeys(input_specs(NODES[node_id])))


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
