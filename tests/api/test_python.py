"""Graphs from Python: run, validate, load, and the page that shows them."""

from __future__ import annotations

import ast
import inspect
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import rapiddraw
from PIL import Image
from rapiddraw.core import paths
from rapiddraw.core.errors import GraphError, InputError, NodeError
from rapiddraw.core.graph.formats import read_graph
from rapiddraw.core.graph.shipped import graph_path, shipped_graphs

FEW = {"Steps.steps": 2}
PAGE = (paths.pack_root() / "docs" / "python.md").read_text(encoding="utf-8")


def test_a_shipped_graph_becomes_arrays_and_files(tiny_orchard: Path) -> None:
    out = rapiddraw.run("text_to_image", set=FEW, seed=3, output="pictures")
    assert len(out.images) == len(out.paths) > 0
    for image, path in zip(out.images, out.paths, strict=True):
        assert image.dtype == np.uint8 and image.ndim == 3 and image.shape[2] == 3
        assert np.array_equal(image, np.asarray(Image.open(path).convert("RGB")))
    assert out.total_seconds >= sum(out.seconds.values()) > 0 and set(out.nodes) <= set(out.seconds)
    assert any(path.parent == Path("pictures") for path in out.paths)


def test_a_path_a_dict_a_picture_and_a_name_are_the_same_graph(tiny_orchard: Path) -> None:
    first = rapiddraw.run("text_to_image", set=FEW, seed=3, output="a")
    data = json.loads(shipped_graphs()["text_to_image"].read_text(encoding="utf-8"))
    for number, graph in enumerate((data, shipped_graphs()["text_to_image"], str(shipped_graphs()["text_to_image"]), first.paths[0])):
        again = rapiddraw.run(graph, set=FEW, seed=3, output=f"b{number}")
        assert np.array_equal(first.images[0], again.images[0])


def test_the_python_interface_and_the_command_draw_the_same_picture(tiny_orchard: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from rapiddraw.cli import main

    assert main(["run", "text_to_image", "--output", "a", "--seed", "3", "--set", "Steps.steps=2"]) == 0
    drawn = next(line for line in capsys.readouterr().out.splitlines() if line.endswith(".png"))
    assert np.array_equal(rapiddraw.run("text_to_image", set=FEW, seed=3, output="b").images[0], np.asarray(Image.open(drawn)))


def test_a_second_run_runs_what_changed_alone(tiny_orchard: Path) -> None:
    graph = rapiddraw.load("text_to_image").update(FEW)
    first, second = graph.run(seed=1), graph.run(seed=2)
    assert set(second.seconds) < set(first.seconds) and "1" not in second.seconds
    assert not np.array_equal(first.images[0], second.images[0])
    assert np.array_equal(graph.run(seed=1).images[0], first.images[0])


def test_folders_are_chosen_for_one_run(tiny_orchard: Path) -> None:
    before = paths.output_dir()
    rapiddraw.run("text_to_image", set=FEW, output="elsewhere")
    assert paths.output_dir() == before and not (tiny_orchard / "out").exists()


def test_values_are_read_and_set(tiny_orchard: Path) -> None:
    graph = rapiddraw.load("text_to_image")
    other = graph.copy()
    graph["Steps.steps"] = np.int64(7)
    graph["Prompt, with knowledge.text"] = "12"
    assert graph["Steps.steps"] == 7 and graph["8.steps"] == 7 and graph["BasicScheduler.steps"] == 7
    assert graph["Prompt, with knowledge.text"] == "12" and other["Steps.steps"] != 7
    assert graph["Steps.model"] == ["1", 0]
    graph.to_api()["8"]["inputs"]["steps"] = 1
    assert graph["Steps.steps"] == 7
    for to in ("api", "ui"):
        assert rapiddraw.load(graph.save(f"{to}.json", to=to))["Steps.steps"] == 7
    assert graph.nodes["8"] == 'node 8 BasicScheduler "Steps"' and "nodes" in repr(graph)


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("Stepps.steps", 3, "did you mean"),
        ("Steps.stepps", 3, "did you mean steps"),
        ("Steps.model", 3, "takes a link"),
        ("steps", 3, "NODE.INPUT"),
        ("Steps.steps", "many", "INT"),
        ("Steps.steps", object(), "cannot be set"),
    ],
)
def test_a_wrong_value_is_refused_and_changes_nothing(name: str, value: object, said: str) -> None:
    graph = rapiddraw.load("text_to_image")
    before = graph.to_api()
    with pytest.raises(InputError, match=said):
        graph[name] = value
    assert graph.to_api() == before


