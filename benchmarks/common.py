"""Results of benchmarks: their shape, the environment they are measured in, and the files they are written to."""

from __future__ import annotations

import datetime
import difflib
import json
import os
import platform
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ..core.errors import InputError
from ..core.files import replacing
from ..core.paths import pack_root

GPU = "gpu"
"""Folder of results that were measured with a GPU, inside that of the others."""


def results_dir() -> Path:
    """Return `benchmarks/results/`. It is part of the repository, so that a published number can be traced to its file."""
    return pack_root() / "benchmarks" / "results"


def names() -> list[str]:
    """Return the benchmarks by name: the modules beside this one that have `run(args) -> result` and `expectations(args)`."""
    return sorted(path.stem for path in Path(__file__).parent.glob("*.py") if "\ndef run(" in path.read_text(encoding="utf-8"))


def chosen_names(only: str | None, known: list[str], what: str, option: str = "--only") -> list[str]:
    """Return the names in `only`, separated by commas, in their order and once each; all of `known` where it is None.

    Raises :class:`InputError` for a name that is not in `known`, with the nearest ones. `what` says what is named,
    and `option` where.
    """
    if only is None:
        return known
    wanted = list(dict.fromkeys(name.strip() for name in only.split(",") if name.strip()))
    for name in wanted:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=3, cutoff=0.3) or known
            raise InputError(f"{option}: no {what} is named {name!r}; the nearest names are {', '.join(near)}")
    if not wanted:
        raise InputError(f"{option} names no {what}; give names with commas between them, such as {','.join(known[:2])}")
    return wanted


def environment() -> dict[str, Any]:
    """Return what a number depends on besides the code: versions, processor, threads, graphics card, date."""
    import torch

    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "system": f"{platform.system()} {platform.machine()}",
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name(0) if torch.cuda.is_available() else "cpu",
        "date": datetime.date.today().isoformat(),
    }


def _processor() -> str:
    """Return the processor's name, as far as the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    named = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return named[0] if named else platform.processor() or platform.machine()


def result(name: str, command: str, rows: list[dict[str, Any]], checks: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
    """Return a benchmark's result. `rows` is its table, one dict a line; `more` (settings, notes) is kept beside it.

    The rows' `FID-A` is left out where it is None.
    """
    rows = [{key: value for key, value in row.items() if key != "FID-A" or value is not None} for row in rows]
    return {"name": name, "command": command, "environment": environment(), "rows": rows, "checks": checks, **more}


Parts = dict[str, tuple[list[dict[str, Any]], list[dict[str, Any]]]]
"""(rows, checks) by part of a benchmark that is measured in parts."""


def parts_before(name: str, part_of: Callable[[str], str | None], first: str = "") -> Parts:
    """Return the parts of the last result of `name`, none where there is none.

    A row says its part, or belongs to `first`; `part_of` tells the part of a check from its claim (None: the check is left out).
    """
    path = results_dir() / f"{name}.json"
    if not path.is_file():
        return {}
    last = json.loads(path.read_text(encoding="utf-8"))
    parts: Parts = {}
    for row in last["rows"]:
        parts.setdefault(row.get("part", first), ([], []))[0].append(row)
    for check in last["checks"]:
        part = part_of(check["claim"])
        if part is not None:
            parts.setdefault(part, ([], []))[1].append(check)
    return parts


def joined_parts(parts: Parts, order: Sequence[str]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Return the rows and the checks of all parts, in the order of their names in `order`; each row says its part."""
    named = [name for name in order if name in parts]
    rows = [{"part": name, **row} for name in named for row in parts[name][0]]
    return rows, [check for name in named for check in parts[name][1]]


def save_result(outcome: dict[str, Any], folder: Path | None = None) -> Path:
    """Write `outcome` as `NAME.json`, whole or not at all, and return the path. What a GPU measured lies in the folder `gpu` of its own."""
    folder = folder or results_dir()
    path = (folder if outcome["environment"]["device"] == "cpu" else folder / GPU) / f"{outcome['name']}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        Path(temporary).write_text(json.dumps(outcome, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return path
