"""The blueprints, as a real ComfyUI lists them for its node library and runs them."""

from __future__ import annotations

import io
import json
import urllib.error
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from rapiddraw.core.graph.formats import to_api
from rapiddraw.nodes.registry import registry
from rapiddraw.tests.blueprints import BLUEPRINTS, blueprint, wrapped
from rapiddraw.tests.comfyui.graphs import shortened


@pytest.fixture
def listed(server: Any) -> dict[str, Any]:
    """What the server lists under the pack's name, by id."""
    try:
        found = server.get("/global_subgraphs")
    except urllib.error.HTTPError as error:
        pytest.skip(f"this ComfyUI lists no subgraphs of node packs ({error})")
    return {number: entry for number, entry in found.items() if entry["info"]["node_pack"] == "custom_nodes.rapiddraw"}


def test_the_server_lists_each_blueprint(listed: dict[str, Any]) -> None:
    assert sorted(entry["name"] for entry in listed.values()) == BLUEPRINTS
    assert {entry["source"] for entry in listed.values()} == {"custom_node"}


def test_the_server_hands_out_each_blueprint(server: Any, listed: dict[str, Any]) -> None:
    for number, entry in listed.items():
        assert json.loads(server.get(f"/global_subgraphs/{number}")["data"]) == blueprint(entry["name"])


@pytest.mark.parametrize("name", BLUEPRINTS)
def test_comfyuis_executor_runs_each_blueprint(server: Any, weights: Path, name: str) -> None:
    graph = shortened(to_api(wrapped(name), registry()), weights)
    for node in graph.values():
        if node["class_type"] in ("EmptyLatentImage", "EmptyImage", "ImageScale"):
            node["inputs"] |= {"width": 64, "height": 64}
    run = server.run(graph, workflow=wrapped(name))
    assert (run.status, run.error, run.node_errors) == ("success", "", {})
    pictures = [Image.open(io.BytesIO(data)) for data in server.pictures(run)]
    assert len(pictures) == sum(node["class_type"] == "RapidDrawSaveMarkedImage" for node in graph.values()) >= 1
    spans = [max(high - low for low, high in picture.convert("RGB").getextrema()) for picture in pictures]
    assert min(spans) > 4 or name == "Upscale to a size", "only an upscaled grey picture has one colour"
