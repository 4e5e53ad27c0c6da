"""ESRGAN in tiles against ComfyUI's own node and the bare network: pixels a second, equal pixels, no seam.

    COMFYUI_PATH=/where/ComfyUI python -m rapiddraw bench upscale

Everything runs inside one ComfyUI process (`COMFYUI_PYTHON` is its interpreter), taking turns. `spandrel` is the network called once on the
whole picture, as spandrel's own users call it. Megapixels are those of the result. Without COMFYUI_PATH ComfyUI's node is left out. The
seam is the largest step between neighbouring pixels of a smooth gradient that the picture in one piece does not have. Each result is also
compared with the network run in one piece; for large pictures, for which memory lacks, with a corner of 700 pixels that tile borders cross.
Large pictures run six times without a warm-up run, because the small ones have warmed up: about 6 minutes in all on two cores.
"""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from ..core.metrics.bootstrap import LEAST_UNITS
from .checks import CHOSEN, Expectation, at_least, at_most, exact
from .comfy_inside import answer, comfyui_folder, in_comfyui
from .stopwatch import gain_cells, interleave, ratio, turns

WEIGHTS = "orchard-esrgan-x4.safetensors"
SCALE = 4
CASES = {"256 to 1024": 256, "1024 to 4096 in tiles": 1024}
LARGE, PIECE, MARGIN = 256, 700, 64  # pixels of the input; surroundings that a piece lacks reach less far than the margin


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `python -m rapiddraw bench upscale`."""
    parser.add_argument("--comfyui", help="folder of ComfyUI (default: $COMFYUI_PATH)")
    parser.add_argument("--repeats", type=int, default=7, help="measured runs of each (default 7)")
    parser.add_argument("--sizes", type=int, nargs="*", help="sides of the inputs in pixels (default 256 1024)")
    parser.add_argument("--weights", default=WEIGHTS, help="the upscaler, a name in a weights folder")


def _sizes(args: argparse.Namespace) -> list[int]:
    return args.sizes or list(CASES.values())


def _repeats(size: int, repeats: int) -> int:
    return repeats if size <= LARGE else min(LEAST_UNITS, repeats)


def expectations(args: argparse.Namespace) -> dict[str, Expectation]:
    """Return the expectations by key; those of ComfyUI's node are judged only where there is a ComfyUI."""
    wanted, one = {}, exact(1, "pictures")
    for size in _sizes(args):
        theirs, ours = (
            f"largest difference to ComfyUI's node, {size} px",
            f"largest difference to the network in one piece, {size} px",
        )
        timed = turns(_repeats(size, args.repeats))
        wanted[f"gain {size}"] = Expectation(f"times as fast as ComfyUI's node, {size} px", at_least(1.3), CHOSEN, timed)
        wanted[f"difference {size}"] = Expectation(f"{theirs}, of 255", at_most(1), CHOSEN, one)
        wanted[f"off {size}"] = Expectation(f"{ours}, of 255", at_most(1), CHOSEN, one)
    return wanted | {"seam": Expectation("largest seam on a gradient, of 255", at_most(1), CHOSEN, one)}


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Measure and return the result (see :func:`common.result`). Raises :class:`InputError` for a folder without ComfyUI."""
    from ..core.metrics.bootstrap import Estimate
    from ..core.upscale.find import resolve_upscaler
    from . import common

    folder, wanted = comfyui_folder(args.comfyui), expectations(args)
    weights = Path(resolve_upscaler(args.weights)).resolve()
    settings: dict[str, Any] = {"repeats": args.repeats, "weights": str(weights), "sizes": _sizes(args)}
    found = in_comfyui(folder, "upscale", settings) if folder else measure(settings, None)
    checks = []
    for size in settings["sizes"]:
        rows = {row["method"]: row for row in found["rows"] if row["input"] == size}
        ours = rows["RapidDraw"]
        if "ComfyUI" in rows:
            low, high = ours["gain_over_comfyui 95%"] or (None, None)
            checks.append(wanted[f"gain {size}"].judge(Estimate(ours["gain_over_comfyui"], low, high, _repeats(size, args.repeats))))
            checks.append(wanted[f"difference {size}"].judge(ours["largest_difference_255"]))
        checks.append(wanted[f"off {size}"].judge(ours["off_one_piece_255"]))
    checks.append(wanted["seam"].judge(found["seam_255"]))
    about = {"weights": weights.name, "repeats": args.repeats, "comfyui": found["comfyui"]}
    notes = (
        "ComfyUI's tiles are blended up to their very edge, where a network has seen padding instead of the picture. So its own node is "
        "further from the network in one piece than ours wherever it needs more than one tile; `off_one_piece_255` says how far each is."
    )
    command = "COMFYUI_PATH=... python -m rapiddraw bench upscale"
    return common.result("upscale", command, found["rows"], checks, settings=about, notes=notes)


def measure(settings: dict[str, Any], comfy_node: Any) -> dict[str, Any]:
    """Measure every size by every method. `comfy_node(model, image)` is ComfyUI's ImageUpscaleWithModel, None where there is none."""
    import torch

    from ..core.upscale.rrdb import load_upscaler
    from ..core.upscale.tiles import upscale

    model = load_upscaler(settings["weights"])
    rows: list[dict[str, Any]] = []
    for size in settings["sizes"]:
        image = photo(size)
        rivals: dict[str, Callable[[], Any]] = {"RapidDraw": partial(upscale, model, image, precision="auto")}
        if comfy_node is not None:
            rivals["ComfyUI"] = partial(comfy_node, model, image)
        if size <= LARGE:  # in one piece a large picture takes tens of GB
            rivals["spandrel"] = partial(in_one_piece, model, image)
        kept: dict[str, Any] = {}
        runs = {name: partial(_keep, kept, name, rival) for name, rival in rivals.items()}
        with torch.inference_mode():
            times = interleave(runs, _repeats(size, settings["repeats"]), warmup=int(size <= LARGE))
        piece, inside = min(size, PIECE), SCALE * (size if size <= PIECE else PIECE - MARGIN)
        with torch.inference_mode():
            whole = in_one_piece(model, image[:, :piece, :piece])[:, :inside, :inside]
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
                row |= gain_cells(ratio(times["ComfyUI"], taken), "gain_over_comfyui")
            rows.append(row)
    return {"rows": rows, "seam_255": round(seam(model) * 255, 3), "comfyui": "none"}


