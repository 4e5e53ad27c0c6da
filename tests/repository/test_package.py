"""The package holds what pyproject.toml names, so that an installed copy is complete and its types are read."""

from __future__ import annotations

import importlib
import re

import pytest
from rapiddraw.core.paths import pack_root

ROOT = pack_root()
tomllib = pytest.importorskip("tomllib", reason="Python 3.10 has no reader of TOML")
SETTINGS = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
PROJECT, TOOL = SETTINGS["project"], SETTINGS["tool"]


def folders_of(package: str) -> list[str]:
    """The folders, from the repository's root, that a key of `package-data` stands for: one package, or all of them for `*`."""
    packages = TOOL["setuptools"]["packages"] if package == "*" else [package]
    return ["/".join(name.split(".")[1:]) or "." for name in packages]


PATTERNS = [(package, pattern) for package, patterns in TOOL["setuptools"]["package-data"].items() for pattern in patterns]


@pytest.mark.parametrize(("package", "pattern"), PATTERNS)
def test_a_package_data_pattern_matches_a_file(package: str, pattern: str) -> None:
    found = [path for folder in folders_of(package) for path in (ROOT / folder).glob(pattern) if path.is_file()]
    assert found, f"package-data of {package}: {pattern} matches no file; correct the pattern or add the file"


def test_a_type_checker_finds_the_types() -> None:
    assert (ROOT / "py.typed").is_file(), "PEP 561: without py.typed at the package's root its annotations are ignored"


@pytest.mark.parametrize("named", [PROJECT["readme"], *PROJECT["license-files"], *TOOL["comfy"]["includes"], *TOOL["mypy"]["files"],
                                   *TOOL["pytest"]["ini_options"]["testpaths"]])  # fmt: skip
def test_a_named_file_or_folder_exists(named: str) -> None:
    assert (ROOT / named).exists(), f"pyproject.toml names {named}, which does not exist"


@pytest.mark.parametrize("pattern", [*TOOL["ruff"]["lint"]["per-file-ignores"]])
def test_a_lint_exception_applies_to_a_file(pattern: str) -> None:
    assert any(ROOT.glob(pattern)), f"per-file-ignores names {pattern}, which matches nothing; remove it"


@pytest.mark.parametrize("target", PROJECT["scripts"].values())
def test_a_console_script_resolves(target: str) -> None:
    module, function = target.split(":")
    assert callable(getattr(importlib.import_module(module), function))


@pytest.mark.parametrize("extra", sorted(PROJECT["optional-dependencies"]))
def test_an_extra_names_extras_that_exist(extra: str) -> None:
    for line in PROJECT["optional-dependencies"][extra]:
        own = re.fullmatch(rf"{PROJECT['name']}\[(.+)\]", line)
        assert not own or set(own[1].split(",")) <= PROJECT["optional-dependencies"].keys(), line


def test_the_version_is_the_change_logs() -> None:
    newest = re.search(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert newest and newest[1] == PROJECT["version"]
