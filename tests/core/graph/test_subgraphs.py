"""Subgraphs are unfolded as the editor unfolds them, and written back where the editor will look."""

from __future__ import annotations

import copy
import time

import pytest
from rapiddraw.api.engines import changed as changed_by
from rapiddraw.core.errors import GraphError, InputError
from rapiddraw.core.graph.convert import to_api
from rapiddraw.core.graph.edit import Change, apply_changes
from rapiddraw.core.graph.execute import execute
from rapiddraw.core.graph.formats import Graph
from rapiddraw.core.graph.subgraphs import ways_inside


def node(node_id, kind, values=None, inputs=(), outputs=("INT",), **more):
    """`inputs`: (name, type, link) or (name, type, link, widget)."""
    slots = [
        {"name": entry[0], "type": entry[1], "link": entry[2]} | ({"widget": {"name": entry[3]}} if entry[3:] else {}) for entry in inputs
    ]
    outs = [{"name": kind, "type": kind, "links": []} for kind in outputs]
    return {"id": node_id, "type": kind, "mode": 0, "order": 0, "inputs": slots, "outputs": outs, "widgets_values": values, **more}


def link(number, source, slot, target, target_slot, kind="INT"):
    return {"id": number, "origin_id": source, "origin_slot": slot, "target_id": target, "target_slot": target_slot, "type": kind}


def definition(name="sum", **more):
    """a (INT) and the promoted widgets `value` of Number 1 go in, their sum goes out: Number 1 -> Add 2 (b), input a -> Add 2 (a)."""
    return {
        "id": name,
        "name": name,
        "inputs": [
            {"id": "i1", "name": "a", "type": "INT", "linkIds": [1]},
            {"id": "i2", "name": "value", "type": "INT", "linkIds": [2]},
        ],
        "outputs": [{"id": "o1", "name": "sum", "type": "INT", "linkIds": [4]}],
        "nodes": [
            node(1, "Number", [7, 1.0], [("value", "INT", 2, "value")]),
            node(2, "Add", [0], [("a", "INT", 1), ("b", "INT", 3, "b")]),
        ],
        "links": [link(1, -10, 0, 2, 0), link(2, -10, 1, 1, 0), link(3, 1, 0, 2, 1), link(4, 2, 0, -20, 0)],
        **more,
    }


def use(node_id, source, values=None, name="sum", **more):
    """A node that uses the definition; `source` is the link into its input a."""
    return node(node_id, name, values, [("a", "INT", source), ("value", "INT", None, "value")], **more)


@pytest.fixture
def graph():
    """Number 90 -> sum 5 -> sum 6 -> Show 9; the second use gives its promoted widget a value of its own."""
    return {
        "nodes": [node(90, "Number", [4, 1.0]), use(5, 1), use(6, 2, [30]), node(9, "Show", None, [("value", "*", 3)], ())],
        "links": [[1, 90, 0, 5, 0, "INT"], [2, 5, 0, 6, 0, "INT"], [3, 6, 0, 9, 0, "INT"]],
        "definitions": {"subgraphs": [definition()]},
    }


def inputs(ui, registry):
    return {node_id: entry["inputs"] for node_id, entry in to_api(ui, registry).items()}


def test_each_use_becomes_nodes_of_its_own(graph, registry, calls):
    assert inputs(graph, registry) == {
        "90": {"value": 4, "scale": 1.0},
        "5:1": {"value": 7, "scale": 1.0},
        "5:2": {"a": ["90", 0], "b": ["5:1", 0]},
        "6:1": {"value": 30, "scale": 1.0},
        "6:2": {"a": ["5:2", 0], "b": ["6:1", 0]},
        "9": {"value": ["6:2", 0]},
    }
    assert execute(Graph(ui=graph), registry).outputs["9"]["text"] == ["41"]


def test_a_link_into_a_promoted_widget_counts_more_than_its_value(graph, registry):
    graph["nodes"][2]["inputs"][1]["link"] = 8
    graph["links"].append([8, 90, 0, 6, 1, "INT"])
    assert inputs(graph, registry)["6:1"] == {"value": ["90", 0], "scale": 1.0}


def test_a_muted_use_vanishes_and_a_bypassed_one_passes_its_input_through(graph, registry):
    graph["nodes"][2]["mode"] = 4
    assert inputs(graph, registry)["9"] == {"value": ["5:2", 0]} and "6:2" not in to_api(graph, registry)
    graph["nodes"][2]["mode"] = 2
    assert inputs(graph, registry)["9"] == {} and "6:2" not in to_api(graph, registry)