def in_one_piece(model: Any, image: Any) -> Any:
    """Return the whole IMAGE enlarged by the bare network in one call."""
    from einops import rearrange

    return rearrange(model(rearrange(image, "b h w c -> b c h w")), "b c h w -> b h w c")


def _keep(kept: dict[str, Any], name: str, rival: Callable[[], Any]) -> None:
    kept[name] = rival()


def photo(side: int) -> Any:
    """Return an IMAGE (1, side, side, 3) with edges, colours and detail: a render of the Orchard, or several of 512 px in a square."""
    import torch

    from ..core.orchard.dataset import samples
    from ..core.orchard.render import render

    across = -(-side // 512)
    parts = [torch.from_numpy(render(sample.scene, side // across).copy()) for sample in samples("test", across**2)]
    rows = [torch.cat(parts[first : first + across], dim=1) for first in range(0, len(parts), across)]
    return torch.cat(rows)[None].float() / 255


def seam(model: Any, side: int = 256, tile: int = 128) -> float:
    """Return the largest step between neighbouring pixels that tiles add to a smooth gradient."""
    import torch

    from ..core.upscale.tiles import Tiling, upscale

    y, x = torch.linspace(0.1, 0.9, side)[:, None], torch.linspace(0.1, 0.9, side)[None]
    image = torch.stack([y.expand(side, side), x.expand(side, side), (x + y) / 2], -1)[None]
    whole, tiled = (upscale(model, image, tiling=Tiling(each)) for each in (side, tile))
    return max(float((whole.diff(dim=dim) - tiled.diff(dim=dim)).abs().max()) for dim in (1, 2))


def plot(outcome: dict[str, Any], path: Path) -> None:
    """Draw bars of megapixels a second."""
    from .plots import bars

    rates = {f"{row['method']}, {row['input']} px": {"rate": row["megapixels_a_second"]} for row in outcome["rows"]}
    bars(path, rates, "megapixels of result a second")


def measure_inside(settings: dict[str, Any]) -> dict[str, Any]:
    """Return :func:`measure` with ComfyUI's own node among the rivals; ComfyUI's library is loaded."""
    node = importlib.import_module("comfy_extras.nodes_upscale_model").ImageUpscaleWithModel

    def comfy_node(model: Any, image: Any) -> Any:
        out = node.execute(model, image)
        return getattr(out, "result", out)[0]

    return measure(settings, comfy_node)


if __name__ == "__main__":
    answer(measure_inside, cpu=True)
