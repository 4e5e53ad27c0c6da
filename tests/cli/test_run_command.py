from __future__ import annotations

import json
import signal
import subprocess
import sys
import textwrap

import pytest
import torch
from PIL import Image
from rapiddraw.cli import main
from rapiddraw.core.graph.formats import read_graph
from rapiddraw.core.graph.stock.registry import STOCK_NODES
from rapiddraw.core.progress import Progress, request_cancel
from rapiddraw.nodes.registry import registry


class Grey:
    """A grey picture; its level is a widget."""

    @classmethod
    def INPUT_TYPES(cls):
        return {
            "required": {"level": ("FLOAT", {"default": 0.5, "min": 0.0, "max": 1.0}), "seed": ("INT", {"default": 0, "max": 2**64 - 1})}
        }

    RETURN_TYPES = ("IMAGE",)
    FUNCTION = "execute"

    def execute(self, level, seed):
        if level == 1.0:
            raise ValueError("too bright")
        if level == 0.0:
            request_cancel()
            with Progress(3) as bar:
                bar.update()
        return (torch.full((1, 8, 8, 3), level),)


@pytest.fixture
def graph(tmp_path, monkeypatch):
    nodes = {"Grey": Grey, "SaveImage": STOCK_NODES["SaveImage"], "PreviewImage": STOCK_NODES["PreviewImage"]}
    for command in ("run", "validate", "convert"):
        monkeypatch.setattr(f"rapiddraw.cli.{command}.registry", lambda: nodes)
    monkeypatch.setattr("rapiddraw.core.paths._dirs", {})
    monkeypatch.chdir(tmp_path)
    api = {
        "1": {"class_type": "Grey", "inputs": {"level": 0.5, "seed": 3}, "_meta": {"title": "Colour"}},
        "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "deep/grey"}},
    }
    (tmp_path / "graph.json").write_text(json.dumps(api))
    return tmp_path


def test_a_graph_becomes_a_picture_that_carries_it(graph, capsys):
    assert main(["run", "graph.json", "--output", "pictures", "--set", "Colour.level=0.25", "--seed", "9"]) == 0
    path = graph / "pictures" / "deep" / "grey_00001_.png"
    assert capsys.readouterr().out == f"{path.relative_to(graph)}\n"
    assert Image.open(path).getpixel((0, 0)) == (63, 63, 63)
    assert read_graph(path).api["1"]["inputs"] == {"level": 0.25, "seed": 9}, "what made the picture, not what was in the file"


def test_json_goes_to_stdout_alone(graph, capsys):
    assert main(["run", "graph.json", "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert data["outputs"]["2"]["images"][0].endswith("grey_00001_.png")
    assert set(data["seconds"]) == {"1", "2"} and data["total_seconds"] > 0


def test_a_ui_graph_keeps_its_workflow_in_step(graph, capsys):
    assert main(["convert", "graph.json", "--to", "ui", "--out", "ui.json"]) == 0
    assert main(["run", "ui.json", "--output", "out2", "--set", "1.level=0.75"]) == 0
    carried = read_graph(graph / "out2" / "deep" / "grey_00001_.png")
    assert next(node for node in carried.ui["nodes"] if node["id"] == 1)["widgets_values"] == [0.75, 3, "fixed"]
    assert main(["convert", "ui.json", "--to", "api", "--out", "back.json"]) == 0
    assert read_graph("back.json").api["1"]["inputs"] == {"level": 0.5, "seed": 3}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--set", "Grey.level=2"], "bigger than the largest allowed value 1.0"),
        (["--set", "Grey.lvl=2"], "did you mean level?"),
        (["--set", "Gray.level=1"], "did you mean Grey?"),
        (["--seed", "-1"], "out of range"),
    ],
)
def test_what_is_wrong_before_the_run_exits_with_2(graph, capsys, arguments, said):
    assert main(["run", "graph.json", *arguments]) == 2
    assert said in capsys.readouterr().err
    assert main(["run", "graph.json", "--json", *arguments]) == 2
    assert said in json.loads(capsys.readouterr().out)["reasons"][0]
    assert not (graph / "out").exists()


def test_a_missing_graph_exits_with_2(graph, capsys):
    assert main(["run", "none.json"]) == 2
    assert "no such graph file" in capsys.readouterr().err


def test_a_failing_node_exits_with_1_and_no_traceback(graph, capsys):
    assert main(["run", "graph.json", "--set", "Grey.level=1.0"]) == 1
    err = capsys.readouterr().err
    assert 'node 1 Grey "Colour" failed with ValueError: too bright' in err and "Traceback" not in err
    assert main(["--verbose", "run", "graph.json", "--set", "Grey.level=1.0"]) == 1
    assert "Traceback" in capsys.readouterr().err


def test_a_stop_exits_with_130_and_leaves_nothing(graph, capsys):
    assert main(["run", "graph.json", "--set", "Grey.level=0.0"]) == 130
    err = capsys.readouterr().err
    assert "stopped" in err and "Traceback" not in err and not (graph / "out").exists()
    assert main(["run", "graph.json"]) == 0, "an earlier stop does not poison the next run"


def test_ctrl_c_stops_at_the_next_step(tmp_path):
    """A real SIGINT to a real process: exit code 130, one line, no traceback."""
    script = tmp_path / "slow.py"
    script.write_text(
        textwrap.dedent(
            """
            import sys, time
            import rapiddraw.cli.run as run
            from rapiddraw.cli import main
            from rapiddraw.core.progress import track

            class Slow:
                OUTPUT_NODE, RETURN_TYPES, FUNCTION = True, (), "execute"

                @classmethod
                def INPUT_TYPES(cls):
                    return {"required": {}}

                def execute(self):
                    print("started", flush=True)
                    for _ in track(range(1000), 1000):
                        time.sleep(0.02)

            run.registry = lambda: {"Slow": Slow}
            sys.exit(main(["run", sys.argv[1]]))
            """
        )
    )
    (tmp_path / "slow.json").write_text(json.dumps({"1": {"class_type": "Slow", "inputs": {}}}))
    process = subprocess.Popen(  # noqa: S603 (our own script)
        [sys.executable, str(script), str(tmp_path / "slow.json")], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=tmp_path
    )
    assert process.stdout.readline() == "started\n"
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "stopping at the next step" in err and err.endswith("stopped\n") and "Traceback" not in err


def test_the_registry_has_stock_and_own_nodes():
    nodes = registry()
    assert "KSampler" in nodes and any(name.startswith("RapidDraw") for name in nodes)
