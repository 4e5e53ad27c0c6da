"""Pictures of the two hosts compared: every saved graph in a real ComfyUI and headless, with the same seed.

    COMFYUI_PATH=/where/ComfyUI python -m rapiddraw bench hosts
    COMFYUI_PATH=/where/ComfyUI python -m rapiddraw bench hosts --only text_to_image,latent_bridge

Seconds are those of the whole graph, loading of weights included, when the graph runs for the first time in each host; starting ComfyUI and
importing libraries are not counted. `COMFYUI_PYTHON` is the interpreter that ComfyUI's requirements are installed for, where that is not
this one. A graph that saves no picture has no PSNR. A graph that trains is compared after a few steps of training, because over many steps
rounding grows until it can be seen. Its second row says how far apart the two hosts are after all its steps, and how far the headless host
is from itself with one thread more. A graph that does not run in one of the hosts has a row with the error.
"""

from __future__ import annotations

import argparse
import copy
import io
import json
import logging
import math
import tempfile
import time
from pathlib import Path
from typing import Any

from . import common
from .checks import CHOSEN, Expectation, at_least, equal, exact
from .comfy_inside import comfyui_python, needed_comfyui
from .common import chosen_names

log = logging.getLogger("rapiddraw")
TRAINING, SHORT = ("RapidDrawDistillUNet", "RapidDrawDistillFewSteps"), 4
NOTES = (
    "Graphs without a PSNR save no picture: fit_knowledge writes a projection and its report, profile_pipeline a table of seconds. "
    "own_rounding_db: the headless host against itself with one thread more; the difference is rounding alone."
)
IDENTICAL_DB = 99.0
"""PSNR that is written for two equal pictures. Theirs is infinite, which JSON cannot hold."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `python -m rapiddraw bench hosts`."""
    parser.add_argument("--comfyui", help="folder of ComfyUI (default: $COMFYUI_PATH)")
    parser.add_argument("--only", metavar="NAMES", help="names of saved graphs, with commas between them (default: all of workflows/api)")


def expectations(args: argparse.Namespace) -> dict[str, Expectation]:
    """Return the expectations by key."""
    graphs = exact(len(chosen_names(args.only, saved_graphs(), "saved graph")), "graphs")
    psnr = "lowest PSNR between the two hosts' pictures, in dB"
    return {
        "psnr": Expectation(psnr, at_least(40), CHOSEN, graphs),
        "failed": Expectation("graphs that did not run in both hosts", equal(0), CHOSEN, graphs),
    }


def saved_graphs() -> list[str]:
    """Return the names of the graphs in workflows/api that run in both hosts."""
    from ..core.graph.shipped import NEED_MODELS, shipped_graphs

    return sorted(set(shipped_graphs()) - NEED_MODELS)


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Draw every graph in both hosts and return the result (see :func:`common.result`). Raises :class:`InputError` without a ComfyUI."""
    from ..core.paths import pack_root
    from .comfy_server import Server

    wanted, names = expectations(args), chosen_names(args.only, saved_graphs(), "saved graph")
    comfyui = needed_comfyui(args.comfyui)
    rows: list[dict[str, Any]] = []
    from diffusers import AutoencoderKL, UNet2DConditionModel  # noqa: F401 - imported before anything is timed
    from transformers import BertTokenizer, CLIPTextModel  # noqa: F401

    with tempfile.TemporaryDirectory(prefix="rapiddraw-hosts-") as folder:
        server = Server(comfyui, comfyui_python(), Path(folder), pack_root(), pack_root() / "weights")
        server.start()
        try:
            version = server.get("/system_stats")["system"].get("comfyui_version", "unknown")
            for name in names:
                graph = json.loads((pack_root() / "workflows" / "api" / f"{name}.json").read_text(encoding="utf-8"))
                for case in _cases(name, graph):
                    rows.append({"graph": name, **_row(server, *case, Path(folder) / "headless" / str(len(rows)))})
                    log.info("hosts: %s", rows[-1])
        finally:
            server.stop()
    measured = [row["psnr_db"] for row in rows if row.get("psnr_db") is not None and row.get("training_steps", 0) <= SHORT]
    failed = {row["graph"] for row in rows if "error" in row}
    checks = [wanted["psnr"].judge(min(measured, default=math.nan)), wanted["failed"].judge(len(failed))]
    command = "COMFYUI_PATH=... python -m rapiddraw bench hosts" + (f" --only {','.join(names)}" if args.only else "")
    return common.result("hosts", command, rows, checks, settings={"comfyui": version, "device": "cpu"}, notes=NOTES)


def _cases(name: str, graph: dict[str, Any]) -> list[tuple[dict[str, Any], int]]:
    """Return (graph, steps of training) once for a graph that does not train (0 steps), else with few steps and with all."""
    (steps,) = {entry["inputs"]["steps"] for entry in graph.values() if entry["class_type"] in TRAINING} or {0}
    if not steps:
        return [(graph, 0)]
    short = copy.deepcopy(graph)
    for entry in short.values():
        if entry["class_type"] in TRAINING:
            entry["inputs"] |= {"steps": SHORT, "filename": f"{name}-{SHORT}"}
    return [(short, SHORT), (graph, steps)]


def _row(server: Any, graph: dict[str, Any], training: int, folder: Path) -> dict[str, Any]:
    """Return the cells of one comparison, or the error of the host that did not run the graph."""
    from ..core.errors import RapidDrawError

    try:
        return _compare(server, graph, training, folder)
    except (RuntimeError, RapidDrawError) as error:
        log.warning("hosts: %s", error)
        return {"error": str(error).splitlines()[0]}


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
    """Return :func:`headless_pictures` drawn with one thread more, so that sums are added up in another order."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(threads + 1)
    try:
        return headless_pictures(graph, folder)
    finally:
        torch.set_num_threads(threads)


def headless_pictures(graph: dict[str, Any], folder: Path) -> list[bytes]:
    """Run a graph in the embedded host and return the PNG files that it saves into `folder`, in the order of its nodes."""
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
    """Return the lowest PSNR of pictures in pairs, in dB, or None for no picture."""
    return min((round(_psnr(a, b), 1) for a, b in zip(one, other, strict=True)), default=None)


def _psnr(a: Any, b: Any) -> float:
    error = float(((a - b) ** 2).mean()) if a.shape == b.shape else 1.0
    return IDENTICAL_DB if error == 0 else min(IDENTICAL_DB, 10 * math.log10(1 / error))
