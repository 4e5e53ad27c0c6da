"""Speed-ups of `bench compile` for one evaluation of a U-Net of SD 1.5's size: naive attention, fast attention, compiled, bf16.

    python -m rapiddraw bench compile-sd15

The shipped U-Net is so small that overhead and ESRGAN share its picture's time. At SD 1.5's size the U-Net loop is nearly all of it, and
attention over 4096 tokens much of the loop. Random weights, the network of the embedded host, one picture without guidance. As in `bench
compile` rows take turns, and gains are medians over the turns. Needs 8 GB of memory; about 10 minutes on two cores.
"""

from __future__ import annotations

import argparse
import time
from functools import partial
from pathlib import Path
from typing import Any

from ..core.metrics.bootstrap import smallest
from . import common
from .checks import CHOSEN, Expectation, at_most, exact
from .compile import ROWS, TABLE_3, gains_above, naive, report, speed_expectations
from .stopwatch import gain_cells, interleave, ratio

NAMES = dict(zip(ROWS, ("eager, naive attention", "+ attention", "+ compile", "+ bf16"), strict=True))
TOKENS = 77


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `python -m rapiddraw bench compile-sd15`."""
    parser.add_argument("--size", type=int, default=512, help="pixels a side (default 512)")
    parser.add_argument("--repeats", type=int, default=7, help="measured evaluations a row (default 7)")
    parser.add_argument("--budget", type=float, default=120.0, help="seconds of measuring and compiling allowed for each row (default 120)")


def expectations(args: argparse.Namespace) -> dict[str, Expectation]:
    """Return the expectations by key."""
    claim = "difference to the first row, relative, everything on"
    return speed_expectations(args.repeats) | {"difference": Expectation(claim, at_most(0.02), CHOSEN, exact(1, "evaluations"))}


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Measure and return the result (see :func:`common.result`)."""
    from .lowrank_speed import BUILD

    return measure(BUILD["sd15"](), args)


def measure(network: Any, args: argparse.Namespace) -> dict[str, Any]:
    """Return the result for one diffusers U-Net. All rows share it; each has a plan of its own for it."""
    import torch

    from ..core.attention.patch import AttentionPatch
    from ..core.bundles.format import LatentSpace
    from ..core.diffusion.schedule import NoiseSchedule
    from ..core.host import Host, SamplingRun
    from ..core.host.embedded.attention import open_attention
    from ..core.host.embedded.model import BaseModel, Model
    from ..core.operations.compile import speed_up
    from ..core.speed.plan import Options

    wanted, size, repeats = expectations(args), args.size, args.repeats
    host, device = Host("embedded"), next(network.parameters()).device
    plain = Model(BaseModel(open_attention(network), NoiseSchedule(), LatentSpace(), device))
    patched = host.attention.patch_model(plain, AttentionPatch())
    rows = {ROWS[0]: naive(plain), ROWS[1]: patched}
    for row, precision in zip(ROWS[2:], ("keep", "auto"), strict=True):
        rows[row] = speed_up({"model": patched}, Options(precision, "at once", args.budget))["model"]
    generator = torch.Generator().manual_seed(0)
    width = int(network.config["cross_attention_dim"])
    prompt, empty = ([[torch.randn(1, TOKENS, width, generator=generator), {}]] for _ in range(2))
    latent = {"samples": torch.zeros(1, int(network.config["in_channels"]), size // 8, size // 8)}

    def step(row: str) -> Any:
        with torch.no_grad():
            guider = host.sampling.make_guider(rows[row], prompt, empty, 1.0)
            return host.sampling.sample(guider, latent, SamplingRun(8, 1, "euler", "simple"))["samples"]

    drawn, first = {}, {}
    for row in ROWS:
        started = time.perf_counter()
        drawn[row] = step(row)
        first[row] = time.perf_counter() - started
    drawn |= {row: step(row) for row in ROWS[2:]}  # their first evaluation measures, and is itself computed as before
    times = interleave({row: partial(step, row) for row in ROWS}, repeats, warmup=0)
    above = gains_above(times)
    table: list[dict[str, Any]] = []
    reference = drawn[ROWS[0]]
    for row in ROWS:
        table.append({
            "setting": NAMES[row],
            "evaluation ms": times[row].milliseconds(),
            **gain_cells(ratio(times[ROWS[0]], times[row])),
            **({} if row == ROWS[0] else gain_cells(above[row], "over the row above")),
            "difference": float(f"{float((drawn[row] - reference).norm() / reference.norm()):.1e}"),
            "first evaluation s": round(first[row], 1),
        })  # fmt: skip
    checks = [
        wanted["gain"].judge(ratio(times[ROWS[0]], times[ROWS[-1]])),
        wanted["least"].judge(smallest(list(above.values()))),
        wanted["difference"].judge(table[-1]["difference"]),
    ]
    more = {
        "settings": {"size": size, "repeats": repeats, "budget": args.budget, "threads": torch.get_num_threads()},
        "reports": {NAMES[row]: report({"model": rows[row]}) for row in ROWS[2:]},
        "turns_s": {NAMES[row]: [round(run, 4) for run in times[row].runs] for row in ROWS},
    }
    notes = (
        "Gains are over written-out attention, not over ComfyUI's default; `over the row above` is the share of each speed-up alone. "
        "Difference: of the latents after one step, Euclidean norms. The weights are random and draw no pictures; `compile` says what "
        "bf16 does to those."
    )
    return common.result("compile_sd15", "python -m rapiddraw bench compile-sd15", table, checks, notes=notes, **more)


def plot(outcome: dict[str, Any], path: Path) -> None:
    """Draw a bar of each row's gain."""
    from .plots import bars

    gains = {row["setting"]: {"gain": row["gain"]} for row in outcome["rows"]}
    bars(path, gains, f"times as fast as the first row (line: the paper's {TABLE_3})", TABLE_3)
