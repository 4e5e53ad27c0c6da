"""The rows of `bench compile` for one evaluation of a U-Net of SD 1.5's size: naive attention, fast attention, compiled, bf16.

    python -m rapiddraw bench compile-sd15

Where the shipped U-Net is so small that overhead and ESRGAN share its picture's time, the loop is nearly all of it at this size, and
attention over 4096 tokens much of the loop. Random weights, the network of the embedded host, one picture without guidance. As in `bench
compile` rows take turns, and gains are medians over the turns. Needs 8 GB of memory; about 6 minutes on two cores.
"""

from __future__ import annotations

import argparse
import time
from functools import partial
from pathlib import Path
from typing import Any

from . import common
from .compile import PAPER, ROWS, naive, never_slower, report
from .stopwatch import interleave, ratio

NAMES = dict(zip(ROWS, ("eager, naive attention", "+ attention", "+ compile", "+ bf16"), strict=True))
TOKENS = 77
MOST_APART = 0.02


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `python -m rapiddraw bench compile-sd15`."""
    parser.add_argument("--size", type=int, default=512, help="pixels a side (default 512)")
    parser.add_argument("--repeats", type=int, default=3, help="measured evaluations a row (default 3)")
    parser.add_argument("--budget", type=float, default=120.0, help="seconds of measuring and compiling allowed for each row (default 120)")


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Measure and return the result (see :func:`common.result`)."""
    import torch

    from .lowrank_speed import BUILD

    return measure(BUILD["sd15"](), args.size, args.repeats, args.budget, torch.get_num_threads())


def measure(network: Any, size: int, repeats: int, budget: float, threads: int) -> dict[str, Any]:
    """The result for one diffusers U-Net, which all rows share: each has a plan of its own for it."""
    import torch

    from ..core.attention.patch import AttentionPatch
    from ..core.bundles.format import LatentSpace
    from ..core.diffusion.schedule import NoiseSchedule
    from ..core.host import Host, SamplingRun
    from ..core.host.embedded.attention import open_attention
    from ..core.host.embedded.model import BaseModel, Model
    from ..core.operations.compile import speed_up
    from ..core.speed.plan import Options

    host, device = Host("embedded"), next(network.parameters()).device
    plain = Model(BaseModel(open_attention(network), NoiseSchedule(), LatentSpace(), device))
    patched = host.attention.patch_model(plain, AttentionPatch())
    rows = {ROWS[0]: naive(plain), ROWS[1]: patched}
    for row, precision in zip(ROWS[2:], ("keep", "auto"), strict=True):
        rows[row] = speed_up({"model": patched}, Options(precision, "at once", budget))["model"]
    generator = torch.Generator().manual_seed(0)
    width = int(network.config["cross_attention_dim"])
    prompt, empty = ([[torch.randn(1, TOKENS, width, generator=generator), {}]] for _ in range(2))
    latent = {"samples": torch.zeros(1, int(network.config["in_channels"]), size // 8, size // 8)}

    def step(row: str) -> Any:
        with torch.no_grad():
            return host.sampling.sample(
                host.sampling.make_guider(rows[row], prompt, empty, 1.0), latent, SamplingRun(8, 1, "euler", "simple")
            )["samples"]

    drawn, first = {}, {}
    for row in ROWS:
        started = time.perf_counter()
        drawn[row] = step(row)
        first[row] = time.perf_counter() - started
    drawn |= {row: step(row) for row in ROWS[2:]}  # their first evaluation measures, and is itself computed as before
    times = interleave({row: partial(step, row) for row in ROWS}, repeats, warmup=0)
    table: list[dict[str, Any]] = []
    reference = drawn[ROWS[0]]
    for row in ROWS:
        table.append({
            "setting": NAMES[row],
            "evaluation ms": times[row].milliseconds(),
            "gain": round(ratio(times[ROWS[0]], times[row]), 3),
            "difference": float(f"{float((drawn[row] - reference).norm() / reference.norm()):.1e}"),
            "first evaluation s": round(first[row], 1),
        })  # fmt: skip
    last, apart = table[-1]["gain"], table[-1]["difference"]
    checks = [
        common.check("times as fast as the first row, everything on", last, f"at least {PAPER} (the paper's)", last >= PAPER),
        never_slower(times),
        common.check("difference to the first row, relative, everything on", apart, f"at most {MOST_APART}", apart <= MOST_APART),
    ]
    more = {
        "settings": {"size": size, "repeats": repeats, "budget": budget, "threads": threads},
        "reports": {NAMES[row]: report({"model": rows[row]}) for row in ROWS[2:]},
        "turns_s": {NAMES[row]: [round(run, 4) for run in times[row].runs] for row in ROWS},
    }
    notes = (
        "Difference: of the latents after one step, Euclidean norms. The weights are random, so nothing is said here of pictures: what "
        "bf16 does to those is in `compile`."
    )
    return common.result("compile_sd15", "python -m rapiddraw bench compile-sd15", table, checks, notes=notes, **more)


def plot(outcome: dict[str, Any], path: Path) -> None:
    """Bars of each row's gain."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    rows = outcome["rows"]
    figure, axes = pyplot.subplots(figsize=(6, 2.2))
    axes.barh([row["setting"] for row in rows], [row["gain"] for row in rows])
    axes.axvline(PAPER, color="grey", linewidth=0.8)
    axes.invert_yaxis()
    axes.set_xlabel(f"times as fast as the first row (line: the paper's {PAPER})")
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    pyplot.close(figure)
