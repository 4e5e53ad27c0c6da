"""The matrix's page, and the solvers of `bench families`."""

from __future__ import annotations

import argparse
import json
from typing import Any

import pytest
from rapiddraw.benchmarks import families, families_solvers
from rapiddraw.benchmarks.families_page import page, verdict
from rapiddraw.core.errors import InputError
from rapiddraw.core.paths import pack_root

UNETS = ["SD 1.5", "SDXL"]


def known() -> dict[str, Any]:
    return json.loads((pack_root() / "tests" / "data" / "families.json").read_text(encoding="utf-8"))


def test_the_page_is_what_the_matrix_says() -> None:
    path = pack_root() / "docs" / "families.md"
    assert path.read_text(encoding="utf-8") == page(known()), "run: python -m rapiddraw bench families --rows matrix"


@pytest.mark.parametrize(
    ("works", "serves"),
    [
        (["SD 1.5", "SDXL", "Flux", "Wan", "LTX"], "any model"),
        (UNETS, "U-Nets only"),
        (["SD 1.5"], "U-Nets only"),
        (["SD 1.5", "SDXL", "Flux"], "any model but those at the right"),
        (["Flux"], "Flux"),
        ([], "none of these"),
    ],
)
def test_a_node_is_summed_up(works: list[str], serves: str) -> None:
    cells = {family: "works" if family in works else "refused" for family in ["SD 1.5", "SDXL", "Flux", "Wan", "LTX"]}
    assert verdict(cells, UNETS)[0] == serves


def test_descriptions_say_what_the_matrix_says() -> None:
    """A node that serves U-Nets only says so; one that serves any model does not."""
    from rapiddraw.nodes.registry import registry

    for row, cells in known()["matrix"].items():
        description = registry()[f"RapidDraw{row.split()[0]}"].DESCRIPTION
        serves = verdict(cells, known()["unets"])[0]
        own_words = row.startswith("Sampler") or row in ("DistillUNet", "KroneckerAdapterLoader")
        if serves in ("U-Nets only", "any model") and not own_words:
            assert (serves == "U-Nets only") == ("U-Nets only" in description), f"{row} serves {serves}"
            assert (serves == "any model") == ("any model" in description.lower()), f"{row} serves {serves}"


def test_deterministic_samplers_have_their_order_in_both_conventions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(families_solvers, "POINTS", 64)
    monkeypatch.setattr(families_solvers, "STOCHASTIC", ())
    rows = {row["name"]: row for row in families_solvers.measure_solvers()}
    assert len(rows) == 2 * len(families_solvers.ORDERS)
    for name, order in families_solvers.ORDERS.items():
        for kind in ("diffusion", "flow"):
            row = rows[f"{name} {kind}"]
            assert row["order"] > order - 0.3 and row["120 steps"] < row["15 steps"], row


def test_parts_are_chosen_by_name() -> None:
    def chosen(rows: str | None) -> list[str]:
        return families.chosen_parts(argparse.Namespace(rows=rows, comfyui=None))

    assert chosen("solvers") == ["solvers"] and chosen("bridge, solvers") == ["bridge", "solvers"]
    with pytest.raises(InputError, match="no part is named 'solver'"):
        chosen("solver")


def test_without_comfyui_the_matrix_says_what_it_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COMFYUI_PATH", raising=False)
    assert families.chosen_parts(argparse.Namespace(rows=None, comfyui=None)) == ["solvers", "bridge"]
    with pytest.raises(InputError, match="the matrix of families needs a ComfyUI"):
        families.run(argparse.Namespace(rows="matrix", comfyui=None))


def test_cells_of_families_that_a_comfyui_lacks_are_kept(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    for folder in ("tests/data", "docs"):
        (tmp_path / folder).mkdir(parents=True)
    monkeypatch.setattr(families, "pack_root", lambda: tmp_path)
    told = {"rows": ["Compile", "TimeDecoupledGuider"], "unets": ["SD 1.5"], "lacks": []}
    both = {"SD 1.5": "works", "New": "refused"}
    families.record({"Compile": dict(both), "TimeDecoupledGuider": both}, told)
    families.record({"Compile": {"SD 1.5": "works"}}, told | {"lacks": ["New"]})
    kept = json.loads((tmp_path / "tests" / "data" / "families.json").read_text(encoding="utf-8"))
    assert kept["matrix"] == {"Compile": both, "TimeDecoupledGuider": both}
    assert (tmp_path / "docs" / "families.md").read_text(encoding="utf-8") == page(kept)
