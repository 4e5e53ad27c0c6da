"""The commands of README and docs that are not marked are run, in a folder that has what they name."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rapiddraw.cli import main
from rapiddraw.core.paths import pack_root
from rapiddraw.tests.commands_in_documents import ALL, Command

ROOT = pack_root()
RUN = list({command.text: command for command in ALL if command.arguments and not command.why_not and not command.is_inline}.values())
LONG, SHORT = {"train", "bench"}, {"--help", "--plan", "--dry-run"}
TRIED = [command for command in RUN if command.arguments and (command.arguments[0] not in LONG or SHORT & set(command.arguments))]
GRAPH = {
    "1": {"class_type": "EmptyImage", "inputs": {"width": 64, "height": 64, "batch_size": 1, "color": 0}},
    "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "a/b"}},
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with a graph, pictures with captions, and the repository's weights and graphs."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("rapiddraw.core.paths._dirs", {})
    for name in ("weights", "workflows"):
        os.symlink(ROOT / name, tmp_path / name)
    (tmp_path / "my_graph.json").write_text(json.dumps(GRAPH))
    (tmp_path / "my_pictures").mkdir()
    for number in range(3):
        pixels = np.random.default_rng(number).integers(0, 255, (300, 300, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "my_pictures" / f"{number}.png")
        (tmp_path / "my_pictures" / f"{number}.txt").write_text("a picture")
    return tmp_path


def test_no_training_and_no_measurement_is_left_without_a_mark() -> None:
    assert [f"{command.page}: {command.text}" for command in RUN if command not in TRIED] == [], "write <!-- not run: why --> above it"


@pytest.mark.parametrize("command", TRIED, ids=lambda command: f"{command.page}: {command.text}"[:90])
def test_a_command_of_a_document_runs(command: Command, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(command.arguments) == 0, capsys.readouterr().err


def test_some_commands_of_most_pages_run() -> None:
    assert {"docs/headless.md", "docs/training.md", "docs/serve.md", "weights/README.md"} <= {command.page for command in RUN}
