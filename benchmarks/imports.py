"""Cost of importing the pack into ComfyUI: the seconds it adds to the start, and the packages it loads.

    COMFYUI_PATH=/where/ComfyUI python -m rapiddraw bench imports

Every run is a process of its own. It first imports what ComfyUI has imported by the time it loads custom nodes, then loads the pack by
ComfyUI's own loader. The first run, which compiles and fills caches of files, is not counted. The table gives medians; the check is on
the processor's time, which other work on the same machine changes least. `COMFYUI_PYTHON` is ComfyUI's interpreter.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from . import common
from .checks import CHOSEN, Basis, Expectation, at_most, equal, exact
from .comfy_inside import comfyui_python, needed_comfyui

HEAVY = ("diffusers", "transformers", "basicsr", "matplotlib", "accelerate")
# ComfyUI itself imports transformers: only modules that the pack adds count.
_PROBE = f"""
import asyncio, json, os, sys, time
comfyui, pack = sys.argv[1:]
sys.argv = [sys.argv[0], "--cpu"]
sys.path.insert(0, comfyui)
os.chdir(comfyui)
import comfy.options
comfy.options.enable_args_parsing()
import utils.extra_config  # before the rest, as main.py does: other packages have a `utils` too
import execution, server, nodes
before = set(sys.modules)
started, worked = time.perf_counter(), time.process_time()
loaded = asyncio.run(nodes.load_custom_node(pack))
seconds, worked = time.perf_counter() - started, time.process_time() - worked
added = {{name.split(".")[0] for name in set(sys.modules) - before}}
known = [name for name in nodes.NODE_CLASS_MAPPINGS if name.startswith("RapidDraw")]
print(json.dumps(dict(loaded=bool(loaded), seconds=seconds, worked=worked, nodes=len(known), modules=len(set(sys.modules) - before),
                      heavy=sorted(added & set({HEAVY!r})))))
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `python -m rapiddraw bench imports`."""
    parser.add_argument("--comfyui", help="folder of ComfyUI (default: $COMFYUI_PATH)")
    parser.add_argument("--repeats", type=int, default=7, help="processes to start (default 7)")


def expectations(args: argparse.Namespace) -> dict[str, Expectation]:
    """Return the expectations by key."""
    seconds = "processor seconds that the pack adds to ComfyUI's start, the median"
    heavy = f"packages of {', '.join(HEAVY)} that it imports"
    return {
        "seconds": Expectation(seconds, at_most(0.15), CHOSEN, Basis(args.repeats, "starts")),
        "heavy": Expectation(heavy, equal(0), CHOSEN, exact(args.repeats, "starts")),
    }


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Import the pack into fresh processes and return the result. Raises :class:`InputError` without a ComfyUI."""
    import numpy as np

    from ..core.errors import InputError
    from ..core.metrics.bootstrap import bootstrap
    from ..core.paths import pack_root

    wanted, comfyui, repeats = expectations(args), needed_comfyui(args.comfyui), args.repeats
    if repeats < 1:
        raise InputError(f"repeats is {repeats}; give at least 1")
    with tempfile.TemporaryDirectory(prefix="rapiddraw-imports-") as folder:
        pack = Path(folder) / "rapiddraw"
        pack.symlink_to(pack_root(), target_is_directory=True)
        runs = [_once(comfyui, pack) for _ in range(repeats + 1)][1:]
    wall, worked = (statistics.median(one[key] for one in runs) for key in ("seconds", "worked"))
    rows = [{"nodes": runs[0]["nodes"], "modules": runs[0]["modules"], "processor_s": round(worked, 4),
             "wall_s": round(wall, 4), "starts": repeats}]  # fmt: skip
    heavy = sorted({name for one in runs for name in one["heavy"]})
    spent = np.array([one["worked"] for one in runs])
    checks = [
        wanted["seconds"].judge(bootstrap(lambda drawn: float(np.median(spent[drawn])), len(spent))),
        wanted["heavy"].judge(len(heavy)),
    ]
    command = "COMFYUI_PATH=... python -m rapiddraw bench imports"
    return common.result("imports", command, rows, checks, settings={"comfyui": _version(comfyui)})


def _once(comfyui: Path, pack: Path) -> dict[str, Any]:
    command = [comfyui_python(), "-c", _PROBE, str(comfyui), str(pack)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900)  # noqa: S603 - our own words
    answers = [line for line in done.stdout.splitlines() if line.startswith("{")]
    if done.returncode or not answers or not json.loads(answers[-1])["loaded"]:
        raise RuntimeError(f"ComfyUI did not load the pack:\n{done.stdout[-1000:]}\n{done.stderr[-3000:]}")
    return json.loads(answers[-1])


def _version(comfyui: Path) -> str:
    text = (comfyui / "comfyui_version.py").read_text(encoding="utf-8")
    return text.split('"')[1] if '"' in text else "unknown"
