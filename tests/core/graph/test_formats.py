from __future__ import annotations

import json
import uuid

import pytest
from PIL import Image, PngImagePlugin
from rapiddraw.core.errors import GraphError
from rapiddraw.core.graph.formats import read_graph, to_api, to_ui, write_graph


def ui_node(node_id, kind, values=(), inputs=(), outputs=(), **more):
    slots = [{"name": name, "type": slot_type, "link": link} for name, slot_type, link in inputs]
    outs = [{"name": kind, "type": kind, "links": []} for kind in outputs]
    return {
        "id": node_id,
        "type": kind,
        "mode": 0,
        "order": node_id,
        "widgets_values": list(values),
        "inputs": slots,
        "outputs": outs,
        **more,
    }


def ui_graph(nodes, links=()):
    return {"last_node_id": 9, "last_link_id": 9, "nodes": nodes, "links": [list(link) for link in links], "version": 0.4}


def test_both_formats_are_told_apart_and_written_back(tmp_path, make, registry):
    api = {"1": make("Number", value=3, scale=1.0), "2": make("Show", value=["1", 0])}
    path = write_graph(tmp_path / "deep" / "graph.json", api)
    assert read_graph(path).api == api
    ui = to_ui(api, registry)
    graph = read_graph(write_graph(tmp_path / "ui.json", ui))
    assert graph.ui == ui and graph.api is None
    assert {key: node["inputs"] for key, node in graph.to_api(registry).items()} == {key: node["inputs"] for key, node in api.items()}
    assert [entry.name for entry in tmp_path.iterdir() if entry.name.endswith(".tmp")] == []


def test_a_post_body_and_a_byte_order_mark_are_read(tmp_path, make):
    api = {"1": make("Show", value=1)}
    path = tmp_path / "body.json"
    path.write_text(json.dumps({"prompt": api, "client_id": "x"}), encoding="utf-8-sig")
    assert read_graph(path).api == api


@pytest.mark.parametrize("chunks", [("prompt",), ("workflow",), ("prompt", "workflow")])
def test_a_picture_carries_its_graph(tmp_path, make, registry, chunks):
    api = {"1": make("Number", value=3, scale=1.0), "2": make("Show", value=["1", 0])}
    forms = {"prompt": api, "workflow": to_ui(api, registry)}
    info = PngImagePlugin.PngInfo()
    for key in chunks:
        info.add_text(key, json.dumps(forms[key]))
    Image.new("RGB", (4, 4)).save(tmp_path / "picture.png", pnginfo=info)
    graph = read_graph(tmp_path / "picture.png")
    assert (graph.api is not None, graph.ui is not None) == ("prompt" in chunks, "workflow" in chunks)
    assert graph.to_api(registry)["2"]["inputs"] == {"value": ["1", 0]}


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"{", "not valid JSON"),
        (b"[1]", "a graph is an object"),
        (b"{}", "no nodes"),
        (b'{"name": "x"}', "not a graph"),
        (b'{"nodes": [3], "links": []}', "not a node"),
        (b'{"nodes": [], "links": 3}', "not a list"),
        (b'{"1": {"class_type": "A", "inputs": []}}', "'inputs' of node 1"),
        (b"[" * 100000, "not valid JSON"),
        (b"\xff\xfe\x00\x01", "UTF-8"),
        (b"\x89PNG\r\n\x1a\nbroken", "cannot be read as a PNG"),
    ],
)
def test_what_is_no_graph_is_refused_with_a_reason(tmp_path, content, reason):
    path = tmp_path / "broken.json"
    path.write_bytes(content)
    with pytest.raises(GraphError, match=reason) as caught:
        read_graph(path)
    assert "broken.json" in str(caught.value)


def test_a_missing_file_and_an_empty_picture_are_explained(tmp_path):
    with pytest.raises(GraphError, match="no such graph file"):
        read_graph(tmp_path / "none.json")
    Image.new("RGB", (4, 4)).save(tmp_path / "bare.png")
    with pytest.raises(GraphError, match="carries no graph"):
        read_graph(tmp_path / "bare.png")


def test_widgets_are_read_by_position_with_the_editors_extra_entries(registry):
    seeded = ui_node(1, "Seeded", [11, "randomize", "a text", "slow"], [("extra", "INT", None)], title="Mine")
    old = ui_node(2, "Seeded", [12, "old file", "fast"])
    upload = ui_node(3, "Upload", ["y.png", "image", 8])
    named = {**ui_node(4, "Number"), "widgets_values": {"value": 5, "scale": 2.0}}
    short = ui_node(5, "Number", [6])
    api = to_api(ui_graph([seeded, old, upload, named, short]), registry)
    assert api["1"] == {"class_type": "Seeded", "inputs": {"seed": 11, "text": "a text", "mode": "slow"}, "_meta": {"title": "Mine"}}
    assert api["2"]["inputs"] == {"seed": 12, "text": "old file", "mode": "fast"}
    assert api["3"]["inputs"] == {"image": "y.png", "size": 8}
    assert api["4"]["inputs"] == {"value": 5, "scale": 2.0}
    assert api["5"]["inputs"] == {"value": 6, "scale": 1.0}


