"""The saved graphs in the real editor, in headless Chromium. Without a Chromium ($CHROMIUM, or one on the path) they are skipped.

`SCREENSHOTS=folder` writes there what the README shows (`make screenshots`).
"""

from __future__ import annotations

import io
import itertools
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from rapiddraw import NODE_CLASS_MAPPINGS
from rapiddraw.benchmarks.comfy_server import Run
from rapiddraw.core.graph.formats import to_api
from rapiddraw.core.graph.shipped import NEED_MODELS, template_name
from rapiddraw.core.paths import pack_root
from rapiddraw.nodes.registry import registry
from rapiddraw.tests import sd_helpers
from rapiddraw.tests.blueprints import BLUEPRINTS, wrapped
from rapiddraw.tests.comfyui.graphs import SAVED, saved
from rapiddraw.tests.comfyui.recording import record, write_animation
from rapiddraw.tests.nodes.test_found import WANTED

PACK, SHOWN, APP, SAVER = "rapiddraw", "text_to_image", "name_a_fruit.app", "RapidDrawSaveMarkedImage"
FIRST = "01 Text to image with knowledge"
SHOWN_TEMPLATES = {
    "02 Make my checkpoint faster": False,
    "05 Low to high resolution": True,
    "07 A ControlNet of another model family": False,
    "10 Train on my pictures": True,
}
"""Templates of which docs/first-pictures.md has a screenshot, and whether in Nodes 2.0."""
RUN_SECONDS = 1200
LEAST_SCALE, FIRST_SCALE = 0.45, 0.64
"""Texts of 14 px stay above 6 px on the screen when the whole graph is shown; those of the templates for a start at 9 px or more."""
SCREENSHOT_SCALE, MAX_SCREENSHOT_BYTES, LEAST_FRAMES = 1.5, 200_000, 10
MOST_LISTED, LEAST_FOUND = 10, 60
GENERAL = {"upscale", "controlnet", "lora", "load model", "empty latent", "sampler"}
"""Words in the names of so many of ComfyUI's own nodes that these fill the first ten."""


