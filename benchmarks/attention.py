"""Attention kernels against the reference and ComfyUI's default, over the shapes of SD 1.5 and SDXL; `--graph`: a whole U-Net.

    COMFYUI_PATH=/where/ComfyUI python -m rapiddraw bench attention              each kernel, each shape
    COMFYUI_PATH=/where/ComfyUI python -m rapiddraw bench attention --graph      a U-Net of SD 1.5's size, patched and not

With COMFYUI_PATH the shapes are measured inside a ComfyUI process (`COMFYUI_PYTHON` is its interpreter), where `default` is what that
ComfyUI chose for this machine. Without it there is no default to compare with, and torch's own attention takes its place. Milliseconds are
medians with the fastest and slowest run; errors are relative to the largest value of attention in float64.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from . import common
from .stopwatch import Timing, interleave, ratio

LEAST_GAIN, MOST_LOSS, LEAST_GRAPH_GAIN = 2.5, 1.03, 2.0
DUEL_SECONDS = 5.0  # what comparing auto with the best kernel may take
LEAST_SECONDS = 0.1  # calls are repeated for so long in each measured run
# name: batch, heads, queries, keys, head size, masked. The first block is SD 1.5 at 512 px, the second SDXL at 1024 px.
SHAPES: dict[str, tuple[int, int, int, int, int, bool]] = {
    "self 4096 d40": (1, 8, 4096, 4096, 40, False),
    "self 1024 d80": (2, 8, 1024, 1024, 80, False),
    "self 256 d160": (2, 8, 256, 256, 160, False),
    "self 64 d160": (2, 8, 64, 64, 160, False),
    "cross 4096x77 d40": (2, 8, 4096, 77, 40, False),
    "cross 1024x77 d80": (2, 8, 1024, 77, 80, False),
    "cross 256x154 d160": (2, 8, 256, 154, 160, False),
    "cross 64x77 d160": (2, 8, 64, 77, 160, False),
    "self 4096 d64": (1, 10, 4096, 4096, 64, False),
    "self 1024 d64": (2, 20, 1024, 1024, 64, False),
    "cross 4096x77 d64": (2, 10, 4096, 77, 64, False),
    "cross 1024x154 d64": (2, 20, 1024, 154, 64, False),
    "self 1024 d64 masked": (2, 20, 1024, 1024, 64, True),
    "cross 1024x77 d80 masked": (2, 8, 1024, 77, 80, True),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--comfyui", help="folder of ComfyUI (default: $COMFYUI_PATH)")
    parser.add_argument("--graph", action="store_true", help="a whole U-Net instead of single calls (needs ComfyUI, 5 GB of memory)")
    parser.add_argument("--repeats", type=int, default=5, help="measured runs of each (default 5)")
    parser.add_argument("--shapes", nargs="*", metavar="NAME", help="only these shapes (default: all)")
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16", "float16"))


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Measure and return the result (see :func:`common.result`). Raises :class:`InputError` for `--graph` without a ComfyUI."""
    from ..core.errors import InputError

    path = args.comfyui or os.environ.get("COMFYUI_PATH")
    if args.graph:
        if not path:
            raise InputError("--graph needs a ComfyUI: give its folder with --comfyui or in COMFYUI_PATH")
        return graph_result(in_comfyui(path, {"task": "graph", "repeats": args.repeats}))
    shapes = args.shapes or list(SHAPES)
    if unknown := [name for name in shapes if name not in SHAPES]:
        raise InputError(f"no such shape: {', '.join(unknown)}; there are {', '.join(SHAPES)}")
    settings = {"task": "shapes", "shapes": shapes, "repeats": args.repeats, "dtype": args.dtype}
    found = in_comfyui(path, settings) if path else measure(settings, None)
    return shapes_result(found, settings)


