from __future__ import annotations

import pytest
import torch
from rapiddraw.core.errors import Cancelled, InvalidGraphError, NodeError
from rapiddraw.core.graph.execute import Runner, execute
from rapiddraw.core.graph.formats import to_ui
from rapiddraw.core.progress import clear_cancel, request_cancel


def test_values_flow_and_ui_is_collected(make, registry, calls):
    api = {"1": make("Number", value=3, scale=2.0), "2": make("Add", a=["1", 0], b=1), "9": make("Show", value=["2", 0])}
    result = execute(api, registry)
    assert result.outputs["9"]["text"] == ["7"]
    assert result.outputs["9"]["me"] == ["9"] and result.outputs["9"]["classes"] == ["Show"] and result.outputs["9"]["pnginfo"] == [None]
    assert result.executed == ["1", "2", "9"] and all(seconds >= 0 for seconds in result.seconds.values())


def test_the_ui_form_reaches_the_nodes(make, registry, calls):
    ui = to_ui({"1": make("Number", value=3, scale=1.0), "2": make("Show", value=["1", 0])}, registry)
    assert execute(ui, registry).outputs["2"]["pnginfo"] == [{"workflow": ui}]


def test_only_what_the_outputs_need_runs(make, registry, calls):
    api = {"1": make("Number", value=1, scale=1.0), "2": make("Show", value=["1", 0]), "3": make("Number", value=2, scale=1.0)}
    assert execute(api, registry).executed == ["1", "2"]
    result = execute(api, registry, outputs=["3"])
    assert result.executed == ["3"] and result.values == {"3": [[2]]}


def test_a_changed_widget_reruns_only_what_is_downstream(make, registry, calls):
    api = {
        "1": make("Number", value=1, scale=1.0),
        "2": make("Number", value=2, scale=1.0),
        "3": make("Add", a=["1", 0], b=["2", 0]),
        "4": make("Show", value=["3", 0]),
    }
    runner = Runner(registry)
    assert runner.run(api).executed == ["1", "2", "3", "4"]
    again = runner.run(api)
    assert again.executed == [] and again.outputs["4"]["text"] == ["3"], "an unchanged graph gives the same outputs without running"
    api["2"]["inputs"]["value"] = 5
    changed = runner.run(api)
    assert changed.executed == ["2", "3", "4"] and changed.cached == ["1"] and changed.outputs["4"]["text"] == ["6"]


def test_is_changed_decides(make, registry, calls):
    api = {"1": make("Watched"), "2": make("Show", value=["1", 0])}
    runner = Runner(registry)
    assert runner.run(api).executed == ["1", "2"] and runner.run(api).executed == []
    registry["Watched"].STAMP = 1
    assert runner.run(api).executed == ["1", "2"]
    for always in (float("nan"), "broken"):
        registry["Watched"].STAMP = always
        assert runner.run(api).executed == ["1", "2"] and runner.run(api).executed == ["1", "2"]


def test_one_and_true_are_different_constants(make, registry, calls):
    runner = Runner(registry)
    api = {"1": make("Seeded", seed=1, text="1"), "2": make("Show", value=["1", 1])}
    runner.run(api)
    api["1"]["inputs"]["text"] = True
    assert runner.run(api).outputs["2"]["text"] == ["True"]


def test_lists_fan_out_and_gather(make, registry, calls):
    api = {
        "1": make("Count", length=3),
        "2": make("Add", a=["1", 0], b=10),
        "3": make("Gather", numbers=["2", 0], start=100),
        "4": make("Show", value=["2", 0]),
        "5": make("Show", value=["3", 0]),
        "6": make("Add", a=["1", 0], b=["1", 1]),
        "7": make("Show", value=["6", 0]),
    }
    result = execute(api, registry)
    assert result.outputs["4"]["text"] == ["10", "11", "12"]
    assert result.outputs["5"]["text"] == ["133"]
    assert result.outputs["7"]["text"] == ["3", "4", "5"], "the shorter list repeats its last entry"