@pytest.fixture(scope="module")
def browser(server: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """The editor of the running ComfyUI."""
    from rapiddraw.benchmarks.browser import find_browser
    from rapiddraw.tests.comfyui.editor import Editor

    executable = find_browser()
    if executable is None:
        pytest.skip("no Chromium to open the editor with: install one (apt-get install chromium) or set CHROMIUM to its path")
    editor = Editor(executable, server.port, tmp_path_factory.mktemp("chromium"))
    yield editor
    editor.page.close()


@pytest.fixture
def editor(browser: Any) -> Any:
    """The same, with an empty canvas."""
    browser.start_over()
    return browser


def test_a_missing_node_and_a_script_error_are_noticed(editor: Any) -> None:
    _, ui = saved(SHOWN)
    ui["nodes"][0]["type"] = "NotThere"
    editor.page.run("app.loadGraphData(args[0])", ui)
    editor.wait_for(ui)
    assert "NotThere" in editor.missing()
    editor.page.run("console.error('the editor minds its own'); console.error('told of RapidDrawNode')")
    editor.page.run("setTimeout(Function(\"throw new Error('thrown')\\n//# sourceURL=/extensions/rapiddraw/some.js\"))")
    editor.page.wait("new Promise((done) => setTimeout(() => done(true), 500))")
    problems = "\n".join(editor.problems())
    assert ("told of RapidDrawNode" in problems, "thrown" in problems, "minds its own" in problems) == (True, True, False), problems


@pytest.mark.parametrize("name", SAVED)
def test_a_template_opens_and_converts_to_our_api_file(editor: Any, name: str) -> None:
    api, ui = saved(name)
    editor.browse(PACK)
    editor.choose(template_name(name), ui)
    assert (editor.missing(), editor.problems()) == ([], [])
    assert editor.prompt() == api


@pytest.mark.parametrize("nodes_2", [False, True], ids=["classic", "nodes 2.0"])
def test_no_nodes_of_a_template_overlap_and_texts_are_large_enough_to_read(editor: Any, nodes_2: bool) -> None:
    before = editor.look(nodes_2)
    if before is None and nodes_2:
        pytest.skip("this editor has the classic canvas alone")
    editor.page.show(1920, 1080)
    faults: dict[str, Any] = {}
    try:
        for name in SAVED:
            _, ui = saved(name)
            ui["extra"].pop("linearMode", None)  # an app's form hides the canvas
            editor.page.run("app.loadGraphData(args[0])", ui)
            editor.wait_for(ui)
            editor.fit()
            boxes = editor.boxes(nodes_2)
            assert boxes.keys() >= {str(node["id"]) for node in ui["nodes"]}
            pairs = itertools.combinations(sorted(boxes.items()), 2)
            over = [(one, other) for one, other in pairs if overlap(one[1], other[1])]
            scale = editor.page.run("return app.canvas.ds.scale")
            unseen = [number for number, box in boxes.items() if box[3] <= 0]
            if over or unseen or scale <= (FIRST_SCALE if name[:1].isdigit() else LEAST_SCALE):
                faults[name] = {"scale": scale, "over": over, "unseen": unseen}
        assert not faults, "\n".join(f"{name}: {found}" for name, found in faults.items())
        assert editor.problems() == []
    finally:
        if before is not None:
            editor.look(before)
        editor.page.show(1600, 900)
        editor.open()  # the next test finds nothing of these graphs


def overlap(a: list[float], b: list[float]) -> bool:
    """Whether two boxes (x, y, width, height) share more than a border."""
    return a[0] + 1 < b[0] + b[2] and b[0] + 1 < a[0] + a[2] and a[1] + 1 < b[1] + b[3] and b[1] + 1 < a[1] + a[3]


@pytest.mark.parametrize("name", SAVED)
def test_a_dropped_picture_brings_its_graph_back(editor: Any, server: Any, run_saved: Callable[[str], Run], name: str) -> None:
    if name in NEED_MODELS:
        pytest.skip("it is drawn with stand-ins for its models, so that the picture carries another graph")
    run = run_saved(name)
    pictures = server.pictures(run) or server.pictures(run, "temp")
    if not pictures:
        pytest.skip("it draws no picture that could be dropped")
    api, ui = saved(name)
    editor.drop(f"{name}.png", pictures[0], ui)
    assert (editor.missing(), editor.problems()) == ([], [])
    assert editor.prompt() == api


def test_words_of_users_find_a_node_of_ours_in_the_editors_own_search(editor: Any) -> None:
    """Among the first ten that the search lists, one of the nodes that the words mean. For a few words ComfyUI's nodes fill the list."""
    missed = set()
    for words, names in WANTED.items():
        wanted = [NODE_CLASS_MAPPINGS[f"RapidDraw{name}"].DISPLAY_NAME for name in names]
        listed = editor.found_nodes(words)[:MOST_LISTED]
        if not any(name in text for name in wanted for text in listed):
            missed.add(words)
    editor.open()  # the search lies over the canvas
    assert missed <= GENERAL and len(WANTED) - len(missed) >= LEAST_FOUND


@pytest.mark.parametrize("name", BLUEPRINTS)
def test_a_blueprint_opens_and_converts_as_we_convert_it(editor: Any, name: str) -> None:
    ui = wrapped(name)
    editor.page.run("app.loadGraphData(args[0])", ui)
    editor.wait_for(ui)
    assert (editor.missing(), editor.problems()) == ([], [])
    assert untitled(editor.prompt()) == untitled(to_api(ui, registry()))


def untitled(api: dict[str, Any]) -> dict[str, Any]:
    """The graph without titles: a stock node is called by another name in another version."""
    return {key: {part: value for part, value in node.items() if part != "_meta"} for key, node in api.items()}


def test_an_app_opens_as_a_form_and_shows_its_picture(editor: Any) -> None:
    api, ui = saved(APP)
    editor.browse(PACK)
    editor.choose(template_name(APP), ui)
    assert editor.app() == [name for _, name in ui["extra"]["linearData"]["inputs"]]
    assert editor.run_app(RUN_SECONDS) == [512, 512]
    assert (editor.missing(), editor.problems()) == ([], [])
    assert editor.prompt().keys() == api.keys()


def test_a_run_shows_its_picture(browser: Any, tmp_path: Path) -> None:
    """The README's second recipe, from the list of templates to the picture."""
    shots = Path(os.environ["SCREENSHOTS"]) if os.environ.get("SCREENSHOTS") else tmp_path
    shots.mkdir(parents=True, exist_ok=True)
    browser.page.show(1600, 900, SCREENSHOT_SCALE)
    browser.open(new_user=True)
    browser.browse(PACK)
    cards = "[...document.querySelectorAll(`[data-testid^='template-workflow-'] img`)]"  # those out of sight are loaded when scrolled to
    browser.page.wait(f"{cards}.filter((i) => i.complete && i.naturalWidth).length >= 4")
    take(browser, shots / "templates.jpg")
    browser.choose(FIRST, json.loads((pack_root() / "workflows" / f"{FIRST}.json").read_text(encoding="utf-8")))
    browser.fit()
    browser.show_previews()
    browser.hold_messages()  # on a busy machine the run would be over before the second screenshot
    browser.press_run()
    frames = record(browser.page.screenshot, browser.next_message, lambda: browser.run_is_shown(SAVER), RUN_SECONDS)
    assert len(frames) >= LEAST_FRAMES
    assert min(browser.picture_on(SAVER, RUN_SECONDS)) >= 256
    assert (browser.missing(), browser.problems()) == ([], [])
    write_animation(frames, shots / "run.webp")
    take(browser, shots / "editor.jpg")


@pytest.mark.parametrize("name", SHOWN_TEMPLATES)
def test_a_template_shows_its_picture_at_first_sight(browser: Any, server: Any, tmp_path: Path, name: str) -> None:
    """A screenshot of the whole graph, texts large enough to read, for a user who has the models that it names."""
    shots, nodes_2 = Path(os.environ.get("SCREENSHOTS") or tmp_path), SHOWN_TEMPLATES[name]
    _, ui = saved(name)
    named = [model for node in ui["nodes"] for model in node["properties"].get("models", ())]
    files = [server.base / "models" / model["directory"] / model["name"] for model in named] + [server.base / "input" / "example.png"]
    for path in files:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    browser.page.show(1920, 1080)
    browser.open()
    before = browser.look(nodes_2)
    try:
        if before is None and nodes_2:
            pytest.skip("this editor has the classic canvas alone")
        browser.page.run("app.loadGraphData(args[0])", ui)
        browser.wait_for(ui)
        browser.fit()
        take(browser, shots / f"template-{name[:2]}.jpg")
        assert browser.page.run("return app.canvas.ds.scale") > FIRST_SCALE
        assert (browser.missing(), browser.problems()) == ([], [])
    finally:
        for path in files:
            path.unlink()
        if before is not None:
            browser.look(before)
        browser.page.show(1600, 900)
        browser.open()


def test_the_readmes_way_to_a_picture_with_a_checkpoint_of_ones_own(browser: Any, server: Any) -> None:
    path = server.base / "models" / "checkpoints" / "own.safetensors"
    sd_helpers.write_single_file(path, sd_helpers.compact_sd15(), dtype=torch.float16)
    browser.open(new_user=True)
    browser.browse("All Templates")
    browser.search("SD3.5 Simple")
    browser.choose("sd3.5_simple_example", server.get("/templates/sd3.5_simple_example.json"))
    browser.dismiss()  # a notice: the checkpoint that this template names is not there
    browser.fit()
    browser.set("CheckpointLoaderSimple", ckpt_name=path.name)
    browser.set("EmptySD3LatentImage", width=64, height=64)
    browser.set("KSampler", steps=2)
    browser.add("Load ESRGAN Upscaler", 150, 600)
    browser.add("ESRGAN Upscale", 700, 700)
    browser.link("Load ESRGAN Upscaler", "upscale_model", "ESRGAN Upscale", "upscale_model")
    browser.link("VAE Decode", "IMAGE", "ESRGAN Upscale", "image")
    browser.link("ESRGAN Upscale", "image", "Save Image", "images")
    browser.press_run()
    assert browser.picture_on("SaveImage", RUN_SECONDS) == [256, 256]
    assert (browser.missing(), browser.problems()) == ([], [])
    path.unlink()


def take(editor: Any, path: Path) -> None:
    """A screenshot, once what moves has come to rest."""
    editor.page.run("await new Promise((done) => setTimeout(done, 8000))")
    Image.open(io.BytesIO(editor.page.screenshot())).convert("RGB").save(path, quality=65, optimize=True)
    assert path.stat().st_size < MAX_SCREENSHOT_BYTES