def in_comfyui(path: str, settings: dict[str, Any]) -> dict[str, Any]:
    """What `attention_comfy.py` finds inside a process of the ComfyUI at `path`."""
    from ..core.errors import InputError
    from ..core.paths import pack_root

    root = Path(path).expanduser().resolve()
    if not (root / "main.py").is_file():
        raise InputError(f"{root} holds no ComfyUI (main.py)")
    with tempfile.TemporaryDirectory(prefix="rapiddraw-attention-") as folder:
        (Path(folder) / "rapiddraw").symlink_to(pack_root(), target_is_directory=True)
        result = Path(folder) / "result.json"
        command = [os.environ.get("COMFYUI_PYTHON") or sys.executable, "-m", "rapiddraw.benchmarks.attention_comfy",
                   str(root), str(result), json.dumps(settings)]  # fmt: skip
        done = subprocess.run(command, env={**os.environ, "PYTHONPATH": folder}, cwd=folder, check=False)  # noqa: S603 - our own words
        if not result.is_file():
            raise RuntimeError(f"the measurement inside ComfyUI failed with exit code {done.returncode}; its output stands above")
        return json.loads(result.read_text(encoding="utf-8"))


def measure(settings: dict[str, Any], default: Callable[..., Any] | None) -> dict[str, Any]:
    """Every kernel on every shape, in this process. `default` is ComfyUI's own attention, None where there is no ComfyUI."""
    import torch

    from ..core.attention.memory import Memory
    from ..core.attention.select import Selector

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    dtype = getattr(torch, settings["dtype"])
    with tempfile.TemporaryDirectory() as folder, torch.inference_mode():
        selector = Selector(Memory(Path(folder) / "attention.json"))
        rows = [
            one_shape(name, SHAPES[name], default or torch_attention, selector, device, dtype, settings["repeats"])
            for name in settings["shapes"]
        ]
    return {"rows": rows, "default": getattr(default, "__name__", "torch SDPA (no ComfyUI given)"), "threads": torch.get_num_threads()}


def one_shape(name: str, shape: Any, default: Callable[..., Any], selector: Any, device: Any, dtype: Any, repeats: int) -> dict[str, Any]:
    """One row: the default, every kernel that takes the shape, and `auto`, interleaved."""
    import torch

    from ..core.attention.backends import BACKENDS
    from ..core.attention.patch import AttentionPatch
    from ..core.attention.tiled import tiled_attention

    batch, heads, queries, keys, width, masked = shape
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(batch, n, heads * width, generator=generator).to(device, dtype) for n in (queries, keys, keys))
    mask = torch.randn(1, queries, keys, generator=generator).to(device, dtype) if masked else None
    split = [t.unflatten(2, (heads, width)).transpose(1, 2).double() for t in (q, k, v)]
    reference = tiled_attention(*split, None if mask is None else mask[:, None].double()).transpose(1, 2).flatten(2)
    patches = {one: AttentionPatch(one, selector=selector) for one, backend in BACKENDS.items() if backend.exact and backend.available()}
    rivals: dict[str, Callable[[], Any]] = {"default": lambda: default(q, k, v, heads, mask)}
    for kernel, patch in {**patches, "auto": AttentionPatch(selector=selector)}.items():
        patch.attend(default, q, k, v, heads, mask)  # measures and chooses
        (row,) = patch.rows.values()
        if row.backend == kernel or kernel == "auto":
            rivals[kernel] = partial(patch.attend, default, q, k, v, heads, mask)
            chosen = row.backend
    errors = {kernel: float((run().double() - reference).abs().max() / reference.abs().max()) for kernel, run in rivals.items()}
    times = interleave(rivals, repeats, least=LEAST_SECONDS)
    singles = [kernel for kernel in rivals if kernel != "auto"]
    best = min(singles, key=lambda kernel: times[kernel].median)
    out: dict[str, Any] = {"shape": name, "gain": ratio(times["default"], times["auto"]), "auto took": chosen, "best": best}
    # The smallest of several medians is flattered by chance: the two are measured anew, and the winner against itself beside them.
    # Many short turns: where one kernel is both, a disturbed second must not look like a difference.
    turns = max(4 * repeats + 1, min(15 * repeats, round(DUEL_SECONDS / max(times[best].median, 1e-9) / 3)))
    duel = interleave({"auto": rivals["auto"], "best": rivals[best], "best again": rivals[best]}, turns, least=LEAST_SECONDS / 5)
    out["auto / best"], out["best / itself"] = (ratio(duel[one], duel["best"]) for one in ("auto", "best again"))
    out |= {f"{kernel} ms": times[kernel].milliseconds() for kernel in rivals}
    return out | {"largest error": max(errors.values()), "error of default": errors["default"]}


