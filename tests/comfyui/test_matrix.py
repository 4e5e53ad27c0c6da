"""Every node of ours that takes a MODEL, with every family of models: it works, or it refuses in one line before any work.

The rows stand in the modules matrix_*.py, the families in families.py. What is known of each cell is written in tests/data/families.json;
this test holds the file to what it finds, cell by cell. `python -m rapiddraw bench families` writes the file and docs/families.md again.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rapiddraw.core.paths import pack_root

OPTIONAL = {"BilingualTextEncode", "PromptEnhancer", "CompileReport"}
"""Nodes that only pass a MODEL on, or compare a width with it, and are tested elsewhere."""


@pytest.fixture(scope="module")
def found(weights: Path, run_inside: Callable[[str, Path], dict[str, Any]]) -> dict[str, Any]:
    return run_inside("probe_matrix.py", weights)


@pytest.fixture(scope="module")
def recorded() -> dict[str, dict[str, str]]:
    return json.loads((pack_root() / "tests" / "data" / "families.json").read_text(encoding="utf-8"))["matrix"]


def agrees(cell: str, kind: str | None) -> bool:
    """Whether a cell is as recorded. An older ComfyUI may lack what a node needs of it, and the refusal then says so."""
    return cell.split(":")[0] == kind or (kind == "works" and cell.startswith("refused") and "this ComfyUI" in cell)


def test_every_cell_is_as_recorded(found: dict[str, Any], recorded: dict[str, dict[str, str]], capsys: pytest.CaptureFixture[str]) -> None:
    letters = {"works": "+", "refused": "-", "wrong": "?", "crash": "!"}
    with capsys.disabled():
        print("\n+ works, - refused in one line, ? wrong, ! crash; families: " + ", ".join(next(iter(found["matrix"].values()))))  # noqa: T201
        for row, cells in found["matrix"].items():
            print(f"{row:<32}{''.join(letters[cell.split(':')[0]] for cell in cells.values())}")  # noqa: T201
    other = [
        f"{row} x {family}: {cell} (recorded: {recorded.get(row, {}).get(family)})"
        for row, cells in found["matrix"].items()
        for family, cell in cells.items()
        if not agrees(cell, recorded.get(row, {}).get(family))
    ]
    assert not other, "\n".join(other)


def test_the_record_has_no_other_rows_or_families(found: dict[str, Any], recorded: dict[str, dict[str, str]]) -> None:
    assert list(recorded) == list(found["matrix"])
    families = {family for cells in recorded.values() for family in cells}
    assert families == set(found["lacks"]) | set(next(iter(found["matrix"].values())))


def test_no_cell_crashes_or_is_wrong(recorded: dict[str, dict[str, str]]) -> None:
    assert {row: cells for row, cells in recorded.items() if not set(cells.values()) <= {"works", "refused"}} == {}


def test_no_node_that_takes_a_model_is_left_out(found: dict[str, Any]) -> None:
    assert set(found["unasked"]) == OPTIONAL
