"""Graphs and pictures that people reported: each small file in tests/data gives what ComfyUI's editor gives."""

from __future__ import annotations

import json
import logging
import time
from pathlib import Path

import pytest
from PIL import Image, PngImagePlugin
from rapiddraw.core.errors import GraphError
from rapiddraw.core.graph.formats import read_graph
from rapiddraw.core.graph.stock.registry import STOCK_NODES
from rapiddraw.core.graph.validate import passed_over, validate

DATA = Path(__file__).parents[2] / "data"
PLAIN = {"1": {"width": 16, "height": 16, "batch_size": 1, "color": 255}, "2": {"images": ["1", 0], "filename_prefix": "x"}}


def inputs(name):
    return {node_id: node["inputs"] for node_id, node in read_graph(DATA / name).to_api(STOCK_NODES).items()}


@pytest.mark.parametrize(
    "name",
    [
        "graphs/links_as_objects_with_string_slots.json",
        "graphs/links_with_a_dangling_id.json",
        "graphs/subgraph_unused.json",
        "pictures/good_workflow_bad_prompt.png",
        "pictures/compressed_text_over_1_mib.png",
    ],
)
def test_it_reads_as_the_plain_graph(name):
    assert inputs(name) == PLAIN
    assert validate(read_graph(DATA / name), STOCK_NODES) == []


def test_a_muted_primitive_still_gives_its_value():
    assert inputs("graphs/muted_primitive_feeds_width.json")["3"] == {
        "image": ["1", 0], "upscale_method": "nearest-exact", "width": 40, "height": 32, "crop": "disabled",
    }  # fmt: skip


def test_a_primitive_without_a_value_leaves_the_widgets_own():
    graph = json.loads((DATA / "graphs" / "muted_primitive_feeds_width.json").read_text())
    for node in graph["nodes"]:
        if node["type"] == "PrimitiveNode":
            node["widgets_values"] = None
    assert read_graph(graph).to_api(STOCK_NODES)["3"]["inputs"]["width"] == 32


def test_a_link_from_nowhere_counts_as_none():
    graph = json.loads((DATA / "graphs" / "links_with_a_dangling_id.json").read_text())
    graph["nodes"][1]["inputs"][0]["link"] = 9
    assert "images" not in read_graph(graph).to_api(STOCK_NODES)["2"]["inputs"]
    assert [problem.type for problem in validate(graph, STOCK_NODES)] == ["required_input_missing"]


def test_the_date_and_a_widgets_value_stand_in_the_prefix():
    prefix = inputs("graphs/date_and_widget_tokens_in_prefix.json")["2"]["filename_prefix"]
    assert prefix in {time.strftime("%Y-%m-%d", time.localtime(time.time() - late)) + "/pic_16_16" for late in (0, 60)}


def test_a_subgraph_is_unfolded():
    assert inputs("graphs/subgraph.json") == {"5:1": PLAIN["1"], "2": {"images": ["5:1", 0], "filename_prefix": "x"}}


def test_labels_of_the_editor_are_no_problem(caplog):
    graph = json.loads((DATA / "graphs" / "editor_only_label.json").read_text())
    assert validate(graph, STOCK_NODES) == [] and passed_over(graph, STOCK_NODES) == []
    graph["nodes"].append({"id": 8, "type": "Some Pack's Clock", "inputs": [], "outputs": []})
    assert validate(graph, STOCK_NODES) == []
    (warning,) = passed_over(graph, STOCK_NODES)
    assert (warning.type, warning.node_id) == ("missing_node_type", "8")


def test_an_unknown_node_that_takes_links_may_be_an_output_and_counts():
    graph = json.loads((DATA / "graphs" / "editor_only_label.json").read_text())
    graph["nodes"].append({"id": 8, "type": "SaveImageElsewhere", "inputs": [{"name": "images", "type": "IMAGE", "link": 40}]})
    graph["links"].append([40, 1, 0, 8, 0, "IMAGE"])
    assert [problem.node_id for problem in validate(graph, STOCK_NODES)] == ["8"]


def test_a_picture_whose_pixels_are_cut_still_carries_its_graph():
    assert set(inputs("pictures/text_whole_pixels_cut.png")) == {"1", "2"}


def test_one_bad_graph_of_a_picture_costs_one_warning(caplog):
    with caplog.at_level(logging.WARNING, "rapiddraw"):
        read_graph(DATA / "pictures" / "good_workflow_bad_prompt.png")
    assert len(caplog.records) == 1 and "is not valid JSON" in caplog.text


@pytest.mark.parametrize("forms", [("{", "{"), ("[1]", "{}"), ("", "{")])
def test_a_picture_with_bad_graphs_only_says_why(tmp_path, forms):
    info = PngImagePlugin.PngInfo()
    for key, text in zip(("workflow", "prompt"), forms, strict=True):
        info.add_text(key, text)
    Image.new("RGB", (4, 4)).save(tmp_path / "bad.png", pnginfo=info)
    with pytest.raises(GraphError, match=r"bad\.png"):
        read_graph(tmp_path / "bad.png")


def test_a_text_beyond_the_limit_is_not_unpacked(tmp_path, monkeypatch):
    monkeypatch.setattr("rapiddraw.core.graph.formats.MAX_GRAPH_BYTES", 2**20)
    info = PngImagePlugin.PngInfo()
    info.add_text("prompt", "0" * (2**20 + 1), zip=True)
    Image.new("RGB", (4, 4)).save(tmp_path / "bomb.png", pnginfo=info)
    with pytest.raises(GraphError, match="more than 1048576 bytes"):
        read_graph(tmp_path / "bomb.png")


@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize("kind", ["text", "itxt"])
def test_every_kind_of_text_is_read_and_may_be_cut(tmp_path, kind, zipped):
    info = PngImagePlugin.PngInfo()
    (info.add_itxt if kind == "itxt" else info.add_text)("prompt", json.dumps({"1": {"class_type": "A", "inputs": {}}}), zip=zipped)
    path = tmp_path / "picture.png"
    Image.new("RGB", (4, 4)).save(path, pnginfo=info)
    assert read_graph(path).api == {"1": {"class_type": "A", "inputs": {}}}
    whole = path.read_bytes()
    for length in range(8, len(whole)):
        path.write_bytes(whole[:length])
        try:
            assert read_graph(path).api == {"1": {"class_type": "A", "inputs": {}}}
        except GraphError as error:
            assert "picture.png" in str(error)
