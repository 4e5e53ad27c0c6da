"""Which ComfyUI a benchmark measures in, and that it is asked for before any work."""

from __future__ import annotations

import sys

import pytest
from rapiddraw.benchmarks.comfy_inside import comfyui_folder, comfyui_python, needed_comfyui
from rapiddraw.core.errors import InputError


def test_the_folder_is_given_or_in_the_environment(tmp_path, monkeypatch):
    monkeypatch.delenv("COMFYUI_PATH", raising=False)
    assert comfyui_folder(None) is None
    with pytest.raises(InputError, match="this benchmark needs a ComfyUI"):
        needed_comfyui(None)
    with pytest.raises(InputError, match=r"main\.py"):
        comfyui_folder(str(tmp_path))
    (tmp_path / "main.py").touch()
    monkeypatch.setenv("COMFYUI_PATH", str(tmp_path))
    assert comfyui_folder(None) == needed_comfyui(None) == tmp_path.resolve()


def test_its_interpreter_may_be_another(monkeypatch):
    monkeypatch.delenv("COMFYUI_PYTHON", raising=False)
    assert comfyui_python() == sys.executable
    monkeypatch.setenv("COMFYUI_PYTHON", "/opt/python")
    assert comfyui_python() == "/opt/python"