def test_muted_and_bypassed_nodes_inside(graph, registry):
    inside = graph["definitions"]["subgraphs"][0]["nodes"]
    inside[0]["mode"] = 2
    assert inputs(graph, registry)["5:2"] == {"a": ["90", 0], "b": 0}, "a muted node's link is gone, the widget's own value counts"
    inside[1]["mode"] = 4
    assert inputs(graph, registry)["9"] == {"value": ["90", 0]}, "Add passes its first input through, twice"


def test_definitions_nest_and_promote_through_each_other(graph, registry):
    outer = {
        "id": "outer",
        "name": "outer",
        "inputs": [{"name": "x", "type": "INT", "linkIds": [1]}, {"name": "deep", "type": "INT", "linkIds": [2]}],
        "outputs": [{"name": "y", "type": "INT", "linkIds": [3]}],
        "nodes": [node(3, "sum", [11], [("a", "INT", 1), ("value", "INT", 2, "value")])],
        "links": [link(1, -10, 0, 3, 0), link(2, -10, 1, 3, 1), link(3, 3, 0, -20, 0)],
    }
    graph["definitions"]["subgraphs"].append(outer)
    graph["nodes"][2] = node(6, "outer", [50], [("x", "INT", 2), ("deep", "INT", None, "deep")])
    found = inputs(graph, registry)
    assert found["6:3:1"] == {"value": 50, "scale": 1.0}
    assert found["6:3:2"] == {"a": ["5:2", 0], "b": ["6:3:1", 0]} and found["9"] == {"value": ["6:3:2", 0]}
    graph["nodes"][2]["widgets_values"] = None
    assert inputs(graph, registry)["6:3:1"]["value"] == 7, "without values of the outer node those inside count"


def test_files_of_older_editors_list_promoted_widgets(graph, registry):
    graph["nodes"][2] |= {
        "properties": {"proxyWidgets": [["1", "scale"], ["-1", "value"], ["77", "gone"], "broken"]},
        "widgets_values": [2.5, 8, 1],
    }
    assert inputs(graph, registry)["6:1"] == {"value": 8, "scale": 2.5}
    assert inputs(graph, registry)["5:1"] == {"value": 7, "scale": 1.0}


def test_a_promoted_primitive_gives_its_value_to_what_it_is_linked_to(graph, registry):
    inside = graph["definitions"]["subgraphs"][0]
    inside["nodes"].append(node(8, "PrimitiveNode", [5, "fixed"]))
    inside["nodes"][0]["inputs"].append({"name": "scale", "type": "FLOAT", "link": 9, "widget": {"name": "scale"}})
    inside["links"].append(link(9, 8, 0, 1, 1, "FLOAT"))
    graph["nodes"][2] |= {"properties": {"proxyWidgets": [["8", "value"]]}, "widgets_values": [3.5]}
    assert inputs(graph, registry)["5:1"]["scale"] == 5 and inputs(graph, registry)["6:1"]["scale"] == 3.5


def test_reroutes_and_variables_work_at_every_level(graph, registry):
    inside = graph["definitions"]["subgraphs"][0]
    inside["nodes"] += [
        node(11, "SetNode", ["it"], [("INT", "INT", 3)]),
        node(12, "GetNode", ["it"]),
        node(13, "Reroute", None, [("", "*", 12)], ("*",)),
    ]
    inside["nodes"][1]["inputs"][1]["link"] = 13
    inside["links"] += [link(3, 1, 0, 11, 0), link(12, 12, 0, 13, 0), link(13, 13, 0, 2, 1)]
    assert inputs(graph, registry)["6:2"]["b"] == ["6:1", 0]


def test_a_definition_in_a_definition_is_found(graph, registry):
    nested = graph["definitions"]["subgraphs"]
    graph["definitions"] = {"subgraphs": [{"id": "holder", "nodes": [], "links": [], "definitions": {"subgraphs": nested}}]}
    assert inputs(graph, registry)["9"] == {"value": ["6:2", 0]}


def test_a_definition_that_contains_itself_is_refused(graph, registry):
    graph["definitions"]["subgraphs"][0]["nodes"].append(node(4, "sum"))
    with pytest.raises(GraphError, match=r"node 6:4: its subgraph contains itself|node 5:4: its subgraph contains itself"):
        to_api(graph, registry)


