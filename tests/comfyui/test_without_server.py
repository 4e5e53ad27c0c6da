"""`run --host comfy`: graphs in a real ComfyUI's executor, in one process, without a server."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from rapiddraw.tests.comfyui.graphs import node, picture, saved, shortened

TOY = """
import time
import torch
from comfy.utils import ProgressBar

print("the toy pack is here")

class ToyStripes:
    RETURN_TYPES, FUNCTION, CATEGORY = ("IMAGE",), "draw", "toy"

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"width": ("INT", {"default": 64, "min": 8, "max": 512}), "what": (["draw", "fail", "wait"],)}}

    def draw(self, width, what):
        print("the toy node draws")
        if what == "fail":
            raise ValueError("no stripes\\nat all")
        bar = ProgressBar(1000)
        while what == "wait":
            bar.update(1)
            time.sleep(0.02)
        return (torch.linspace(0, 1, width)[None, None, :, None].expand(1, 32, width, 3).clone(),)

NODE_CLASS_MAPPINGS = {"ToyStripes": ToyStripes}
"""
Call = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base directory for ComfyUI with a toy pack in it. Our own pack is not installed there."""
    folder = tmp_path_factory.mktemp("without-server")
    for name in ("custom_nodes/toy", "input", "output", "temp", "user", "models"):
        (folder / name).mkdir(parents=True)
    (folder / "custom_nodes" / "toy" / "__init__.py").write_text(TOY, encoding="utf-8")
    (folder / "temp" / "kept.txt").write_text("of a ComfyUI that runs beside this one", encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def start(base: Path, weights: Path) -> Callable[..., subprocess.Popen[str]]:
    """Starts `run GRAPH --host comfy` with more words, in the base directory."""

    def start(graph: dict[str, Any], *words: str) -> subprocess.Popen[str]:
        (base / "graph.json").write_text(json.dumps(graph), encoding="utf-8")
        environment = {**os.environ, "RAPIDDRAW_WEIGHTS": str(weights), "HF_HUB_OFFLINE": "1",
                       "COMFYUI_ARGS": f'--base-directory "{base}" --disable-api-nodes'}  # fmt: skip
        return subprocess.Popen(  # noqa: S603 - our own words
            [sys.executable, "-m", "rapiddraw", "run", "graph.json", "--host", "comfy", *words],
            cwd=base, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip

    return start


@pytest.fixture(scope="module")
def call(start: Callable[..., subprocess.Popen[str]]) -> Call:
    def call(graph: dict[str, Any], *words: str) -> subprocess.CompletedProcess[str]:
        process = start(graph, *words)
        out, err = process.communicate(timeout=1200)
        return subprocess.CompletedProcess(process.args, process.returncode, out, err)

    return call


def stripes(**inputs: Any) -> dict[str, Any]:
    """The toy pack's node, and a stock node that saves its picture."""
    return {
        "1": {**node("ToyStripes", width=64, what="draw", **inputs), "_meta": {"title": "Stripes"}},
        "2": node("SaveImage", images=["1", 0], filename_prefix="toy"),
        "3": node("PreviewImage", images=["1", 0]),
    }


def test_the_picture_is_the_servers(server: Any, call: Call, weights: Path) -> None:
    graph = shortened(saved("text_to_image")[0], weights)
    for number, drawn in enumerate((graph, picture(5))):
        done = call(drawn, "--output", f"same{number}", "--json")
        assert done.returncode == 0, done.stderr[-3000:]
        result = json.loads(done.stdout)
        files = [path for entry in result["outputs"].values() for path in entry.get("images", [])]
        theirs = server.pictures(server.run(drawn))
        assert len(files) == len(theirs) == 1
        assert np.array_equal(np.asarray(Image.open(files[0])), np.asarray(Image.open(io.BytesIO(theirs[0]))))
        assert set(result["seconds"]) == set(drawn), "each node ran once, none was kept from before"


def test_a_node_of_another_pack_runs(base: Path, call: Call) -> None:
    done = call(stripes(), "--set", "Stripes.width=80", "--output", "toy")
    assert done.returncode == 0, done.stderr[-3000:]
    saved_to, preview = done.stdout.splitlines()
    assert Image.open(saved_to).size == Image.open(preview).size == (80, 32), "stdout has the paths alone, whatever a pack prints"
    assert Path(saved_to) == base / "toy" / "toy_00001_.png" and Path(preview).parent == base / "toy" / "temp"
    assert "the toy node draws" in done.stderr and 'node 1 ToyStripes "Stripes"' in done.stderr
    assert (base / "temp" / "kept.txt").is_file(), "ComfyUI's own temp folder is left alone"
    carried = json.loads(Image.open(saved_to).info["prompt"])
    assert carried["1"]["inputs"]["width"] == 80


def test_a_failing_node_exits_with_1_and_one_line(call: Call) -> None:
    done = call(stripes(), "--set", "Stripes.what=fail", "--json")
    assert done.returncode == 1
    told = 'node 1 ToyStripes "Stripes" failed with ValueError: no stripes at all'
    assert json.loads(done.stdout) == {"graph": "graph.json", "error": "failed", "reasons": [told]}
    assert f"failed: {told}\n" in done.stderr and "Traceback" not in done.stderr.partition('node 1 ToyStripes "Stripes"')[2]


def test_an_invalid_graph_exits_with_2_and_names_every_problem(call: Call) -> None:
    for words, said in (
        (["--set", "Stripes.width=7"], 'node 1 ToyStripes "Stripes": Value 7 smaller than min of 8'),
        (["--set", "Stripes.wide=7"], "did you mean width?"),
    ):
        done = call(stripes(), *words, "--json")
        assert done.returncode == 2 and said in json.loads(done.stdout)["reasons"][0], done.stderr[-3000:]
    done = call({**stripes(), "4": node("NoSuchNode"), "5": node("NorThis")}, "--json")
    assert done.returncode == 2 and [reason.split(":")[0] for reason in json.loads(done.stdout)["reasons"]] == [
        "node 4 NoSuchNode",
        "node 5 NorThis",
    ]


def test_ctrl_c_stops_the_node_and_exits_with_130(start: Callable[..., subprocess.Popen[str]]) -> None:
    process = start(stripes(), "--set", "Stripes.what=wait")
    assert process.stderr is not None
    for line in process.stderr:
        if "the toy node draws" in line or "node 1 ToyStripes" in line:
            break
    time.sleep(1)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130 and err.rstrip().endswith("stopped") and "Traceback" not in err
