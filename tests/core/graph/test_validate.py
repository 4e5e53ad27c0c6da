from __future__ import annotations

import pytest
from rapiddraw.core.errors import InvalidGraphError
from rapiddraw.core.graph.validate import check, find_cycle, types_fit, validate


@pytest.fixture
def broken(make):
    """A graph with one fault each, by the error type it must give."""
    number, show = make("Number", value=3, scale=1.0), make("Show", value=["1", 0])
    return {
        "value_bigger_than_max": {"1": make("Number", "Mine", value=101, scale=1.0), "2": show},
        "value_smaller_than_min": {"1": make("Number", value=-1, scale=1.0), "2": show},
        "invalid_input_type": {"1": make("Number", value="many", scale=1.0), "2": show},
        "value_not_in_list": {"1": make("Seeded", seed=1, text="", mode="fats"), "2": show},
        "required_input_missing": {"1": make("Number", value=3), "2": show},
        "return_type_mismatch": {"0": make("Seeded", seed=1, text=""), "1": make("Add", a=["0", 1], b=1), "2": show},
        "bad_linked_input": {"1": number, "2": make("Show", value=["7", 0])},
        "missing_node_type": {"1": make("Nunber", value=3, scale=1.0), "2": show},
        "dependency_cycle": {"1": make("Add", a=["3", 0], b=0), "3": make("Add", a=["1", 0], b=0), "2": show},
        "custom_validation_failed": {"1": make("Picky", name="z", size=1), "2": show},
        "prompt_no_outputs": {"1": number},
    }


def test_a_good_graph_has_no_problems(make, registry):
    api = {"1": make("Number", value=3, scale=1), "2": make("Show", value=["1", 0])}
    assert validate(api, registry) == []
    check(api, registry)


def test_each_fault_gives_one_line_of_comfyuis_type(broken, registry):
    for kind, graph in broken.items():
        problems = validate(graph, registry)
        assert [problem.type for problem in problems] == [kind]
        assert "\n" not in problems[0].message and len(problems[0].message) < 400
        if kind not in ("prompt_no_outputs",):
            assert problems[0].message.startswith("node ") and problems[0].node_id in graph


def test_a_problem_says_who_what_and_what_is_allowed(broken, registry):
    (problem,) = validate(broken["value_bigger_than_max"], registry)
    assert (problem.node_id, problem.class_type, problem.title, problem.input_name) == ("1", "Number", "Mine", "value")
    assert (problem.given, problem.allowed) == ("101", "<= 100")
    assert problem.message == "node 1 Number \"Mine\": input 'value' is 101, bigger than the largest allowed value 100"
    (problem,) = validate(broken["value_not_in_list"], registry)
    assert 'did you mean "fast"?' in problem.message and "fast, slow" in problem.message
    (problem,) = validate(broken["missing_node_type"], registry)
    assert "did you mean Number?" in problem.message
    (problem,) = validate(broken["custom_validation_failed"], registry)
    assert "z is not one of mine" in problem.message
    (problem,) = validate(broken["return_type_mismatch"], registry)
    assert "takes INT, but output 1 of node 0 Seeded gives STRING" in problem.message


def test_the_cycle_is_spelled_out(broken, registry):
    graph = broken["dependency_cycle"]
    assert sorted(find_cycle(graph, ["2"])) == ["1", "3"]
    assert "1 Add -> 3 Add -> 1 Add" in validate(graph, registry)[0].message.replace("3 Add -> 1 Add -> 3 Add", "1 Add -> 3 Add -> 1 Add")


@pytest.mark.parametrize("value", [["1"], ["1", 5], ["1", "0"], ["1", -1], [1, 0], []])
def test_malformed_links_are_named(make, registry, value):
    api = {"1": make("Number", value=3, scale=1.0), "2": make("Show", value=value)}
    assert [problem.type for problem in validate(api, registry)] == ["bad_linked_input"]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), "1e999", None, {}])
def test_numbers_must_be_finite_numbers(make, registry, value):
    api = {"1": make("Number", value=3, scale=value), "2": make("Show", value=["1", 0])}
    assert [problem.type for problem in validate(api, registry)] == ["invalid_input_type"]


def test_several_faults_are_all_reported(make, registry):
    api = {"1": make("Number", value=-3, scale=11.0), "2": make("Show", value=["1", 0]), "3": make("Show")}
    assert [problem.type for problem in validate(api, registry)] == [
        "value_smaller_than_min",
        "value_bigger_than_max",
        "required_input_missing",
    ]
    with pytest.raises(InvalidGraphError) as caught:
        check(api, registry)
    assert len(caught.value.problems) == 3 and str(caught.value).count("\n") == 2


def test_what_no_output_needs_is_not_checked(make, registry):
    api = {"1": make("Number", value=3, scale=1.0), "2": make("Show", value=["1", 0]), "3": make("Add")}
    assert validate(api, registry) == []
    assert [problem.type for problem in validate(api, registry, ["3"])] == ["required_input_missing"] * 2
    assert [problem.type for problem in validate(api, registry, ["8"])] == ["bad_output"]


def test_a_missing_socket_says_who_could_feed_it(make, registry):
    api = {"1": make("Number", "Width", value=3, scale=1.0), "2": make("Add", b=1), "3": make("Show", value=["2", 0])}
    assert 'such as node 1 Number "Width"' in validate(api, registry)[0].message


def test_a_node_that_checks_itself_switches_the_built_in_check_off(make, registry):
    api = {"1": make("Picky", name="c", size=1), "2": make("Show", value=["1", 0])}
    assert validate(api, registry) == [], "c is not in the list but the node accepts it"
    api["1"]["inputs"]["size"] = 0
    assert [problem.type for problem in validate(api, registry)] == ["value_smaller_than_min"]


def test_long_and_hostile_values_stay_on_one_short_line(make, registry):
    text = "x\n" * 5000
    api = {"1": make("Seeded", text, seed=1, text="", mode=text), "2": make("Show", value=["1", 0])}
    (problem,) = validate(api, registry)
    assert "\n" not in problem.message and len(problem.message) < 600


def test_a_deep_chain_is_no_problem(make, registry):
    api = {"0": make("Number", value=1, scale=1.0)}
    for index in range(1, 3000):
        api[str(index)] = make("Add", a=[str(index - 1), 0], b=1)
    api["end"] = make("Show", value=["2999", 0])
    assert validate(api, registry) == []


def test_unions_and_wildcards_fit():
    assert types_fit("INT", "INT,FLOAT") and types_fit("*", "IMAGE") and types_fit("IMAGE", "*") and types_fit("A, B", "B,C")
    assert not types_fit("INT", "FLOAT") and not types_fit("A", "B,C") and types_fit(["a"], "COMBO") and not types_fit(["a"], "INT")
