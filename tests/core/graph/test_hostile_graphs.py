"""Graphs that no editor wrote: whatever stands in them, they are read and checked, or refused with an error of ours."""

from __future__ import annotations

import copy
import json
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rapiddraw.core.errors import RapidDrawError
from rapiddraw.core.graph.edit import apply_changes, parse_assignment, with_seed
from rapiddraw.core.graph.execute import Runner
from rapiddraw.core.graph.formats import Graph, read_graph, to_ui, write_graph
from rapiddraw.core.graph.stock.registry import STOCK_NODES
from rapiddraw.core.graph.validate import passed_over, validate

GRAPHS = [json.loads(path.read_text()) for path in sorted((Path(__file__).parents[2] / "data" / "graphs").glob("*.json"))]
ODD = [
    "\ud800",
    "-10",
    "-20",
    "1",
    "5:1",
    "IMAGE",
    "SaveImage",
    "Reroute",
    "PrimitiveNode",
    "GetNode",
    "aaaa-1",
    "%a.b%",
    "{a|b",
    -10,
    -20,
    2,
    4,
]
KEYS = st.sampled_from(["id", "type", "link", "links", "nodes", "name", "\udfff"])
JUNK = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=6) | st.sampled_from(ODD),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(KEYS, inner, max_size=4),
    max_leaves=8,
)


def places(value, path=()):
    """The way to every part of a graph."""
    yield path
    for key, item in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        yield from places(item, (*path, key))


def changed(graph, path, junk, delete):
    graph = copy.deepcopy(graph)
    if not path:
        return junk
    parent = graph
    for key in path[:-1]:
        parent = parent[key]
    if delete:
        del parent[path[-1]]
    else:
        parent[path[-1]] = junk
    return graph


def use(data, folder):
    """Everything that a command does with a graph but running it."""
    path = folder / "graph.json"
    path.write_text(json.dumps(data))
    try:
        graph = read_graph(path)
        api = graph.to_api(STOCK_NODES)
        for problem in [*validate(api, STOCK_NODES), *passed_over(api, STOCK_NODES)]:
            assert "\n" not in str(problem) and len(str(problem)) < 2000
        write_graph(folder / "api.json", api)
        write_graph(folder / "ui.json", to_ui(api, STOCK_NODES))
        assert read_graph(folder / "api.json").api is not None or not api
        changes = []
        for text in ("EmptyImage.width=8", "5:1.width=8", "SaveImage.filename_prefix=y"):
            try:
                changes.append(parse_assignment(text, api, STOCK_NODES))
            except RapidDrawError:
                continue
        after = apply_changes(graph, STOCK_NODES, changes)
        with_seed(after, STOCK_NODES, 3).to_ui(STOCK_NODES)
    except RapidDrawError as error:
        assert str(error)


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(data=st.data())
def test_a_graph_with_any_part_replaced_is_used_or_refused(tmp_path, data):
    graph = data.draw(st.sampled_from(GRAPHS))
    for _ in range(data.draw(st.integers(1, 3))):
        graph = changed(graph, data.draw(st.sampled_from(list(places(graph)))), data.draw(JUNK), data.draw(st.booleans()))
    use(graph, tmp_path)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_graph_in_api_format_with_any_part_replaced_is_used_or_refused(tmp_path, data):
    api = Graph(ui=data.draw(st.sampled_from(GRAPHS))).to_api(STOCK_NODES)
    for _ in range(data.draw(st.integers(1, 3))):
        api = changed(api, data.draw(st.sampled_from(list(places(api)))), data.draw(JUNK), data.draw(st.booleans()))
    use(api, tmp_path)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.binary(max_size=60) | st.text(max_size=60).map(lambda text: text.encode("utf-8", "surrogatepass")))
def test_any_bytes_as_a_graph_are_refused(tmp_path, data):
    path = tmp_path / "noise.json"
    path.write_bytes(data)
    with pytest.raises(RapidDrawError):
        read_graph(path)


WORDS = [
    "\ud83d",
    "a\udfff",
    "%\ud800%",
    "\x00",
    "a\nb",
    "../x",
    "{",
    "{a|\udc00}",
    "/*",
    "\\",
    "%date:\ud800%",
    "n" * 5000,
    " ",
    ".",
    "[output]",
]


@pytest.mark.parametrize("word", WORDS, ids=ascii)
def test_a_name_of_any_kind_in_every_text_and_combo_is_one_line(tmp_path, monkeypatch, word):
    """Each stock node with texts or lists of choices, run with a hostile name in each of them."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("rapiddraw.core.paths._dirs", {})
    sources = {
        "IMAGE": {"class_type": "EmptyImage", "inputs": {"width": 4, "height": 4, "batch_size": 1, "color": 0}},
        "LATENT": {"class_type": "EmptyLatentImage", "inputs": {"width": 16, "height": 16, "batch_size": 1}},
    }
    for kind, node_class in STOCK_NODES.items():
        types = node_class.INPUT_TYPES()["required"]
        named = [name for name, entry in types.items() if isinstance(entry[0], list) or entry[0] == "STRING"]
        if not named or not all(
            isinstance(entry[0], list) or entry[0] in ("STRING", "INT", "FLOAT", "BOOLEAN", *sources) for entry in types.values()
        ):
            continue
        inputs = {
            name: word if name in named else [entry[0], 0] if entry[0] in sources else entry[1].get("default", 1)
            for name, entry in types.items()
        }
        api = {**sources, "it": {"class_type": kind, "inputs": inputs, "_meta": {"title": word}}}
        if not getattr(node_class, "OUTPUT_NODE", False):
            api["end"] = {"class_type": "PreviewAny", "inputs": {"source": ["it", 0]}}
        try:
            Runner(STOCK_NODES).run(Graph(api=api))
        except RapidDrawError as error:
            assert len(str(error).splitlines()) <= len(named), f"{kind}: {error}"
            assert "failed with" not in str(error), f"{kind}: {error}"
    assert not [path for path in tmp_path.parent.iterdir() if path.name == "x"]


@pytest.mark.parametrize("kind", ["SaveImage", "LoadImage", "KSampler", "No such class"])
def test_four_thousand_nodes_with_something_missing_take_no_time(kind):
    api = {str(i): {"class_type": kind, "inputs": {"images": ["gone", 0]} if i % 2 else {}} for i in range(4000)}
    started = time.process_time()
    assert validate(api, STOCK_NODES)
    assert time.process_time() - started < 2


def test_four_thousand_nodes_in_a_row_are_laid_out_and_seeded_in_time():
    api = {"0": {"class_type": "EmptyImage", "inputs": {"width": 8, "height": 8, "batch_size": 1, "color": 0}}}
    scale = {"upscale_method": "area", "width": 8, "height": 8, "crop": "disabled"}
    api |= {str(i): {"class_type": "ImageScale", "inputs": {"image": [str(i - 1), 0], **scale}} for i in range(1, 4000)}
    api |= {f"k{i}": {"class_type": "KSampler", "inputs": {"seed": 1}} for i in range(1000)}
    started = time.process_time()
    ui = to_ui(dict(reversed(api.items())), STOCK_NODES)
    assert len(with_seed(Graph(ui=ui), STOCK_NODES, 5).api) == len(api)
    assert time.process_time() - started < 8
