"""Tests against a real ComfyUI: `COMFYUI_PATH=/where/ComfyUI make test-comfyui`. Without COMFYUI_PATH they are skipped, and say so.

`COMFYUI_PYTHON` is the interpreter that ComfyUI runs with (default: that of a venv or .venv in its folder, else the one running the tests).
`COMFYUI_FRONTEND` is the folder of another editor for it (the `static` of another comfyui-frontend-package). The editor is opened in the
Chromium at `CHROMIUM`, or on the path; without one, those tests are skipped, and say so.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from rapiddraw.core.paths import pack_root

HERE = Path(__file__).parent
COMFYUI = Path(os.environ["COMFYUI_PATH"]).expanduser().resolve() if os.environ.get("COMFYUI_PATH") else None
_candidates = [COMFYUI / name / "bin" / "python" for name in ("venv", ".venv")] if COMFYUI else []
PYTHON = os.environ.get("COMFYUI_PYTHON") or next((str(python) for python in _candidates if python.is_file()), sys.executable)
_counts: dict[str, Any] = {}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if COMFYUI is None:
        skip = pytest.mark.skip(reason="COMFYUI_PATH is not set: no real ComfyUI to test against")
        for item in items:
            if HERE in item.path.parents:
                item.add_marker(skip)


@pytest.fixture(scope="session")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny bundles, and variants that take every road of the host: other predictions, other latent spaces, attention in the VAE."""
    from rapiddraw.core.bundles.format import LatentSpace, Schedule
    from rapiddraw.tests.helpers import LATENT, write_bundles, write_text, write_unet, write_vae

    folder = write_bundles(tmp_path_factory.mktemp("comfyui-weights"))
    colours = replace(LATENT, rgb_factors=((0.3, 0.1, 0.0), (0.0, 0.3, 0.1), (0.1, 0.0, 0.3), (0.1, 0.1, 0.1)), rgb_bias=(0.0, 0.1, 0.2))
    write_unet(folder / "tiny-unet.safetensors", latent=colours)
    write_unet(folder / "eps-unet.safetensors", schedule=Schedule(prediction="eps"))
    write_unet(folder / "flow-unet.safetensors", latent=colours, schedule=Schedule(prediction="flow"))
    write_unet(folder / "x0-unet.safetensors", schedule=Schedule("x0", "linear", 0.0001, 0.02), block_out_channels=[64, 96])
    write_vae(folder / "attention-vae.safetensors", block_out_channels=[32, 32, 64, 128], mid_block_add_attention=True)
    wide = LatentSpace(channels=8, factor=4, scale=0.7, shift=0.1)
    write_unet(folder / "wide-unet.safetensors", latent=wide, in_channels=8, out_channels=8)
    blocks = {"down_block_types": ["DownEncoderBlock2D"] * 3, "up_block_types": ["UpDecoderBlock2D"] * 3}
    write_vae(folder / "wide-vae.safetensors", latent=wide, latent_channels=8, block_out_channels=[32, 32, 64], **blocks)
    write_text(folder / "other-text.safetensors", width=64)
    return folder


@pytest.fixture(scope="session")
def server(weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """One running ComfyUI for all tests."""
    from rapiddraw.benchmarks.comfy_server import Server

    assert COMFYUI is not None and (COMFYUI / "main.py").is_file(), f"COMFYUI_PATH={COMFYUI} holds no ComfyUI (main.py)"
    server = Server(COMFYUI, PYTHON, tmp_path_factory.mktemp("comfyui"), pack_root(), weights)
    server.start()
    stats = server.get("/system_stats")
    _counts["version"] = stats["system"].get("comfyui_version", "unknown")
    _counts["nodes"] = sum(name.startswith("RapidDraw") for name in server.get("/object_info"))
    try:
        yield server
    finally:
        server.stop()


@pytest.fixture(scope="session")
def run_saved(server: Any, weights: Path) -> Callable[[str], Any]:
    """What happened when a saved graph ran, made short; each is run once. ComfyUI warns of nothing meanwhile (it does of a fingerprint that
    could not be taken)."""
    from rapiddraw.tests.comfyui.graphs import saved, short

    @cache
    def run(name: str) -> Any:
        graph, ui = saved(name)
        since = len(server.logged())
        run = server.run(short(name, graph, weights), workflow=ui)
        assert [line for line in server.logged(since) if line.startswith("WARNING")] == []
        return run

    return run


@pytest.fixture(scope="session")
def run_inside(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., dict[str, Any]]:
    """What a script of this folder finds inside a ComfyUI process, given a folder of models and words of its own."""

    def run(script: str, models: Path, *words: str) -> dict[str, Any]:
        folder = tmp_path_factory.mktemp("inside")
        (folder / "rapiddraw").symlink_to(pack_root(), target_is_directory=True)
        result = folder / "result.json"
        done = subprocess.run(  # noqa: S603 - our own words
            [PYTHON, str(HERE / script), str(COMFYUI), str(folder), str(models), str(result), *words],
            capture_output=True, text=True, timeout=3600, env={**os.environ, "HF_HUB_OFFLINE": "1"},
        )  # fmt: skip
        assert result.is_file(), f"{done.stdout[-2000:]}\n{done.stderr[-6000:]}"
        return json.loads(result.read_text(encoding="utf-8"))

    return run


@pytest.fixture(scope="session")
def probe(weights: Path, run_inside: Callable[[str, Path], dict[str, Any]]) -> dict[str, Any]:
    """What tests/comfyui/probe.py found inside a ComfyUI process."""
    return run_inside("probe.py", weights)


@pytest.fixture(scope="session")
def pair_probe(run_inside: Any, weights: Path) -> dict[str, Any]:
    """What tests/comfyui/probe_pair.py found inside a ComfyUI process."""
    return run_inside("probe_pair.py", weights)


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """One line of counts: which ComfyUI, how many of our nodes, saved graphs and checks."""
    passed = [report for report in terminalreporter.stats.get("passed", []) if "tests/comfyui/" in report.nodeid]
    if _counts and passed:
        graphs, opened = (sum(name in report.nodeid for report in passed) for name in ("test_a_saved_graph_runs", "test_a_template_opens"))
        terminalreporter.write_line(
            f"ComfyUI {_counts['version']}: {_counts['nodes']} nodes of ours, {graphs} saved graphs, {opened} opened in the editor, "
            f"{len(passed)} checks passed"
        )
