"""The two hosts draw the same picture: every saved graph in a real ComfyUI and headless, same seed.

    COMFYUI_PATH=/where/ComfyUI python -m rapiddraw bench hosts

Seconds are those of the whole graph, loading of weights included, the graph running for the first time in each host; starting ComfyUI and
importing libraries are not counted. `COMFYUI_PYTHON` is the
interpreter that ComfyUI's requirements are installed for, where that is not this one. Needs a checkout of the repository (it uses the
ComfyUI client of the tests). A graph that saves no picture has no PSNR. One that trains is compared after a few steps of training: over
many, rounding grows to what can be seen. Its rows say how far apart the two hosts are after all its steps, and how far the headless host is
from itself with one thread more.
"""

from __future__ import annotations

import argparse
import copy
import difflib
import io
import json
import logging
import math
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from . import common

log = logging.getLogger("rapiddraw")
LEAST_PSNR = 40.0
TRAINING, SHORT = "RapidDrawDistillUNet", 4
NOTES = (
    "Graphs without a PSNR save no picture: fit_knowledge writes a projection and its report, profile_pipeline a table of seconds. "
    "own_rounding_db: the headless host against itself with one thread more, which is rounding alone."
)
IDENTICAL_DB = 99.0
"""Written for two pictures without any difference, whose PSNR is infinite (JSON has no word for that)."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--comfyui", help="folder of ComfyUI (default: $COMFYUI_PATH)")
    parser.add_argument("--only", metavar="NAMES", help="names of saved graphs, with commas between them (default: all of workflows/api)")


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Draw every graph in both hosts and return the result (see :func:`common.result`). Raises :class:`InputError` without a ComfyUI."""
    from ..core.errors import InputError
    from ..core.paths import pack_root
    from .comfy_server import Server

    api = pack_root() / "workflows" / "api"
    names = chosen_graphs(args.only, sorted(file.stem for file in api.glob("*.json")))
    path = getattr(args, "comfyui", None) or os.environ.get("COMFYUI_PATH")
    if not path or not (Path(path).expanduser() / "main.py").is_file():
        raise InputError("this benchmark needs a ComfyUI: give its folder with --comfyui or in COMFYUI_PATH")
    rows: list[dict[str, Any]] = []
    from diffusers import AutoencoderKL, UNet2DConditionModel  # noqa: F401 - imported before anything is timed
    from transformers import BertTokenizer, CLIPTextModel  # noqa: F401

    with tempfile.TemporaryDirectory(prefix="rapiddraw-hosts-") as folder:
        python = os.environ.get("COMFYUI_PYTHON") or sys.executable
        server = Server(Path(path).expanduser().resolve(), python, Path(folder), pack_root(), pack_root() / "weights")
        server.start()
        try:
            version = server.get("/system_stats")["system"].get("comfyui_version", "unknown")
            for name in names:
                graph = json.loads((api / f"{name}.json").read_text(encoding="utf-8"))
                for case in _cases(name, graph):
                    rows.append({"graph": name, **_compare(server, *case, Path(folder) / "headless" / str(len(rows)))})
                    log.info("hosts: %s", rows[-1])
        finally:
            server.stop()
    measured = [row["psnr_db"] for row in rows if row["psnr_db"] is not None and row.get("training_steps", 0) <= SHORT]
    ran = len({row["graph"] for row in rows})
    least = min(measured, default=math.nan)
    checks = [
        common.check("lowest PSNR between the two hosts' pictures, in dB", least, f"at least {LEAST_PSNR:g}", least >= LEAST_PSNR),
        common.check("graphs that ran in both hosts", ran, f"all {len(names)}", ran == len(names)),
    ]
    command = "COMFYUI_PATH=... python -m rapiddraw bench hosts"
    return common.result("hosts", command, rows, checks, settings={"comfyui": version, "device": "cpu"}, notes=NOTES)


