"""Measurements on this machine, kept in one small JSON file so that a second start measures nothing.

    {"format": 1, "machines": {"<torch> <device>": {"<call>": {"<kernel>": seconds or null}}}}

The file is a convenience and is not trusted: a damaged, foreign or too large file is ignored and written again, and its entries can only
name kernels that the caller would consider anyway.
"""

from __future__ import annotations

import json
import logging
import math
import os
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from ..files import replacing
from ..paths import cache_dir

FORMAT = 1
MAX_BYTES, MAX_ENTRIES = 2**20, 2000
Times = dict[str, float | None]
"""Seconds by kernel; None for a kernel that could not run the call."""
log = logging.getLogger("rapiddraw")


class Memory:
    """Measurements by machine and call. `path` is `attention.json` in the cache folder unless given."""

    def __init__(self, path: Path | None = None) -> None:
        self.path = path or cache_dir() / "attention.json"
        self._machines: dict[str, dict[str, Times]] | None = None

    def get(self, machine: str, call: str) -> Times:
        """Return the known times of a call on a machine; empty where there are none."""
        if self._machines is None:
            self._machines = read(self.path)
        return self._machines.get(machine, {}).get(call, {})

    def put(self, machine: str, call: str, times: Mapping[str, float | None]) -> None:
        """Remember times. Entries that another process has written meanwhile are kept; a file that cannot be written is logged."""
        machines = read(self.path)
        entries = machines.setdefault(machine, {})
        entries.pop(call, None)
        entries[call] = dict(times)
        while len(entries) > MAX_ENTRIES:
            del entries[next(iter(entries))]  # the oldest
        self._machines = machines
        try:
            with replacing(self.path) as temporary:
                temporary.write_text(json.dumps({"format": FORMAT, "machines": machines}, indent=1), encoding="utf-8")
        except OSError as error:
            log.debug("the times of attention kernels are not remembered: %s cannot be written (%s)", self.path, error)


def read(path: Path) -> dict[str, dict[str, Times]]:
    """Return the machines in a file; empty for a file that is missing, damaged, of another format or too large."""
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
        whole = json.loads(data) if len(data) <= MAX_BYTES else None
    except (OSError, ValueError, RecursionError):
        return {}
    if not isinstance(whole, dict) or whole.get("format") != FORMAT or not isinstance(whole.get("machines"), dict):
        return {}
    machines: dict[str, dict[str, Times]] = {}
    for machine, entries in whole["machines"].items():
        if isinstance(entries, dict):
            machines[machine] = {call: times for call, times in entries.items() if _are_times(times)}
    return machines


def machine_name(device: torch.device) -> str:
    """Return what a measurement depends on besides the call: torch's version and the processor with its threads, or the GPU."""
    if device.type == "cuda":
        return f"{torch.__version__} {torch.cuda.get_device_name(device)}"
    if device.type != "cpu":
        return f"{torch.__version__} {device.type} {platform.node()}"
    capability = torch.backends.cpu.get_cpu_capability()
    return f"{torch.__version__} cpu {platform.node()} {capability} {os.cpu_count()} cores {torch.get_num_threads()} threads"


def _are_times(times: Any) -> bool:
    return isinstance(times, dict) and all(value is None or _is_time(value) for value in times.values())


def _is_time(value: Any) -> bool:
    return isinstance(value, float) and math.isfinite(value) and value > 0
