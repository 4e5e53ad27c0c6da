"""What every benchmark shares: the shape of a result, where it is written, and what a check is."""

from __future__ import annotations

import datetime
import json
import os
import platform
from pathlib import Path
from typing import Any

from ..core.files import replacing
from ..core.paths import pack_root

SHARED = ("__init__", "attention_comfy", "comfy_server", "common", "report", "stopwatch")
"""The modules beside this one that measure nothing themselves."""


def results_dir() -> Path:
    """`benchmarks/results/`, which is part of the repository: a published number can be traced to its file."""
    return pack_root() / "benchmarks" / "results"


def names() -> list[str]:
    """The benchmarks: the modules beside this one that have `run(args) -> result`."""
    return sorted(path.stem for path in Path(__file__).parent.glob("*.py") if path.stem not in SHARED)


def environment() -> dict[str, Any]:
    """What a number depends on besides the code: versions, processor, threads, graphics card."""
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
    """The processor's name, as far as the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    named = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return named[0] if named else platform.processor() or platform.machine()


def check(claim: str, value: float, expected: str, holds: bool) -> dict[str, Any]:
    """One expectation with what was measured, written down whether it holds or not."""
    return {"claim": claim, "value": value, "expected": expected, "holds": bool(holds)}


def result(name: str, command: str, rows: list[dict[str, Any]], checks: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
    """A benchmark's result. `rows` is its table, one dict a line; `more` is kept beside it (settings, notes)."""
    return {"name": name, "command": command, "environment": environment(), "rows": rows, "checks": checks, **more}


def save_result(outcome: dict[str, Any], folder: Path | None = None) -> Path:
    """Write `outcome` as `NAME.json`, whole or not at all, and return the path."""
    path = (folder or results_dir()) / f"{outcome['name']}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        Path(temporary).write_text(json.dumps(outcome, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return path