def test_links_replace_widgets_and_lists_are_wrapped(registry):
    nodes = [
        ui_node(1, "Number", [4, 1.0], outputs=["INT"]),
        ui_node(2, "Seeded", [0, "fixed", ["a", "b"], "fast"], [("seed", "INT", 7)]),
    ]
    api = to_api(ui_graph(nodes, [(7, 1, 0, 2, 0, "INT")]), registry)
    assert api["2"]["inputs"] == {"seed": ["1", 0], "text": {"__value__": ["a", "b"]}, "mode": "fast"}


def test_virtual_muted_and_bypassed_nodes_vanish(registry):
    nodes = [
        ui_node(1, "Number", [4, 1.0], outputs=["INT"]),
        ui_node(2, "Reroute", [], [("", "*", 1)], ["INT"]),
        ui_node(3, "Add", [5], [("a", "INT", 2), ("b", "INT", 3)], ["INT"], mode=4),
        ui_node(4, "PrimitiveNode", [9, "fixed"], outputs=["INT"]),
        ui_node(5, "Add", [6], [("a", "INT", 4), ("b", "INT", 5)], ["INT"]),
        ui_node(6, "Number", [1, 1.0], outputs=["INT"], mode=2),
        ui_node(7, "Show", [], [("value", "*", 6)]),
        ui_node(8, "Note", ["hello"]),
    ]
    links = [(1, 1, 0, 2, 0, "INT"), (2, 2, 0, 3, 0, "INT"), (3, 4, 0, 3, 1, "INT"), (4, 3, 0, 5, 0, "INT"), (5, 4, 0, 5, 1, "INT")]
    api = to_api(ui_graph(nodes, [*links, (6, 6, 0, 7, 0, "INT")]), registry)
    assert {key: node["inputs"] for key, node in api.items()} == {
        "1": {"value": 4, "scale": 1.0},
        "5": {"a": ["1", 0], "b": 9},  # through the bypassed node and the reroute; the primitive's value
        "7": {},  # its source is muted
    }


def test_links_may_be_objects_and_must_not_run_in_circles(registry):
    nodes = [ui_node(1, "Number", [4, 1.0], outputs=["INT"]), ui_node(2, "Show", [], [("value", "*", 1)])]
    link = {"id": 1, "origin_id": 1, "origin_slot": 0, "target_id": 2, "target_slot": 0, "type": "INT"}
    graph = ui_graph(nodes)
    graph["links"] = [link]
    assert to_api(graph, registry)["2"]["inputs"] == {"value": ["1", 0]}
    loop = [ui_node(1, "Reroute", [], [("", "*", 1)], ["*"]), ui_node(2, "Show", [], [("value", "*", 2)])]
    with pytest.raises(GraphError, match="circle"):
        to_api(ui_graph(loop, [(1, 1, 0, 1, 0, "*"), (2, 1, 0, 2, 0, "*")]), registry)
    with pytest.raises(GraphError, match="malformed link"):
        to_api(ui_graph(nodes, [(1, 2)]), registry)


def test_layout_gives_a_loadable_graph(make, registry):
    api = {
        "1": make("Number", value=3, scale=2.0),
        "2": make("Seeded", "Text", seed=["1", 0], text="hi", mode="slow"),
        "4": make("Add", a=["1", 0], b=["2", 0]),
        "9": make("Show", value=["4", 0]),
    }
    ui = to_ui(api, registry)
    assert str(uuid.UUID(ui["id"])) == ui["id"] and ui == to_ui(api, registry)
    assert (ui["last_node_id"], ui["last_link_id"], ui["version"]) == (9, 4, 0.4)
    nodes = {node["id"]: node for node in ui["nodes"]}
    assert nodes[2]["widgets_values"] == [0, "fixed", "hi", "slow"]
    assert nodes[2]["title"] == "Text"
    assert sorted(node["order"] for node in ui["nodes"]) == [0, 1, 2, 3]
    for number, source, slot, target, target_slot, kind in ui["links"]:
        assert number in nodes[source]["outputs"][slot]["links"] and nodes[source]["outputs"][slot]["type"] == kind
        assert nodes[target]["inputs"][target_slot]["link"] == number
        (x, y), (width, height) = nodes[source]["pos"], nodes[source]["size"]
        to_x, to_y = nodes[target]["pos"]
        assert x + width < to_x or (x == to_x and y + height < to_y), "data runs to the right, or down a column"
        assert nodes[source]["order"] < nodes[target]["order"]
    back = to_api(ui, registry)
    assert {key: node["inputs"] for key, node in back.items()} == {key: node["inputs"] for key, node in api.items()}


def test_nodes_do_not_overlap(make, registry):
    api = {str(index): make("Number", value=index, scale=1.0) for index in range(1, 6)}
    api["7"] = make("Add", a=["1", 0], b=["2", 0])
    boxes = [(*node["pos"], *node["size"]) for node in to_ui(api, registry)["nodes"]]
    for index, (x, y, width, height) in enumerate(boxes):
        for x2, y2, width2, height2 in boxes[index + 1 :]:
            assert x + width <= x2 or x2 + width2 <= x or y + height <= y2 or y2 + height2 <= y


def test_an_unknown_class_keeps_its_links_and_constants(make, registry):
    api = {"1": make("Foreign", text="x"), "2": make("Show", value=["1", 2])}
    ui = to_ui(api, registry)
    assert to_api(ui, registry)["2"]["inputs"] == {"value": ["1", 2]}
    assert next(node for node in ui["nodes"] if node["id"] == 1)["widgets_values"] == {"text": "x"}