def test_an_empty_list_is_explained(make, registry, calls):
    api = {"1": make("Count", length=0), "2": make("Add", a=["1", 0], b=10), "3": make("Show", value=["2", 0])}
    with pytest.raises(NodeError, match="node 2 Add: input 'a' got an empty list"):
        execute(api, registry)


@pytest.mark.parametrize(("first", "ran"), [(True, "number 1"), (False, "number 2")])
def test_lazy_inputs_run_only_when_asked_for(make, registry, calls, first, ran):
    api = {
        "1": make("Number", value=1, scale=1.0),
        "2": make("Number", value=2, scale=1.0),
        "3": make("Switch", first=first, a=["1", 0], b=["2", 0]),
        "4": make("Show", value=["3", 0]),
    }
    execute(api, registry)
    assert calls == [ran, f"show {ran[-1]}"]


def test_a_failure_names_the_node(make, registry, calls):
    api = {"1": make("Number", value=1, scale=1.0), "2": make("Fails", "Bad one", value=["1", 0]), "3": make("Show", value=["2", 0])}
    with pytest.raises(NodeError) as caught:
        execute(api, registry)
    assert str(caught.value) == 'node 2 Fails "Bad one" failed with ZeroDivisionError: no'
    assert (caught.value.node_id, caught.value.class_type) == ("2", "Fails") and isinstance(caught.value.__cause__, ZeroDivisionError)


def test_an_invalid_graph_runs_nothing(make, registry, calls):
    api = {"1": make("Number", value=1, scale=1.0), "2": make("Show", value=["1", 0]), "3": make("Show")}
    with pytest.raises(InvalidGraphError):
        execute(api, registry)
    assert calls == []


def test_a_stop_is_honoured_before_the_next_node(make, registry, calls):
    api = {"1": make("Number", value=1, scale=1.0), "2": make("Show", value=["1", 0])}
    request_cancel()
    try:
        with pytest.raises(Cancelled):
            execute(api, registry)
    finally:
        clear_cancel()
    assert calls == []


def test_a_seed_replaces_every_seed_widget(make, registry, calls):
    api = {
        "1": make("Seeded", seed=1, text="x"),
        "2": make("Seeded", seed=["1", 0], text="y"),
        "3": make("Show", value=["2", 0]),
    }
    assert execute(api, registry, seed=42).outputs["3"]["text"] == ["42"]
    assert api["1"]["inputs"]["seed"] == 1, "nothing is mutated"


def test_nodes_run_in_inference_mode_and_tell_where_they_are(make, registry, calls):
    seen = []

    class Mode(registry["Show"]):
        def execute(self, **inputs):
            seen.append(torch.is_inference_mode_enabled())
            return {"ui": {}}

    events = []
    execute(
        {"1": make("Mode", "Look", value=["2", 0]), "2": make("Number", value=1, scale=1.0)},
        {**registry, "Mode": Mode},
        on_node=events.append,
    )
    assert seen == [True]
    assert [(event.node_id, event.name, event.done) for event in events] == [("2", "node 2 Number", 0), ("1", 'node 1 Mode "Look"', 1)]


def test_a_deep_chain_runs(make, registry, calls):
    api = {"0": make("Number", value=1, scale=1.0)}
    for index in range(1, 2000):
        api[str(index)] = make("Add", a=[str(index - 1), 0], b=1)
    api["end"] = make("Show", value=["1999", 0])
    assert execute(api, registry).outputs["end"]["text"] == ["2000"]


def test_what_finished_before_a_failure_is_kept(make, registry, calls):
    api = {"1": make("Number", value=1, scale=1.0), "2": make("Fails", value=["1", 0]), "3": make("Show", value=["2", 0])}
    runner = Runner(registry)
    with pytest.raises(NodeError):
        runner.run(api)
    api["2"] = make("Add", a=["1", 0], b=1)
    assert runner.run(api).executed == ["2", "3"]
