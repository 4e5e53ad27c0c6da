"""Every saved graph, drawn by a real ComfyUI over HTTP and by the embedded host: same picture."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from rapiddraw.benchmarks.comfy_server import Run
from rapiddraw.core import paths
from rapiddraw.core.graph.formats import read_graph
from rapiddraw.tests.comfyui.graphs import SAVED, saved, short

LEAST_PSNR = 40.0
SAMPLING = {
    "KSampler",
    "SamplerCustomAdvanced",
    "KSamplerAdvanced",
    "RapidDrawResolutionBridgeSampler",
    "RapidDrawLatentSpaceBridgeSampler",
    "RapidDrawTimeDecoupledSampler",
}
SAVING = {"RapidDrawSaveMarkedImage", "SaveImage"}


def pixels(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"), dtype=np.float32) / 255


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    error = float(((a - b) ** 2).mean())
    return 10 * np.log10(1 / error) if error else float("inf")


def embedded_pictures(graph: dict[str, Any], weights: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """What the embedded host saves for a graph, in the order of nodes."""
    from rapiddraw.core.graph.execute import Runner
    from rapiddraw.nodes.registry import registry

    monkeypatch.setattr(paths, "weights_dirs", lambda: [paths.pack_root() / "weights", weights])
    for name in ("input", "output", "temp"):
        (folder / name).mkdir()
        monkeypatch.setitem(paths._dirs, name, folder / name)
    result = Runner(registry()).run(graph)
    found = []
    for _, shown in sorted(result.outputs.items()):
        found += [
            (folder / "output" / image["subfolder"] / image["filename"]).read_bytes()
            for image in shown.get("images", [])
            if image["type"] == "output"
        ]
    return found


@pytest.mark.parametrize("name", SAVED)
def test_a_saved_graph_runs(
    server: Any, run_saved: Callable[[str], Run], weights: Path, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    graph, ui = saved(name)
    graph = short(name, graph, weights)
    run = run_saved(name)
    assert (run.status, run.node_errors, run.error) == ("success", {}, ""), server.tail()
    classes = {node_id: entry["class_type"] for node_id, entry in graph.items()}
    cached = {node_id for data in run.of("execution_cached") for node_id in data["nodes"]}  # two graphs may begin alike
    steps = {node_id for node_id, kind in classes.items() if kind in SAMPLING} - cached
    progressed = {data["node"] for data in run.of("progress")}
    assert steps <= progressed, "every sampler reports its steps"
    assert not steps or run.previews >= len(steps), "every sampler shows previews"
    saving = [node_id for node_id, kind in classes.items() if kind in SAVING]
    assert all(run.outputs[node_id]["images"] for node_id in saving)
    pictures = server.pictures(run)
    for data in pictures:
        text = Image.open(io.BytesIO(data)).text
        prompt = json.loads(text["prompt"])
        for entry in prompt.values():
            entry.pop("is_changed", None)  # ComfyUI's own note beside the inputs
        assert prompt == graph and json.loads(text["workflow"]) == ui
        (tmp_path / "comfyui.png").write_bytes(data)
        assert read_graph(tmp_path / "comfyui.png").ui == ui, "headless runs read ComfyUI's pictures"
    for node_id, kind in classes.items():
        if kind == "PreviewAny":
            assert run.outputs[node_id]["text"][0]
    if pictures:
        ours = embedded_pictures(graph, weights, tmp_path, monkeypatch)
        assert len(ours) == len(pictures)
        for a, b in zip(pictures, ours, strict=True):
            assert pixels(a).shape == pixels(b).shape and pixels(a).std() > 0
            assert psnr(pixels(a), pixels(b)) >= LEAST_PSNR
