"""`run --host comfy` without a ComfyUI, or with one that cannot start: one line, and the right exit code."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from rapiddraw.cli import main
from rapiddraw.cli.comfy import comfy_python


def call(folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """The command in a process of its own, with nothing of COMFYUI_* but what is given."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("COMFYUI_")}
    command = [sys.executable, "-m", "rapiddraw", "run", "text_to_image", "--host", "comfy"]
    return subprocess.run(command, cwd=folder, env={**kept, **environment}, capture_output=True, text=True)  # noqa: S603 - our own words


def false_comfyui(folder: Path, options: str) -> Path:
    """A folder that looks like ComfyUI's; what its first module does is `options`."""
    (folder / "comfy").mkdir(parents=True)
    for name in ("main.py", "execution.py", "comfy/__init__.py"):
        (folder / name).write_text("", encoding="utf-8")
    (folder / "comfy" / "options.py").write_text(options, encoding="utf-8")
    return folder


def test_without_a_comfyui_the_usage_is_wrong(tmp_path: Path) -> None:
    for environment, said in (
        ({}, "needs the environment variable COMFYUI_PATH"),
        ({"COMFYUI_PATH": str(tmp_path)}, "holds no ComfyUI"),
        ({"COMFYUI_PATH": str(false_comfyui(tmp_path / "a", "")), "COMFYUI_PYTHON": "no-such-python"}, "no-such-python is no program"),
        ({"COMFYUI_PATH": str(tmp_path / "a"), "COMFYUI_ARGS": '--base-directory "half'}, "COMFYUI_ARGS cannot be read"),
    ):
        done = call(tmp_path, **environment)
        assert done.returncode == 2 and not done.stdout and said in done.stderr, done.stderr
        assert done.stderr.startswith("wrong usage: ") and done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("import no_such_package", "has no package 'no_such_package', which the ComfyUI in"),
        ("raise SystemExit(3)", "did not start (exit code 3)"),
    ],
)
def test_a_comfyui_that_cannot_start_is_told_on_one_line(tmp_path: Path, options: str, said: str) -> None:
    done = call(tmp_path, COMFYUI_PATH=str(false_comfyui(tmp_path / "it", options)))
    assert done.returncode == 1 and not done.stdout and said in done.stderr and done.stderr.count("\n") == 1
    assert "COMFYUI_PYTHON" in done.stderr or "exit code" in done.stderr


def test_the_python_of_comfyui(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COMFYUI_PYTHON", raising=False)
    assert comfy_python(tmp_path) == sys.executable
    inside = tmp_path / ".venv" / "bin" / "python"
    inside.parent.mkdir(parents=True)
    inside.write_text("", encoding="utf-8")
    assert comfy_python(tmp_path) == str(inside)
    monkeypatch.setenv("COMFYUI_PYTHON", sys.executable)
    assert comfy_python(tmp_path) == sys.executable


def test_another_python_runs_the_same_command(tmp_path: Path) -> None:
    """The pack need not be installed there, and its folder may have any name."""
    python = tmp_path / "other-python"
    python.write_text(f'#!/bin/sh\nPYTHONPATH= exec "{sys.executable}" "$@"\n', encoding="utf-8")
    python.chmod(0o755)
    comfyui = false_comfyui(tmp_path / "it", "raise SystemExit(7)")
    done = call(tmp_path, COMFYUI_PATH=str(comfyui), COMFYUI_PYTHON=str(python))
    assert done.returncode == 1 and "did not start (exit code 7)" in done.stderr and "Traceback" not in done.stderr


def test_a_graph_of_other_nodes_is_told_where_it_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "graph.json").write_text('{"1": {"class_type": "OfAnotherPack", "inputs": {}}}', encoding="utf-8")
    assert main(["run", "graph.json"]) == 2
    assert "add --host comfy" in capsys.readouterr().err
    assert main(["run", "text_to_image", "--set", "Steps.steps=0"]) == 2
    assert "--host comfy" not in capsys.readouterr().err