def test_an_unknown_input_is_named_when_read() -> None:
    graph = rapiddraw.load("text_to_image")
    for name, said in (("Steps.many", "has no input 'many'"), ("steps", "NODE.INPUT")):
        with pytest.raises(InputError, match=said):
            graph[name]
    with pytest.raises(InputError, match="'api' or 'ui'"):
        graph.save("graph.json", to="png")


def test_problems_are_listed_and_nothing_runs(tiny_orchard: Path) -> None:
    assert rapiddraw.validate("text_to_image") == []
    graph = rapiddraw.load("text_to_image").update({"Steps.steps": 0, "CFGGuider.cfg": -1})
    assert {problem.type for problem in rapiddraw.validate(graph)} == {"value_smaller_than_min"}
    assert len(graph.validate()) == 2
    with pytest.raises(rapiddraw.InvalidGraphError) as failed:
        graph.run()
    assert len(failed.value.problems) == 2 and not (tiny_orchard / "out").exists()
    assert [problem.type for problem in rapiddraw.validate("none.json")] == ["invalid_prompt"]
    with pytest.raises(InputError, match="out of range"):
        rapiddraw.run("text_to_image", seed=-1)


def test_a_failing_node_is_named(tiny_orchard: Path) -> None:
    (tiny_orchard / "input").mkdir()
    (tiny_orchard / "input" / "broken.png").write_bytes(b"no picture")
    graph = {"1": {"class_type": "LoadImage", "inputs": {"image": "broken.png"}},
             "2": {"class_type": "PreviewImage", "inputs": {"images": ["1", 0]}}}  # fmt: skip
    with pytest.raises(NodeError, match="node 1 LoadImage") as failed:
        rapiddraw.run(graph)
    assert isinstance(failed.value, rapiddraw.RapidDrawError) and failed.value.node_id == "1"


def test_shipped_names_and_files(tiny_orchard: Path) -> None:
    assert "text_to_image" in shipped_graphs()
    assert graph_path("text_to_image") == graph_path("text_to_image.json") == shipped_graphs()["text_to_image"]
    for other in ("./text_to_image", "../api/text_to_image", "/text_to_image", "text_to_imag"):
        assert graph_path(other) == Path(other)
    with pytest.raises(GraphError, match="shipped graph text_to_image"):
        read_graph("text_to_imag")
    Path("text_to_image").write_text('{"1": {"class_type": "Mine", "inputs": {}}}', encoding="utf-8")
    assert list(read_graph("text_to_image").api) == ["1"], "a file comes before a shipped graph"


def test_the_interface_is_imported_on_first_use() -> None:
    code = """
import sys, rapiddraw
assert not {"torch", "numpy", "rapiddraw.api"} & set(sys.modules)
assert callable(rapiddraw.run) and "torch" not in sys.modules
try:
    rapiddraw.nothing
except AttributeError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)  # noqa: S603
    assert done.stdout == "module 'rapiddraw' has no attribute 'nothing'\n"


def test_every_public_name_is_there_and_typed() -> None:
    import rapiddraw.api

    for name in rapiddraw.api.__all__:
        assert getattr(rapiddraw, name) is getattr(rapiddraw.api, name)
    assert set(rapiddraw.api.__all__) <= set(rapiddraw.__all__)
    checked = ast.parse(inspect.getsource(rapiddraw))
    typed = [alias.name for node in ast.walk(checked) if isinstance(node, ast.ImportFrom) and node.module == "api" for alias in node.names]
    assert typed == rapiddraw.api.__all__, "what a type checker sees is what there is"
    for function in (rapiddraw.run, rapiddraw.load, rapiddraw.validate):
        assert "return" in function.__annotations__ and function.__doc__


def test_the_page_runs(tiny_orchard: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names: dict[str, object] = {}
    blocks = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    for block in blocks:
        exec(compile(block, "docs/python.md", "exec"), names)  # noqa: S102 - our own page
    assert len(blocks) >= 6 and "smaller than the least allowed value" in capsys.readouterr().out
    assert len(names["second"].images) == len(names["first"].images) > 0
