"""The blueprints, as a real ComfyUI lists them for its node library."""

from __future__ import annotations

import json
import urllib.error
from typing import Any

import pytest
from rapiddraw.tests.blueprints import BLUEPRINTS, blueprint


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
