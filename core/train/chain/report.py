"""The report of a chain: what each stage took and reached, as a table for people and as JSON."""

from __future__ import annotations

import json
import platform
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from ...files import replacing
from .run import Done


def write_report(path: Path, done: Sequence[Done], command: str) -> Path:
    """Write `path` (Markdown) and the same beside it as `.json`; return `path`. `command` is what repeats the run."""
    import torch

    machine = {"python": platform.python_version(), "torch": torch.__version__, "threads": torch.get_num_threads()}
    if torch.cuda.is_available():
        machine["gpu"] = torch.cuda.get_device_name()
    whole = {"command": command, "machine": machine, "seconds": round(sum(d.seconds for d in done), 1), "stages": [asdict(d) for d in done]}
    with replacing(path.with_suffix(".json")) as temporary:
        temporary.write_text(json.dumps(whole, indent=1) + "\n", encoding="utf-8")
    with replacing(path) as temporary:
        temporary.write_text("\n".join(_lines(done, command, machine)) + "\n", encoding="utf-8")
    return path


def _lines(done: Sequence[Done], command: str, machine: dict[str, object]) -> list[str]:
    rows = ["| stage | | steps | minutes | loss | metrics |", "|---|---|---|---|---|---|"]
    for one in done:
        steps = f"{one.steps}" if one.steps == one.planned else f"{one.steps} of {one.planned}"
        loss = "" if one.loss is None else f"{one.loss:.4g}"
        metrics = ", ".join(f"{key} {value:.4g}" for key, value in one.metrics.items() if key not in ("loss", "lr", "grad_norm", "seconds"))
        rows.append(f"| {one.stage} | {one.what} | {steps} | {one.seconds / 60:.1f} | {loss} | {metrics} |")
    total = sum(one.seconds for one in done) / 60
    about = ", ".join(f"{key} {value}" for key, value in machine.items())
    return ["# A chain of trainings", "", f"    {command}", "", f"{total:.1f} minutes; {about}.", "", *rows]
