"""ESRGAN in tiles against ComfyUI's own node and the bare network: pixels a second, the same pixels, no seam.

    COMFYUI_PATH=/where/ComfyUI python -m rapiddraw bench upscale

Everything runs inside one ComfyUI process (`COMFYUI_PYTHON` is its interpreter), taking turns. `spandrel` is the network called once on the
whole picture, as spandrel's own users do. Megapixels are of the result. Without COMFYUI_PATH ComfyUI's node is left out. The seam is the
largest step between neighbouring pixels of a smooth gradient that the picture in one piece does not have. Each method's result is also held
against the network run in one piece; of large pictures, for which memory lacks, against a corner of 700 pixels, tile borders and all. They
take most of a minute each, and run twice and without a warm-up run (the small ones warm up): about 3 minutes in all on two cores.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

WEIGHTS = "orchard-esrgan-x4.safetensors"
SCALE = 4
CASES = {"256 to 1024": 256, "1024 to 4096 in tiles": 1024}
LARGE, PIECE, MARGIN = 256, 700, 64  # pixels of the input; what a piece lacks of its surroundings reaches less than the margin


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `python -m rapiddraw bench upscale`."""
    parser.add_argument("--comfyui", help="folder of ComfyUI (default: $COMFYUI_PATH)")
    parser.add_argument("--repeats", type=int, default=5, help="measured runs of each (default 5)")
    parser.add_argument("--sizes", type=int, nargs="*", help="sides of the inputs in pixels (default 256 1024)")
    parser.add_argument("--weights", default=WEIGHTS, help="the upscaler, a name in a weights folder")


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Measure and return the result (see :func:`common.result`). Raises :class:`InputError` for a folder without ComfyUI."""
    from ..core.upscale.find import resolve_upscaler
    from . import common

    path = getattr(args, "comfyui", None) or os.environ.get("COMFYUI_PATH")
    settings: dict[str, Any] = {
        "repeats": getattr(args, "repeats", None) or 5,
        "weights": str(resolve_upscaler(getattr(args, "weights", None) or WEIGHTS)),
        "sizes": getattr(args, "sizes", None) or list(CASES.values()),
    }
    found = in_comfyui(path, settings) if path else measure(settings, None)
    checks = []
    for size in settings["sizes"]:
        rows = {row["method"]: row for row in found["rows"] if row["input"] == size}
        ours, theirs = rows["RapidDraw"], rows.get("ComfyUI")
        if theirs:
            gain = round(ours["gain_over_comfyui"], 2)
            checks.append(common.check(f"times as fast as ComfyUI's node, {size} px", gain, "at least 1.3", gain >= 1.3))
            off = ours["largest_difference_255"]
            checks.append(common.check(f"largest difference to ComfyUI's node, {size} px, of 255", off, "at most 1", off <= 1))
        off = ours["off_one_piece_255"]
        checks.append(common.check(f"largest difference to the network in one piece, {size} px, of 255", off, "at most 1", off <= 1))
    checks.append(common.check("largest seam on a gradient, of 255", found["seam_255"], "at most 1", found["seam_255"] <= 1))
    about = {"weights": Path(settings["weights"]).name, "repeats": settings["repeats"], "comfyui": found["comfyui"]}
    notes = (
        "ComfyUI's tiles are blended up to their very edge, where a network has seen padding instead of the picture, so its own node is "
        "further from the network in one piece than ours wherever it needs more than one tile; `off_one_piece_255` says how far each is."
    )
    return common.result(
        "upscale", "COMFYUI_PATH=... python -m rapiddraw bench upscale", found["rows"], checks, settings=about, notes=notes
    )


def in_comfyui(path: str, settings: dict[str, Any]) -> dict[str, Any]:
    """What :func:`measure` finds inside a process of the ComfyUI at `path`."""
    from ..core.errors import InputError
    from ..core.paths import pack_root

    root = Path(path).expanduser().resolve()
    if not (root / "main.py").is_file():
        raise InputError(f"{root} holds no ComfyUI (main.py)")
    with tempfile.TemporaryDirectory(prefix="rapiddraw-bench-") as folder:
        (Path(folder) / "rapiddraw").symlink_to(pack_root(), target_is_directory=True)
        result = Path(folder) / "result.json"
        command = [os.environ.get("COMFYUI_PYTHON") or sys.executable, "-m", "rapiddraw.benchmarks.upscale"]
        done = subprocess.run(  # noqa: S603 - our own module under an interpreter the user named
            [*command, str(root), str(result), json.dumps(settings)], cwd=folder, env={**os.environ, "PYTHONPATH": folder}, check=False
        )
        if done.returncode or not result.is_file():
            raise RuntimeError(f"the measurement inside ComfyUI failed with exit code {done.returncode}; its output stands above")
        return json.loads(result.read_text(encoding="utf-8"))


def measure(settings: dict[str, Any], comfy_node: Any) -> dict[str, Any]:
    """Every size by every method; `comfy_node(model, image)` is ComfyUI's ImageUpscaleWithModel, None where there is none."""
    import torch

    from ..core.upscale.rrdb import load_upscaler
    from ..core.upscale.tiles import upscale
    from .stopwatch import interleave, ratio

    model = load_upscaler(settings["weights"])
    rows: list[dict[str, Any]] = []
    for size in settings["sizes"]:
        image = photo(size)
        rivals = {"RapidDraw": lambda image=image: upscale(model, image, precision="auto")}
        if comfy_node is not None:
            rivals["ComfyUI"] = lambda image=image: comfy_node(model, image)
        if size <= LARGE:  # in one piece a large picture takes tens of GB
            rivals["spandrel"] = lambda image=image: model(image.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        kept: dict[str, Any] = {}
        runs = {name: partial(_keep, kept, name, rival) for name, rival in rivals.items()}
        with torch.inference_mode():
            times = interleave(runs, settings["repeats"] if size <= LARGE else min(2, settings["repeats"]), warmup=int(size <= LARGE))
        piece, inside = min(size, PIECE), SCALE * (size if size <= PIECE else PIECE - MARGIN)
        with torch.inference_mode():
            whole = model(image[:, :piece, :piece].permute(0, 3, 1, 2)).permute(0, 2, 3, 1)[:, :inside, :inside]
        for name, taken in times.items():
            row = {
                "input": size,
                "method": name,
                "seconds": round(taken.median, 3),
                "spread": taken.milliseconds(),
                "megapixels_a_second": round((size * SCALE) ** 2 / taken.median / 1e6, 3),
                "off_one_piece_255": round(float((kept[name][:, :inside, :inside].clamp(0, 1) - whole).abs().max()) * 255, 3),
            }
            if name == "RapidDraw" and "ComfyUI" in times:
                row["largest_difference_255"] = round(float((kept[name] - kept["ComfyUI"]).abs().max()) * 255, 3)
                row["gain_over_comfyui"] = round(ratio(times["ComfyUI"], taken), 3)
            rows.append(row)
    return {"rows": rows, "seam_255": round(seam(model) * 255, 3), "comfyui": "none"}


def _keep(kept: dict[str, Any], name: str, rival: Callable[[], Any]) -> None:
    kept[name] = rival()


def photo(side: int) -> Any:
    """An IMAGE (1, side, side, 3) with edges, colours and detail: a render of the Orchard, or several of 512 px in a square."""
    import torch

    from ..core.orchard.dataset import samples
    from ..core.orchard.render import render

    across = -(-side // 512)
    parts = [torch.from_numpy(render(sample.scene, side // across).copy()) for sample in samples("test", across**2)]
    rows = [torch.cat(parts[first : first + across], dim=1) for first in range(0, len(parts), across)]
    return torch.cat(rows)[None].float() / 255


def seam(model: Any, side: int = 256, tile: int = 128) -> float:
    """The largest step between neighbours that tiles add to a smooth gradient."""
    import torch

    from ..core.upscale.tiles import Tiling, upscale

    y, x = torch.linspace(0.1, 0.9, side)[:, None], torch.linspace(0.1, 0.9, side)[None]
    image = torch.stack([y.expand(side, side), x.expand(side, side), (x + y) / 2], -1)[None]
    whole, tiled = (upscale(model, image, tiling=Tiling(each)) for each in (side, tile))
    return max(float((whole.diff(dim=dim) - tiled.diff(dim=dim)).abs().max()) for dim in (1, 2))


def plot(outcome: dict[str, Any], path: Path) -> None:
    """Bars of megapixels a second."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    rows = outcome["rows"]
    figure, axes = pyplot.subplots(figsize=(6, 0.5 * len(rows) + 1))
    axes.barh([f"{row['method']}, {row['input']} px" for row in rows], [row["megapixels_a_second"] for row in rows])
    axes.invert_yaxis()
    axes.set_xlabel("megapixels of result a second")
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def main(comfyui: str, result: str, settings: str) -> None:
    """The part that runs inside a ComfyUI process (its library, not its server): measure, write the result as JSON."""
    sys.argv = [sys.argv[0], "--cpu"]
    sys.path.insert(0, comfyui)
    importlib.import_module("comfy.options").enable_args_parsing()
    node = importlib.import_module("comfy_extras.nodes_upscale_model").ImageUpscaleWithModel

    def comfy_node(model: Any, image: Any) -> Any:
        out = node.execute(model, image)
        return getattr(out, "result", out)[0]

    found = measure(json.loads(settings), comfy_node)
    found["comfyui"] = importlib.import_module("comfyui_version").__version__
    Path(result).write_text(json.dumps(found), encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:4])
