"""What ComfyUI knows of our nodes: the same as their classes say."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

import pytest
import rapiddraw
from rapiddraw.core.graph.inputs import input_specs
from rapiddraw.core.graph.shipped import template_name

NODES = rapiddraw.NODE_CLASS_MAPPINGS


@pytest.fixture(scope="module")
def known(server: Any) -> dict[str, Any]:
    return server.get("/object_info")


@pytest.mark.parametrize("node_id", sorted(NODES))
def test_a_node_is_known_with_its_inputs_outputs_and_help(known: dict[str, Any], node_id: str) -> None:
    entry, node = known[node_id], NODES[node_id]
    assert entry["display_name"] == node.DISPLAY_NAME and entry["category"] == node.CATEGORY and entry["description"] == node.DESCRIPTION
    assert entry["output"] == list(node.RETURN_TYPES) and entry["output_tooltips"] == list(node.OUTPUT_TOOLTIPS)
    assert entry["output_node"] == getattr(node, "OUTPUT_NODE", False)
    shown = {**entry["input"].get("required", {}), **entry["input"].get("optional", {})}
    specs = {name: spec for name, spec in input_specs(node).items() if spec.category != "hidden"}
    assert list(shown) == list(specs)
    assert all(shown[name][1]["tooltip"] == spec.options["tooltip"] for name, spec in specs.items())


def test_lists_show_the_bundles_by_kind(known: dict[str, Any]) -> None:
    inputs = known["RapidDrawBundleLoader"]["input"]["required"]
    assert {"tiny-unet.safetensors", "eps-unet.safetensors"} <= set(inputs["unet_name"][0])
    assert "tiny-text.safetensors" in inputs["text_name"][0] and "tiny-text.safetensors" not in inputs["vae_name"][0]


def test_a_bundle_in_comfyuis_models_folder_appears_and_runs(server: Any, weights: Any) -> None:
    (server.base / "models" / "rapiddraw" / "mine.safetensors").write_bytes((weights / "tiny-unet.safetensors").read_bytes())
    entry = server.get("/object_info/RapidDrawBundleLoader")["RapidDrawBundleLoader"]
    assert "mine.safetensors" in entry["input"]["required"]["unet_name"][0]
    assert "mine.safetensors" in server.get("/models/rapiddraw")


def test_templates_are_offered(server: Any) -> None:
    offered = server.get("/workflow_templates").get("rapiddraw", [])
    from .graphs import SAVED

    listed = [template_name(name) for name in SAVED]
    assert set(listed) == set(offered)
    assert server.get(f"/api/workflow_templates/rapiddraw/{quote(listed[0])}.json")["nodes"]


def test_names_and_help_pages_are_served_in_both_languages(server: Any) -> None:
    translated = server.get("/i18n")
    for node_id, node in NODES.items():
        assert translated["en"]["nodeDefs"][node_id]["display_name"] == node.DISPLAY_NAME
        assert translated["zh"]["nodeDefs"][node_id]["description"] != node.DESCRIPTION
        english, chinese = (server.get_bytes(f"/extensions/rapiddraw/docs/{page}.md").decode() for page in (node_id, f"{node_id}/zh"))
        assert node.DESCRIPTION in english and node.DESCRIPTION not in chinese