def torch_attention(q: Any, k: Any, v: Any, heads: int, mask: Any = None, **_: Any) -> Any:
    """torch's own attention in ComfyUI's layout."""
    from torch.nn.functional import scaled_dot_product_attention

    q, k, v = (t.unflatten(2, (heads, -1)).transpose(1, 2) for t in (q, k, v))
    return scaled_dot_product_attention(q, k, v, attn_mask=None if mask is None else mask[:, None]).transpose(1, 2).flatten(2)


def shapes_result(found: dict[str, Any], settings: dict[str, Any]) -> dict[str, Any]:
    """Rows and checks of the shapes."""
    rows = found["rows"]
    long = [row["gain"] for row in rows if row["shape"].startswith("self 4096")]
    slowest, loss = min(row["gain"] for row in rows), max(row["auto / best"] for row in rows)
    noise = [row["best / itself"] for row in rows]
    rounding = {"float32": 1e-5, "bfloat16": 2e-2, "float16": 2e-3}[settings["dtype"]]
    error = max(row["largest error"] for row in rows)
    checks = [
        common.check("largest error of any kernel, relative", error, f"at most {rounding:g} ({settings['dtype']})", error <= rounding)
    ]
    if long and "comfyui" in found:
        claim = "times as fast as ComfyUI's default at 4096 tokens, the lower of both models"
        checks.append(common.check(claim, min(long), f"at least {LEAST_GAIN:g}", min(long) >= LEAST_GAIN))
    checks += [
        common.check("auto's time over the best single kernel's, the worst shape", loss, f"at most {MOST_LOSS:g}", loss <= MOST_LOSS),
        common.check("auto's gain over the default, the worst shape", slowest, f"at least {1 / MOST_LOSS:.2f}", slowest >= 1 / MOST_LOSS),
    ]
    about = {**settings, "default": found["default"], "threads": found["threads"], "comfyui": found.get("comfyui", "none")}
    notes = (
        f"The clock's noise: the best kernel against itself, timed as auto is against it, came to {min(noise):.3f} to {max(noise):.3f}. "
        "On a CPU torch's flash kernel runs near the rate of a plain matrix product. Contiguous heads, heads padded to a multiple of 16 "
        "and bf16 inside were tried at 4096 tokens, heads of 40 and 64: none was faster than the layout as it comes."
    )
    return common.result("attention", "COMFYUI_PATH=... python -m rapiddraw bench attention", rows, checks, settings=about, notes=notes)


def graph_result(found: dict[str, Any]) -> dict[str, Any]:
    """Rows and checks of the whole U-Net. Kept under a name of its own: both results are published."""
    times = {name: Timing(**{**value, "runs": tuple(value["runs"])}) for name, value in found["times"].items()}
    gain = ratio(times["default"], times["patched"])
    rows = [{"U-Net": name, "ms": time.milliseconds(), "gain": ratio(times["default"], time)} for name, time in times.items()]
    checks = [
        common.check("times as fast with the patch", gain, f"at least {LEAST_GRAPH_GAIN:g}", gain >= LEAST_GRAPH_GAIN),
        common.check("largest difference of the outputs, relative", found["difference"], "at most 0.001", found["difference"] <= 1e-3),
    ]
    about = {key: found[key] for key in ("default", "dtype", "parameters", "threads", "comfyui", "report", "attention_share")}
    command = "COMFYUI_PATH=... python -m rapiddraw bench attention --graph"
    share = found["attention_share"]
    notes = (
        f"Attention is {share:.1%} of an unpatched evaluation at 512 px, so attention that took no time at all would make it "
        f"{1 / (1 - share):.2f} times as fast: that is the ceiling of this patch here. Longer sequences (768, 1024 px) raise it."
    )
    return common.result("attention_graph", command, rows, checks, settings=about, notes=notes)
