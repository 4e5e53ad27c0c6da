"""What `/system_stats` says of versions: those of what runs, read from files."""

from __future__ import annotations

import re

import pytest
from rapiddraw.core.paths import pack_root
from rapiddraw.serve import system


@pytest.fixture
def comfyui(tmp_path, monkeypatch):
    (tmp_path / "main.py").write_text("")
    (tmp_path / "comfyui_version.py").write_text('# made by a tool\n__version__ = "9.8.7"\n')
    monkeypatch.setenv("COMFYUI_PATH", str(tmp_path))
    return tmp_path


def test_headless_runs_name_the_pack_and_no_comfyui():
    said = system.machine_stats("embedded")["system"]
    assert said["comfyui_version"] == said["rapiddraw_version"] + "+rapiddraw"
    assert f'version = "{said["rapiddraw_version"]}"' in (pack_root() / "pyproject.toml").read_text(encoding="utf-8")
    assert re.fullmatch(r"\d+\.\d+\.\d+\+rapiddraw", said["comfyui_version"]), "semantic versions allow this suffix"


def test_comfyui_says_its_own_version(comfyui):
    said = system.machine_stats("comfy")["system"]
    assert said["comfyui_version"] == "9.8.7" and said["rapiddraw_version"] == system.pack_version(pack_root())


def test_a_version_that_cannot_be_read_is_still_a_version(comfyui, tmp_path, monkeypatch):
    (comfyui / "comfyui_version.py").write_bytes(b"\xff\xfe")
    assert system.comfyui_version() == "0.0.0"
    (comfyui / "main.py").unlink()
    assert system.comfyui_version() == "0.0.0"
    monkeypatch.setattr(system.metadata, "version", lambda name: {"rapiddraw": "4.5.6"}[name])
    assert system.pack_version(tmp_path / "nowhere") == "4.5.6"


def test_a_pack_without_file_or_package_has_the_unknown_version(tmp_path, monkeypatch):
    def absent(name):
        raise system.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(system.metadata, "version", absent)
    assert system.pack_version(tmp_path) == system.UNKNOWN
