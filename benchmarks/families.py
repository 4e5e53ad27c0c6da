"""Any model family: every node with small models of 34 families inside ComfyUI, and the solvers in both noise conventions.

    COMFYUI_PATH=/where/ComfyUI python -m rapiddraw bench families
    python -m rapiddraw bench families --rows solvers
    python -m rapiddraw bench families --rows matrix --nodes TrainDomainModel,TrainImageTokens

`matrix` (needs a ComfyUI and the repository's tests) asks every node that takes a MODEL to work with every family of
tests/comfyui/families.py, or to refuse in one line before any work. It writes tests/data/families.json and docs/families.md. `solvers`
measures every sampler on a mixture of Gaussians, whose exact solution is known, as a diffusion and as a flow model. `bridge` lets two
models of the Orchard draw one picture, of which one is a flow model. Rows that are not measured are kept from the result before; with
`--nodes`, those of other nodes too.
"""

from __future__ import annotations

import argparse
import importlib
import json
import logging
import os
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..core.errors import InputError
from ..core.files import replacing
from ..core.paths import pack_root
from . import common
from .checks import CHOSEN, EARLIER, Expectation, at_least, at_most, equal, exact
from .comfy_inside import comfyui_folder, comfyui_python, needed_comfyui
from .common import chosen_names
from .families_page import page
from .families_solvers import ORDERS, POINTS, STOCHASTIC, measure_solvers

log = logging.getLogger("rapiddraw")
PARTS = ("matrix", "solvers", "bridge")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `python -m rapiddraw bench families`."""
    parser.add_argument("--comfyui", help="folder of ComfyUI (default: $COMFYUI_PATH)")
    parser.add_argument(
        "--rows", metavar="PARTS", help="matrix, solvers, bridge, with commas between them (default: all that can run here)"
    )

    parser.add_argument(
        "--nodes", metavar="NAMES", default="", help="rows of the matrix to measure, with commas between them (default: all)"
    )


def expectations(args: argparse.Namespace) -> dict[str, Expectation]:
    """Return the expectations by key."""
    points, cells = exact(POINTS, "points"), exact(1, "matrix")
    wanted = {
        "crash": Expectation("matrix: cells that crash", equal(0), CHOSEN, cells),
        "wrong": Expectation("matrix: cells in which an identity does not hold", equal(0), CHOSEN, cells),
        "families": Expectation("matrix: families", at_least(20), CHOSEN, cells),
    }
    for name, order in ORDERS.items():
        for kind in ("diffusion", "flow"):
            claim = f"solvers: order of convergence of {name}, {kind} model"
            origin = EARLIER if name == "dpm_solver_3m" else CHOSEN
            wanted[f"{name} {kind}"] = Expectation(claim, at_least(order - 0.3), origin, points)
    for name in STOCHASTIC:
        for kind in ("diffusion", "flow"):
            claim = f"solvers: error of {name}'s mean and covariance, {kind} model"
            wanted[f"{name} {kind}"] = Expectation(claim, at_most(0.15), CHOSEN, points)
    return wanted


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Measure and return the result (see :func:`common.result`)."""
    wanted, chosen = expectations(args), chosen_parts(args)
    measures: dict[str, Callable[[], tuple[list[dict[str, Any]], list[dict[str, Any]]]]] = {
        "matrix": lambda: matrix(needed_comfyui(args.comfyui, "the matrix of families"), wanted, chosen_rows(args)),
        "solvers": lambda: solvers(wanted),
        "bridge": bridge,
    }
    parts = common.parts_before("families", part_of) | {name: measures[name]() for name in chosen}
    return common.result("families", "python -m rapiddraw bench families", *common.joined_parts(parts, PARTS), notes=NOTES)


def part_of(claim: str) -> str:
    """Return the part that a check belongs to."""
    named = claim.partition(":")[0]
    return named if named in PARTS else "bridge"


NOTES = (
    "matrix: the number of families with which a node works, which it refuses, with which an identity does not hold, and with which it "
    "crashes; docs/families.md names them. solvers: median distance to the exact solution after 15, 30, 60 and 120 steps in the common "
    "form x / alpha, and the order of convergence between the last two; of samplers that add noise, the error of mean and covariance."
)


def chosen_parts(args: argparse.Namespace) -> list[str]:
    """Return the parts to measure: those of `--rows`, else all that can run here."""
    if args.rows:
        return chosen_names(args.rows, list(PARTS), "part", "--rows")
    return [name for name in PARTS if name != "matrix" or (comfyui_folder(args.comfyui) and probe().is_file())]


