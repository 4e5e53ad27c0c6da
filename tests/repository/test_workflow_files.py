"""Continuous integration, hooks, forms and editor settings: valid, and in step with `make lint` and pyproject.toml."""

from __future__ import annotations

import configparser
import os
import re
from pathlib import Path
from typing import Any

import pytest
from rapiddraw.core.paths import pack_root

ROOT = pack_root()
FORMS = sorted(path for path in (ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml") if path.name != "config.yml")


def read(path: str | Path) -> Any:
    """A YAML file. PyYAML comes with transformers and accelerate."""
    yaml = pytest.importorskip("yaml", reason="PyYAML is not installed")
    return yaml.safe_load((ROOT / path).read_text(encoding="utf-8"))


@pytest.mark.parametrize("path", sorted((ROOT / ".github").rglob("*.yml")), ids=lambda path: path.name)
def test_a_workflow_file_is_yaml(path: Path) -> None:
    assert isinstance(read(path), dict)


def test_continuous_integration_runs_what_make_test_runs_on_every_python() -> None:
    job = read(".github/workflows/ci.yml")["jobs"]["test"]
    assert ".ci/run" in [step.get("run") for step in job["steps"]] and os.access(ROOT / ".ci" / "run", os.X_OK)
    pythons = job["strategy"]["matrix"]["python"]
    oldest = re.search(r'requires-python = ">=([\d.]+)"', (ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert oldest and pythons[0] == oldest[1], "the oldest Python that pyproject.toml allows comes first"
    assert pythons == [f"3.{minor}" for minor in range(int(pythons[0][2:]), 14)]


def test_hooks_run_what_make_lint_runs() -> None:
    hooks = [hook["entry"] for repository in read(".pre-commit-config.yaml")["repos"] for hook in repository["hooks"]]
    recipe = re.search(r"^lint:.*\n((?:\t.*\n)+)", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    assert recipe
    wanted = [line.strip().replace("$(BIN)", ".venv/bin").removesuffix(" .") for line in recipe[1].splitlines()]
    assert [hook.removesuffix(" --force-exclude") for hook in hooks] == wanted


@pytest.mark.parametrize("path", FORMS, ids=lambda path: path.stem)
def test_an_issue_form_asks_what_it_must(path: Path) -> None:
    form = read(path)
    assert form["name"] and form["description"]
    for field in form["body"]:
        assert field["type"] in ("markdown", "textarea", "input", "dropdown", "checkboxes")
        assert field["attributes"]["value" if field["type"] == "markdown" else "label"]
        assert field["type"] != "dropdown" or len(field["attributes"]["options"]) > 1
    ids = [field["id"] for field in form["body"] if field["type"] != "markdown"]
    assert len(ids) == len(set(ids))
    assert any(field.get("validations", {}).get("required") for field in form["body"])


def test_there_is_a_form_for_each_kind_of_issue() -> None:
    assert [path.stem for path in FORMS] == ["bug", "feature", "question"]


def test_editors_and_ruff_agree() -> None:
    settings = configparser.ConfigParser()
    settings.read_string("[top]\n" + (ROOT / ".editorconfig").read_text(encoding="utf-8"))
    length = re.search(r"line-length = (\d+)", (ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert length and settings["*.py"]["max_line_length"] == length[1]
    assert settings["Makefile"]["indent_style"] == "tab"
