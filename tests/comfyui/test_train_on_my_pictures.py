"""Template "10 Train on my pictures" from the editor to the picture of the ready workflow, and the same headless: on about 20 photographs
and a checkpoint of SD 1.5's layout with random weights."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from rapiddraw.core.graph.formats import to_api
from rapiddraw.core.paths import pack_root
from rapiddraw.tests import sd_helpers
from rapiddraw.tests.comfyui.graphs import saved

TEMPLATE, TRAINER, SAVER = "10 Train on my pictures", "RapidDrawTrainDomainModel", "RapidDrawSaveMarkedImage"
RUN_SECONDS = 1200
SMALL = {"steps": 4, "size": 64, "batch_size": 2, "prompts": "a photo of a cat"}
LEAST = 15
"""Photographs that the sample pictures of scikit-image and matplotlib give at least."""


def photographs(folder: Path) -> int:
    """Write the sample pictures of scikit-image and matplotlib into `folder`, each with a caption, and return their number."""
    found: dict[str, Path] = {}
    skimage, matplotlib = (pytest.importorskip(name) for name in ("skimage", "matplotlib"))
    places = (Path(skimage.__file__).parent / "data", Path(matplotlib.get_data_path()) / "sample_data")
    for place in places:
        found |= {path.stem: path for path in sorted(place.iterdir()) if path.suffix in (".png", ".jpg")}
    folder.mkdir(parents=True)
    for name, path in found.items():
        picture = Image.open(path).convert("RGB")
        picture.thumbnail((256, 256))
        picture.save(folder / f"{name}.png")
        (folder / f"{name}.txt").write_text(f"a photo of {name.replace('_', ' ')}", encoding="utf-8")
    return len(found)


@pytest.fixture(scope="module")
def prepared(server: Any) -> Iterator[Any]:
    """The server, with the checkpoint that the template names and the pictures in the folder that it names."""
    graph, _ = saved(TEMPLATE)
    (name,) = (node["inputs"]["ckpt_name"] for node in graph.values() if node["class_type"] == "CheckpointLoaderSimple")
    path = server.base / "models" / "checkpoints" / name
    sd_helpers.write_single_file(path, sd_helpers.compact_sd15(), dtype=torch.float16)
    assert photographs(server.base / "input" / "my-pictures") >= LEAST
    yield server
    server.forget()
    path.unlink()


def shortened(graph: dict[str, Any]) -> dict[str, Any]:
    """The graph, soon done."""
    for node in graph.values():
        changes = SMALL if node["class_type"] == TRAINER else {"steps": 2, "width": 64, "height": 64}
        node["inputs"] |= {name: value for name, value in changes.items() if name in node["inputs"]}
    return graph


def test_the_template_trains_in_the_editor_and_its_workflow_draws(prepared: Any, tmp_path_factory: pytest.TempPathFactory) -> None:
    from rapiddraw.benchmarks.browser import find_browser
    from rapiddraw.tests.comfyui.editor import Editor

    executable = find_browser()
    if executable is None:
        pytest.skip("no Chromium to open the editor with: install one (apt-get install chromium) or set CHROMIUM to its path")
    editor = Editor(executable, prepared.port, tmp_path_factory.mktemp("chromium"))
    try:
        editor.open()
        editor.browse("rapiddraw")
        editor.choose(TEMPLATE, json.loads((pack_root() / "workflows" / f"{TEMPLATE}.json").read_text(encoding="utf-8")))
        editor.set(TRAINER, **SMALL)
        shorten_inside(editor)
        editor.press_run()
        assert min(editor.picture_on(SAVER, RUN_SECONDS)) >= 64
        assert (editor.missing(), editor.problems()) == ([], [])
        output = prepared.base / "output"
        assert (output / "loras" / "my-domain.safetensors").is_file()
        assert sorted(path.name for path in (output / "rapiddraw" / "my-domain-run").glob("samples-*.png"))[-1] == "samples-00000004.png"
        ready = prepared.base / "user" / "default" / "workflows" / "my-domain.json"
        ui = json.loads(ready.read_text(encoding="utf-8"))
        editor.open()
        editor.page.run("await app.loadGraphData(args[0])", ui)
        editor.wait_for(ui)
        editor.set("EmptyLatentImage", width=64, height=64)
        editor.set("KSampler", steps=2)
        editor.press_run()
        assert editor.picture_on("SaveImage", RUN_SECONDS) == [64, 64]
        assert (editor.missing(), editor.problems()) == ([], [])
    finally:
        editor.page.close()


def shorten_inside(editor: Any) -> None:
    """Give the nodes inside of the template's subgraphs small values, where the editor keeps them."""
    editor.page.run(
        """
        const nodes = app.graph.nodes.flatMap((n) => [n, ...(n.subgraph?.nodes ?? [])]);
        for (const node of nodes) if (node.type !== args[0]) for (const widget of node.widgets ?? [])
            if (widget.name in args[1]) widget.value = args[1][widget.name];
        """,
        TRAINER,
        {"steps": 2, "width": 64, "height": 64},
    )


def test_the_same_headless(prepared: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from rapiddraw.core import paths
    from rapiddraw.core.graph.execute import Runner
    from rapiddraw.nodes.registry import registry
    from rapiddraw.tests.comfyui import conftest

    monkeypatch.setattr(paths, "weights_dirs", lambda: [prepared.base / "models"])
    monkeypatch.setenv("COMFYUI_PATH", str(conftest.COMFYUI))
    for name in ("input", "output", "temp"):
        monkeypatch.setitem(paths._dirs, name, tmp_path / name if name != "input" else prepared.base / "input")
    graph, _ = saved(TEMPLATE)
    found = Runner(registry()).run(shortened(graph)).outputs
    (report,) = next(shown["text"] for shown in found.values() if "text" in shown and "steps on" in shown["text"][0])
    assert "4 steps on" in report and "my-domain.json in your workflows" in report
    assert (tmp_path / "output" / "loras" / "my-domain.safetensors").is_file()
    ui = json.loads((tmp_path / "output" / "workflows" / "my-domain.json").read_text(encoding="utf-8"))
    drawn = Runner(registry()).run(shortened(to_api(ui, registry()))).outputs
    (image,) = (image for shown in drawn.values() for image in shown["images"])
    assert Image.open(tmp_path / "output" / image["filename"]).size == (64, 64)