def chosen_rows(args: argparse.Namespace) -> list[str]:
    """Return the rows of the matrix that `--nodes` names; [] for all."""
    return [name.strip() for name in args.nodes.split(",") if name.strip()]


def probe() -> Path:
    """Return the script that measures the matrix inside ComfyUI; an installed package may lack it."""
    return pack_root() / "tests" / "comfyui" / "probe_matrix.py"


def matrix(root: Path, wanted: dict[str, Expectation], chosen: list[str]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Measure the rows `chosen` of the matrix (all for []) in the ComfyUI at `root`, write it and its page, and return (rows, checks)."""
    if not probe().is_file():
        raise InputError("the matrix needs the repository's folder tests/, which this installation does not have")
    found = measured(root, chosen)
    if unknown := sorted(set(chosen) - set(found["rows"])):
        raise InputError(f"--nodes: the matrix has no row {', '.join(unknown)}; its rows are {', '.join(found['rows'])}")
    kinds = {row: {family: cell.split(":")[0] for family, cell in cells.items()} for row, cells in found["matrix"].items()}
    for row, cells in found["matrix"].items():
        for family, cell in cells.items():
            if not cell.startswith(("works", "refused")):
                log.warning("%s x %s: %s", row, family, cell)
    kinds = record(kinds, found)
    counts = {kind: sum(cell == kind for cells in kinds.values() for cell in cells.values()) for kind in ("crash", "wrong")}
    families = len(next(iter(kinds.values())))
    checks = [wanted["crash"].judge(counts["crash"]), wanted["wrong"].judge(counts["wrong"]), wanted["families"].judge(families)]
    words = ("works", "refused", "wrong", "crash")
    return [{"name": row, **{word: list(cells.values()).count(word) for word in words}} for row, cells in kinds.items()], checks


def measured(root: Path, chosen: list[str]) -> dict[str, Any]:
    """Return what the probe finds of the rows `chosen` (all for []) in a process of the ComfyUI at `root`."""
    helpers = importlib.import_module(f"{__package__.rpartition('.')[0]}.tests.helpers")
    with tempfile.TemporaryDirectory(prefix="rapiddraw-bench-") as name:
        folder = Path(name)
        (folder / "rapiddraw").symlink_to(pack_root(), target_is_directory=True)
        (folder / "weights").mkdir()
        weights, result = helpers.write_bundles(folder / "weights"), folder / "result.json"
        command = [comfyui_python(), str(probe()), str(root), str(folder), str(weights), str(result), *chosen]
        done = subprocess.run(command, env={**os.environ, "HF_HUB_OFFLINE": "1"}, check=False)  # noqa: S603 - our own script
        if done.returncode or not result.is_file():
            raise RuntimeError(f"the matrix failed inside ComfyUI with exit code {done.returncode}; its output stands above")
        return json.loads(result.read_text(encoding="utf-8"))


def record(kinds: dict[str, dict[str, str]], found: dict[str, Any]) -> dict[str, dict[str, str]]:
    """Write tests/data/families.json and docs/families.md, and return the whole matrix.

    Cells of families that this ComfyUI lacks, and rows that were not measured, stay as they were. `found` is what the probe told."""
    path = pack_root() / "tests" / "data" / "families.json"
    old = json.loads(path.read_text(encoding="utf-8"))["matrix"] if path.is_file() else {}
    for row, cells in kinds.items():
        cells |= {family: old[row][family] for family in found["lacks"] if family in old.get(row, {})}
    kinds = {row: kinds.get(row) or old[row] for row in found["rows"] if row in kinds or row in old}
    known = {"matrix": kinds, "unets": found["unets"]}
    for target, text in ((path, json.dumps(known, indent=1) + "\n"), (pack_root() / "docs" / "families.md", page(known))):
        with replacing(target) as temporary:
            temporary.write_text(text, encoding="utf-8")
    return kinds


def solvers(wanted: dict[str, Expectation]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Return (rows, checks) of the solvers on a mixture of Gaussians."""
    rows = measure_solvers()
    return rows, [wanted[row["name"]].judge(row.get("order", row.get("moments"))) for row in rows]


def bridge() -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Return (rows, checks) of the bridge between two families, on the Orchard; none without a flow model of it."""
    from .families_bridge import measure_bridge

    return measure_bridge()