def test_definitions_that_multiply_are_refused_in_time(registry):
    levels = [{"id": f"s{i}", "nodes": [node(j, f"s{i + 1}") for j in range(10)], "links": []} for i in range(20)]
    levels.append({"id": "s20", "nodes": [node(1, "Number", [1, 1.0])], "links": []})
    started = time.process_time()
    with pytest.raises(GraphError, match="more than 100000 nodes"):
        to_api({"nodes": [node(1, "s0")], "links": [], "definitions": {"subgraphs": levels}}, registry)
    assert time.process_time() - started < 10


@pytest.mark.parametrize(("node_id", "name", "value"), [("6:1", "value", 77), ("5:1", "value", 78), ("6:1", "scale", 3.0), ("5:2", "b", 9)])
def test_a_change_inside_one_use_leaves_the_other_alone(graph, registry, node_id, name, value):
    before, kept = inputs(graph, registry), copy.deepcopy(graph)
    changed = apply_changes(Graph(ui=graph), registry, [Change(node_id, name, value)])
    wanted = before | {node_id: before[node_id] | {name: value}}
    assert {key: entry["inputs"] for key, entry in changed.api.items()} == wanted
    assert inputs(changed.ui, registry) == wanted, "what the editor will open says the same"
    assert graph == kept


def test_a_change_of_a_promoted_widget_stays_with_the_node_that_promotes_it(graph, registry):
    changed = apply_changes(Graph(ui=graph), registry, [Change("6:1", "value", 77)])
    assert changed.ui["nodes"][2]["widgets_values"] == [77] and len(changed.ui["definitions"]["subgraphs"]) == 1
    graph["nodes"][2] |= {"properties": {"proxyWidgets": [["1", "scale"]]}, "widgets_values": [2.5]}
    changed = apply_changes(Graph(ui=graph), registry, [Change("6:1", "scale", 4.0)])
    assert changed.ui["nodes"][2]["widgets_values"] == [4.0]


def test_values_stand_in_the_order_of_the_definition_though_the_using_node_lists_few_inputs(graph, registry):
    inside = graph["definitions"]["subgraphs"][0]
    inside["inputs"].append({"id": "i3", "name": "scale", "type": "FLOAT", "linkIds": [5]})
    inside["nodes"][0]["inputs"].append({"name": "scale", "type": "FLOAT", "link": 5, "widget": {"name": "scale"}})
    inside["links"].append(link(5, -10, 2, 1, 1, "FLOAT"))
    graph["nodes"][2] |= {"inputs": [{"name": "scale", "type": "FLOAT", "link": None}, {"name": "a", "type": "INT", "link": 2}]}
    graph["nodes"][2]["widgets_values"] = [30, 2.5]
    assert inputs(graph, registry)["6:1"] == {"value": 30, "scale": 2.5}


def test_a_node_inside_whose_id_is_taken_gets_the_next_free_number(graph, registry):
    graph["last_node_id"] = 20
    graph["nodes"][0]["id"], graph["links"][0][1] = 1, 1
    graph["nodes"][2] |= {"properties": {"proxyWidgets": [["1", "scale"], ["-1", "value"]]}, "widgets_values": [2.5, 8]}
    found = inputs(graph, registry)
    assert list(found) == ["1", "5:21", "5:2", "6:21", "6:2", "9"]
    assert found["5:2"] == {"a": ["1", 0], "b": ["5:21", 0]} and found["6:21"] == {"value": 8, "scale": 2.5}
    other = definition("other")
    graph["definitions"]["subgraphs"].append(other)
    graph["nodes"][2] = use(6, 2, name="other")
    assert list(inputs(graph, registry)) == ["1", "5:21", "5:2", "6:22", "6:23", "9"], "also where another definition has it"


def test_a_copied_definition_keeps_the_ids_of_its_original(graph, registry):
    graph["nodes"][0]["id"], graph["links"][0][1], graph["last_node_id"] = 1, 1, 9
    before = inputs(graph, registry)
    changed = apply_changes(Graph(ui=graph), registry, [Change("6:10", "scale", 3.0), Change("6:2", "b", 4)])
    wanted = before | {"6:10": {"value": 30, "scale": 3.0}, "6:2": before["6:2"] | {"b": 4}}
    assert {key: entry["inputs"] for key, entry in changed.api.items()} == wanted
    assert inputs(changed.ui, registry)["6:10"] == wanted["6:10"] and inputs(changed.ui, registry)["5:10"] == before["5:10"]