def chosen_graphs(only: str | None, known: list[str]) -> list[str]:
    """Return the names in `only`, separated by commas, in their order and once each; all of `known` where it is None.

    Raises :class:`InputError` for a name that is not in `known`, with the nearest ones.
    """
    from ..core.errors import InputError

    if only is None:
        return known
    wanted = list(dict.fromkeys(name.strip() for name in only.split(",") if name.strip()))
    for name in wanted:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=3, cutoff=0.3) or known
            raise InputError(f"--only: no saved graph is named {name!r}; the nearest names are {', '.join(near)}")
    if not wanted:
        raise InputError(f"--only names no graph; give names with commas between them, such as {','.join(known[:2])}")
    return wanted


def _cases(name: str, graph: dict[str, Any]) -> list[tuple[dict[str, Any], int]]:
    """The graph with its steps of training, 0 for none; one that trains also with few."""
    (steps,) = {entry["inputs"]["steps"] for entry in graph.values() if entry["class_type"] == TRAINING} or {0}
    if not steps:
        return [(graph, 0)]
    short = copy.deepcopy(graph)
    for entry in short.values():
        if entry["class_type"] == TRAINING:
            entry["inputs"] |= {"steps": SHORT, "filename": f"{name}-{SHORT}"}
    return [(short, SHORT), (graph, steps)]


def _compare(server: Any, graph: dict[str, Any], training: int, folder: Path) -> dict[str, Any]:
    started = time.perf_counter()
    done = server.run(graph)
    comfyui_seconds = time.perf_counter() - started
    if done.status != "success" or done.node_errors:
        raise RuntimeError(f"ComfyUI did not run the graph: {done.error or done.node_errors or done.status}\n{server.tail(2000)}")
    theirs = [_pixels(data) for data in server.pictures(done)]
    server.forget()
    started = time.perf_counter()
    ours = [_pixels(data) for data in headless_pictures(graph, folder)]
    seconds = time.perf_counter() - started
    found = {
        "pictures": len(ours),
        "psnr_db": _apart(theirs, ours),
        "comfyui_s": round(comfyui_seconds, 1),
        "headless_s": round(seconds, 1),
    }
    if training:
        found["training_steps"] = training
        found["own_rounding_db"] = _apart(ours, [_pixels(data) for data in _rounded_otherwise(graph, folder / "again")])
    return found


def _rounded_otherwise(graph: dict[str, Any], folder: Path) -> list[bytes]:
    """:func:`headless_pictures` with one thread more, so that sums are taken in another order."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(threads + 1)
    try:
        return headless_pictures(graph, folder)
    finally:
        torch.set_num_threads(threads)


def headless_pictures(graph: dict[str, Any], folder: Path) -> list[bytes]:
    """The PNG files that the embedded host saves for a graph into `folder`, in the order of its nodes."""
    from ..core import paths
    from ..core.graph.execute import Runner
    from ..nodes.registry import registry

    for name in ("input", "output", "temp"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    paths.set_dirs(folder / "input", folder / "output", folder / "temp")
    shown = [ui for _, ui in sorted(Runner(registry()).run(graph).outputs.items())]
    images = [image for ui in shown for image in ui.get("images", []) if image["type"] == "output"]
    return [(folder / "output" / image["subfolder"] / image["filename"]).read_bytes() for image in images]


def _pixels(data: bytes) -> Any:
    import numpy as np
    from PIL import Image

    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"), dtype=np.float64) / 255


def _apart(one: list[Any], other: list[Any]) -> float | None:
    """The lowest PSNR of pictures in pairs, in dB; `None` for no picture."""
    return min((round(_psnr(a, b), 1) for a, b in zip(one, other, strict=True)), default=None)


def _psnr(a: Any, b: Any) -> float:
    error = float(((a - b) ** 2).mean()) if a.shape == b.shape else 1.0
    return IDENTICAL_DB if error == 0 else min(IDENTICAL_DB, 10 * math.log10(1 / error))
