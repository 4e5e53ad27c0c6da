from __future__ import annotations

import pytest
from rapiddraw.core.errors import InputError
from rapiddraw.core.graph.edit import Change, apply_changes, parse_assignment, with_seed
from rapiddraw.core.graph.formats import Graph, to_ui


@pytest.fixture
def api(make):
    return {
        "1": make("Number", "Width", value=3, scale=1.0),
        "2": make("Number", "Height", value=4, scale=1.0),
        "3": make("Seeded", "v1.5 text", seed=["1", 0], text="x", mode="fast"),
        "12:4": make("Show", value=["3", 0]),
    }


@pytest.mark.parametrize(
    ("text", "change"),
    [
        ("1.value=7", Change("1", "value", 7)),
        ("Width.scale=2.5", Change("1", "scale", 2.5)),
        ("height.value=7", Change("2", "value", 7)),
        ("Seeded.text=a = b", Change("3", "text", "a = b")),
        ("v1.5 text.text=123", Change("3", "text", "123")),
        ('3.text="quoted"', Change("3", "text", "quoted")),
        ("3.mode=slow", Change("3", "mode", "slow")),
        ("3.seed=5", Change("3", "seed", 5)),
    ],
)
def test_nodes_are_found_by_id_class_or_title(api, registry, text, change):
    assert parse_assignment(text, api, registry) == change


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("value=7", "write NODE.INPUT=VALUE"),
        ("1.value", "write NODE.INPUT=VALUE"),
        ("Number.value=7", "2 nodes are called 'Number'.*node 1 Number \"Width\", node 2"),
        ("Widht.value=7", "did you mean Width"),
        ("9.value=7", "The graph has node 1"),
        ("1.valeu=7", "did you mean value"),
        ("12:4.value=7", "takes a link"),
        ("1.value=many", "needs a value of type INT"),
    ],
)
def test_what_does_not_fit_lists_the_choices(api, registry, text, reason):
    with pytest.raises(InputError, match=reason):
        parse_assignment(text, api, registry)


def test_both_forms_stay_in_step(api, registry):
    ui = to_ui(api, registry)
    graph = apply_changes(Graph(ui=ui), registry, [Change("1", "value", 9), Change("3", "seed", 77), Change("3", "text", "new")])
    assert graph.api["3"]["inputs"] == {"seed": 77, "text": "new", "mode": "fast"}
    assert {key: node["inputs"] for key, node in Graph(ui=graph.ui).to_api(registry).items()} == {
        key: node["inputs"] for key, node in graph.api.items()
    }
    assert len(graph.ui["links"]) == len(ui["links"]) - 1, "the link into the seed is gone"
    assert to_ui(api, registry) == ui, "the original is untouched"


def test_an_old_file_gets_its_missing_values_written_out(registry):
    ui = {"nodes": [{"id": 1, "type": "Seeded", "widgets_values": [5, "fixed", "text"]}], "links": []}
    assert apply_changes(Graph(ui=ui), registry, [Change("1", "mode", "slow")]).ui["nodes"][0]["widgets_values"] == [
        5,
        "fixed",
        "text",
        "slow",
    ]


def test_seeds_are_set_everywhere_but_where_linked(api, make, registry):
    api["5"] = make("Seeded", seed=1, text="")
    graph = with_seed(Graph(api=api), registry, 2**64 - 1)
    assert graph.api["5"]["inputs"]["seed"] == 2**64 - 1 and graph.api["3"]["inputs"]["seed"] == ["1", 0]
    with pytest.raises(InputError, match="out of range"):
        with_seed(Graph(api=api), registry, -1)
