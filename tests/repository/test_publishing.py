"""What is published is whole: the wheel has every file that a user needs, and the owner's addresses are filled in by one command."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from rapiddraw.core.paths import pack_root

ROOT = pack_root()
tomllib = pytest.importorskip("tomllib", reason="Python 3.10 has no reader of TOML")
OUTSIDE = ("tests", "docs", "deploy", "served", "data", "out", "runs", "input", "temp", "build", "dist")
AT_ROOT = {"__init__.py", "__main__.py", "py.typed"}
LISTING = """
import json, sys
from setuptools.dist import Distribution
distribution = Distribution({"script_name": "setup.py"})
distribution.parse_config_files()
command = distribution.get_command_obj("build_py")
command.ensure_finalized()
found = [file for _, _, file in command.find_all_modules()]
found += [f"{folder}/{name}" for _, folder, _, names in command.data_files for name in names]
json.dump(found, sys.stdout)
"""


def in_the_wheel() -> set[str]:
    """The files that setuptools puts into a wheel, found by its own command without building one."""
    pytest.importorskip("setuptools", "77")
    done = subprocess.run([sys.executable, "-c", LISTING], cwd=ROOT, capture_output=True, text=True, check=True)  # noqa: S603
    return {os.path.normpath(file).replace(os.sep, "/") for file in json.loads(done.stdout[done.stdout.index("[") :])}


def of_use() -> set[str]:
    """The files of the repository that an installed copy needs: code, weights, graphs, texts and the web folder."""
    found = set()
    for folder, folders, names in os.walk(ROOT):
        inside = Path(folder).relative_to(ROOT)
        folders[:] = [f for f in folders if not f.startswith((".", "__pycache__")) and not f.endswith(".egg-info")]
        if inside == Path():
            folders[:] = [f for f in folders if f not in OUTSIDE]
            names = [name for name in names if name in AT_ROOT]
        if inside.parts[:1] == ("benchmarks",):
            names = [name for name in names if name.endswith(".py")]
        found |= {(inside / name).as_posix() for name in names if not name.endswith(".pyc")}
    return found


def test_the_wheel_has_every_file_that_a_user_needs() -> None:
    wheel, needed = in_the_wheel(), of_use()
    assert not needed - wheel, "not in the wheel; add a pattern to [tool.setuptools.package-data] in pyproject.toml"
    assert not {file for file in wheel - needed if not file.startswith("benchmarks/")}, "in the wheel, but of no use there"
    assert {"workflows/api/text_to_image.json", "weights/manifest.json", "weights/orchard-unet.safetensors"} <= wheel


def owner() -> Any:
    spec = importlib.util.spec_from_file_location("owner", ROOT / ".github" / "owner.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_owners_addresses_are_filled_in_by_one_command() -> None:
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    first = owner().filled_in(text, "https://github.com/somebody/rapiddraw.git", "somebody")
    settings = tomllib.loads(first)
    assert settings["project"]["urls"] == {
        "Homepage": "https://github.com/somebody/rapiddraw",
        "Repository": "https://github.com/somebody/rapiddraw",
        "Documentation": "https://github.com/somebody/rapiddraw/tree/main/docs",
        "Bug Tracker": "https://github.com/somebody/rapiddraw/issues",
    }
    assert settings["tool"]["comfy"]["PublisherId"] == "somebody"
    again = owner().filled_in(first, "https://github.com/somebody/rapiddraw", "somebody", "https://example.org/icon.png")
    assert tomllib.loads(again)["tool"]["comfy"]["Icon"] == "https://example.org/icon.png"
    assert tomllib.loads(text)["tool"]["setuptools"] == tomllib.loads(again)["tool"]["setuptools"]


@pytest.mark.parametrize(
    ("url", "publisher", "said"),
    [("http://example.org/a", "me", "is no address"), ("https://example.org/a\nb", "me", "is no address"),
     ("https://example.org/a", 'me"', "publisher's id"), ("https://example.org", "me", "is no address")],
)  # fmt: skip
def test_a_wrong_address_is_refused(url: str, publisher: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        owner().filled_in((ROOT / "pyproject.toml").read_text(encoding="utf-8"), url, publisher)


def test_a_place_that_is_gone_is_named() -> None:
    with pytest.raises(ValueError, match="PublisherId"):
        owner().filled_in("[project.urls]\n", "https://example.org/a", "me")
