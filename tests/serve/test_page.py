"""The web page in a headless Chromium: type a prompt, press Draw, see the picture.

`SCREENSHOTS=folder` writes there what the README shows (`make screenshots`); that draws the shipped graph and takes a minute.
"""

from __future__ import annotations

import io
import os
import threading
import time
from pathlib import Path

import pytest
import uvicorn
from PIL import Image
from rapiddraw.benchmarks.browser import Page, find_browser

CHROMIUM = find_browser()
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium")
SHOTS = os.environ.get("SCREENSHOTS")
STATE = "document.querySelector('article .row span')?.textContent"


@pytest.fixture
def page(serving, tmp_path):
    """`page(**settings)` opens the page of a service that listens on a port."""
    opened = []

    def open_page(**settings):
        _, server = serving(**settings)
        config = uvicorn.Config(server.app, host="127.0.0.1", port=0, log_level="error", lifespan="off")
        listening = uvicorn.Server(config)
        thread = threading.Thread(target=listening.run, daemon=True)
        thread.start()
        while not listening.started:
            time.sleep(0.01)
        port = listening.servers[0].sockets[0].getsockname()[1]
        browser = Page(CHROMIUM, tmp_path / "profile")
        browser.fresh()
        browser.go(f"http://127.0.0.1:{port}/")
        opened.append((browser, listening, thread))
        return browser, server

    yield open_page
    for browser, listening, thread in opened:
        browser.close()
        listening.should_exit = True
        thread.join(20)


def shown(browser) -> str:
    """Wait until the first picture has been loaded."""
    browser.wait("document.querySelector('article img')?.naturalWidth > 0", seconds=600)
    return browser.run("const i = document.querySelector('article img'); return `${i.naturalWidth} x ${i.naturalHeight}`")


def test_a_prompt_becomes_a_picture(page, tmp_path):
    text_graph = tmp_path / "words.json"
    text_graph.write_text(GRAPH, encoding="utf-8")
    graphs = ("text_to_image",) if SHOTS else (str(text_graph),)
    browser, _ = page(graphs=graphs)
    browser.wait("document.querySelector('#graph').options.length === 1")
    browser.run("document.querySelector('form button').click()")
    size = shown(browser)
    assert size == ("512 x 512" if SHOTS else "16 x 16") and browser.run(f"return {STATE}") == "done"
    assert not browser.problems
    if SHOTS:
        browser.show(1000, 700, 1.5)
        Image.open(io.BytesIO(browser.screenshot())).convert("RGB").save(Path(SHOTS) / "serve.jpg", quality=80, optimize=True)


def test_a_key_is_asked_for_and_used(page):
    key = "rd-0123456789abcdefghijklmn"
    browser, _ = page(given=(key,))
    browser.wait("document.querySelector('#said').textContent.includes('a key is needed')")
    browser.run("const k = document.querySelector('#key'); k.value = args[0]; k.dispatchEvent(new Event('change'))", key)
    browser.wait("document.querySelector('#graph').options.length === 1 && !document.querySelector('#said').textContent")


def test_a_prompt_is_text_and_never_markup(page, tmp_path):
    text_graph = tmp_path / "words.json"
    text_graph.write_text(GRAPH, encoding="utf-8")
    browser, _ = page(graphs=(str(text_graph),))
    browser.wait("document.querySelector('#graph').options.length === 1")
    browser.run("document.querySelector('#prompt').value = '<img src=x onerror=\"window.hit=1\">'")
    browser.run("document.querySelector('form button').click()")
    shown(browser)
    assert browser.run("return window.hit === undefined && document.querySelector('article div').textContent.startsWith('<img')")


GRAPH = """{"1": {"class_type": "EmptyImage", "inputs": {"width": 16, "height": 16, "batch_size": 1, "color": 255}},
"2": {"class_type": "RapidDrawMarkAIGenerated", "inputs": {"image": ["1", 0], "text": "AI", "position": "top_left", "opacity": 0.0},
"_meta": {"title": "Prompt"}}, "3": {"class_type": "SaveImage", "inputs": {"images": ["2", 0], "filename_prefix": "words"}}}"""