def nested(graph, **more):
    """`outer` holds the only use of `sum`, as node 3; the root's node 6 uses `outer`."""
    outer = {
        "id": "outer",
        "name": "outer",
        "inputs": [{"name": "x", "type": "INT", "linkIds": [1]}],
        "outputs": [{"name": "y", "type": "INT", "linkIds": [3]}],
        "nodes": [node(3, "sum", [11], [("a", "INT", 1), ("value", "INT", None, "value")], **more)],
        "links": [link(1, -10, 0, 3, 0), link(3, 3, 0, -20, 0)],
    }
    graph["definitions"]["subgraphs"].append(outer)
    graph["nodes"][2] = node(6, "outer", None, [("x", "INT", 2)])
    return graph


def test_a_muted_use_inside_a_subgraph_is_left_open_as_the_editor_leaves_it(graph, registry):
    assert inputs(nested(graph, mode=2), registry)["6:3:1"]["value"] == 11
    assert inputs(graph, registry)["9"] == {}, "nothing comes out of it"


def test_a_promoted_widget_without_a_value_of_its_own_has_that_of_the_first_widget_inside(graph, registry):
    inside = graph["definitions"]["subgraphs"][0]
    inside["inputs"][1]["linkIds"].append(8)
    inside["nodes"][1]["inputs"][0]["link"] = 8  # Add.a, which has no widget, takes the same input
    inside["links"].append(link(8, -10, 1, 2, 0))
    found = inputs(graph, registry)
    assert found["5:2"]["a"] == 7 and found["6:2"]["a"] == 30


def test_a_primitive_outside_a_subgraph_gives_it_no_value(graph, registry):
    graph["nodes"].append(node(40, "PrimitiveNode", [55, "fixed"]))
    graph["nodes"][1]["inputs"][1]["link"] = 14
    graph["links"].append([14, 40, 0, 5, 1, "INT"])
    assert inputs(graph, registry)["5:1"]["value"] == 7


@pytest.mark.parametrize("last", [int("9" * 4300), -5, True, "7", None])
def test_a_damaged_counter_of_ids_does_not_stop_the_numbering(graph, registry, last):
    graph["nodes"][0]["id"], graph["links"][0][1], graph["last_node_id"] = 1, 1, last
    assert len(inputs(graph, registry)) == 6


@pytest.mark.parametrize(
    ("text", "node_id"),
    [("sum/Number.value=77", "5:1"), ("The other/Number.value=77", "6:1"), ("the other/inner.value=77", "6:1"), ("6:1.value=77", "6:1")],
)
def test_an_assignment_reaches_inside_by_the_titles_on_the_way(graph, registry, text, node_id):
    graph["nodes"][2]["title"] = "The other"
    graph["definitions"]["subgraphs"][0]["nodes"][0]["title"] = "Inner"
    before = inputs(graph, registry)
    changed = apply_text(graph, registry, text)
    wanted = before | {node_id: before[node_id] | {"value": 77}}
    assert {key: entry["inputs"] for key, entry in changed.api.items()} == inputs(changed.ui, registry) == wanted


def test_a_title_in_two_subgraphs_is_told_apart_by_the_way(graph, registry):
    graph["nodes"][2]["title"] = "The other"
    with pytest.raises(InputError, match=r"2 nodes are called 'Add'.*node 5:2 Add in 'sum', node 6:2 Add in 'The other'"):
        apply_text(graph, registry, "Add.b=3")
    with pytest.raises(InputError, match="did you mean The other/"):
        apply_text(graph, registry, "The othr/Add.b=3")


def test_titles_nest(graph, registry):
    graph["definitions"]["subgraphs"].append(
        {"id": "outer", "name": "Outer", "inputs": [], "outputs": [], "nodes": [use(3, None)], "links": []}
    )
    graph["nodes"].append(node(20, "outer", outputs=()))
    assert ways_inside(graph)["20:3:1"] == "Outer/sum"
    assert apply_text(graph, registry, "Outer/sum/Number.value=77").api["20:3:1"]["inputs"]["value"] == 77


def apply_text(graph, registry, text):
    return changed_by(Graph(ui=graph), registry, [text], None)
