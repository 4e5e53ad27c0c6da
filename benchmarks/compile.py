"""Whole text-to-image graph, one speed-up after the other: naive attention, fast attention, compiled, bf16.

    python -m rapiddraw bench compile

Rapid Diffusion's table 3 in our numbers: milliseconds of the text encoder, the U-Net loop (50 steps there and here), the decoder and
the upscaler. Beside them the quality: how far the picture of the same seed is from the first row's (largest pixel difference, PSNR), and
the attribute accuracy (AA) of further pictures drawn by the same parts at their own size, with the knowledge graph. Rows take turns in one
process. A gain is the median over the turns of one row's seconds over another row's in the same turn; the result keeps the seconds of
every turn. Each row adds to the one above, and leaves out what its probe found not to be faster. The time of compiling is not part of a
row; `first_picture_s` has it. In the first row the U-Net's attention is written out (softmax of q k^T), which is slower than ComfyUI's
default: `bench attention --graph` has the gain over that. The same rows for a U-Net of SD 1.5's size: `bench compile-sd15`.
"""

from __future__ import annotations

import argparse
import math
import statistics
import time
from pathlib import Path
from typing import Any

from ..core.metrics.bootstrap import Estimate, difference, smallest
from . import common
from .checks import CHOSEN, EARLIER, PAPER, Basis, Expectation, at_least, at_most, exact
from .stopwatch import Timing, gain_cells, ratio, timing, turns

TABLE_3 = 1.73
"""Gain of the paper's Table 3."""
SOURCE = "Rapid Diffusion, Table 3"
MOST_DECIBELS = 120.0  # the PSNR that is written for two equal pictures
ROWS = ("eager, naive attention", "+ attention", "+ compile, fast ESRGAN", "+ bf16")
PARTS = ("text encoder", "U-Net loop", "decoder", "upscaler")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `python -m rapiddraw bench compile`."""
    parser.add_argument("--steps", type=int, default=50, help="sampling steps (default 50, as in the paper)")
    parser.add_argument("--size", type=int, default=256, help="pixels a side before upscaling (default 256, as in the paper)")
    parser.add_argument("--repeats", type=int, default=11, help="measured pictures a row (default 11)")
    parser.add_argument("--budget", type=float, default=180.0, help="seconds of compiling allowed for each network (default 180)")
    parser.add_argument("--judged", type=int, default=8, help="pictures a row that the judge reads (default 8)")


def expectations(args: argparse.Namespace) -> dict[str, Expectation]:
    """Return the expectations by key."""
    claim = "largest difference of compiled from eager, of 255"
    return speed_expectations(args.repeats) | {
        "difference": Expectation(claim, at_most(1), CHOSEN, exact(1, "pictures")),
        "loss": Expectation("attribute accuracy lost with everything on", at_most(0.03), EARLIER, Basis(args.judged)),
    }


def speed_expectations(repeats: int) -> dict[str, Expectation]:
    """Return the expectations of speed by key, which `bench compile-sd15` shares."""
    timed = turns(repeats)
    return {
        "gain": Expectation("times as fast as the first row, everything on", at_least(TABLE_3), PAPER, timed, SOURCE),
        "least": Expectation("times as fast as the row above, the least of the rows", at_least(0.97), CHOSEN, timed),
    }


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Measure and return the result (see :func:`common.result`)."""
    import torch

    from ..core.attention.patch import AttentionPatch
    from ..core.bundles.find import resolve_bundle
    from ..core.host import Host
    from ..core.operations.compile import speed_up
    from ..core.speed.plan import Options
    from ..core.upscale.find import resolve_upscaler

    wanted, host = expectations(args), Host("embedded")
    names = ("orchard-unet.safetensors", "orchard-text.safetensors", "orchard-vae.safetensors")
    size, steps = args.size, args.steps
    rows: dict[str, dict[str, Any]] = {}
    for row in ROWS:  # each row has parts of its own, so that what one row learns does not help another
        model, clip, vae = host.load_bundles(*(resolve_bundle(name) for name in names))
        upscaler = host.upscale.load(resolve_upscaler("orchard-esrgan-x4.safetensors"))
        parts: dict[str, Any] = {"model": model, "clip": clip, "vae": vae, "upscale_model": upscaler}
        if row == ROWS[0]:
            parts["model"] = naive(model)
        else:
            patch = AttentionPatch()
            parts["model"], parts["vae"] = host.attention.patch_model(model, patch), host.attention.patch_vae(vae, patch)
        if row in ROWS[2:]:
            precision = "auto" if row == ROWS[3] else "keep"
            parts = speed_up(parts, Options(precision, "at once", args.budget))
        rows[row] = parts
    pictures, warm = {}, {}
    for row, parts in rows.items():
        started = time.perf_counter()
        pictures[row], _ = draw(host, parts, size, steps, row in ROWS[2:])
        warm[row] = time.perf_counter() - started
    taken: dict[str, list[dict[str, float]]] = {row: [] for row in ROWS}
    for turn in range(max(1, args.repeats)):
        for row in ROWS if turn % 2 == 0 else reversed(ROWS):
            taken[row].append(draw(host, rows[row], size, steps, row in ROWS[2:])[1])
    accuracy = judge_rows(rows, args.judged)
    first = pictures[ROWS[0]]
    table: list[dict[str, Any]] = []
    totals = {row: timing([sum(one.values()) for one in taken[row]]) for row in ROWS}
    above = gains_above(totals)
    for row in ROWS:
        table.append(
            {
                "setting": row,
                **{f"{part}_ms": round(statistics.median(one[part] for one in taken[row]) * 1000, 1) for part in PARTS},
                "total_ms": totals[row].milliseconds(),
                **gain_cells(ratio(totals[ROWS[0]], totals[row])),
                **({} if row == ROWS[0] else gain_cells(above[row], "over the row above")),
                "largest_difference_255": round(float((pictures[row] - first).abs().max()) * 255, 2),
                "PSNR_dB": "" if row == ROWS[0] else round(decibels(pictures[row], first), 1),
                "AA": round(float(accuracy[row].mean()), 3),
                "first_picture_s": round(warm[row], 1),
            }
        )
    checks = [
        wanted["gain"].judge(ratio(totals[ROWS[0]], totals[ROWS[-1]])),
        wanted["least"].judge(smallest(list(above.values()))),
        wanted["difference"].judge(table[2]["largest_difference_255"]),
        wanted["loss"].judge(difference(accuracy[ROWS[0]], accuracy[ROWS[-1]])),
    ]
    reports = {row: report(rows[row]) for row in ROWS[2:]}
    settings = {"size": size, "steps": steps, "threads": torch.get_num_threads()}
    turns = {row: [round(run, 4) for run in totals[row].runs] for row in ROWS}
    notes = (
        "Gains are over written-out attention, not over ComfyUI's default. In float32 little is left to gain on a CPU: convolutions, half "
        "of the U-Net's time, run at the rate of a plain matrix product, and written-out attention takes no more than a seventh at these "
        "sizes. The gain comes from bf16, whose products run at more than twice the rate where the processor has them, and from compiling "
        "the U-Net in one piece."
    )
    more = {"settings": settings, "reports": reports, "turns_s": turns, "notes": notes}
    return common.result("compile", "python -m rapiddraw bench compile", table, checks, **more)


def gains_above(totals: dict[str, Timing]) -> dict[str, Estimate]:
    """Return how many times as fast each row of :data:`ROWS` after the first is as the one above."""
    return {row: ratio(totals[above], totals[row]) for above, row in zip(ROWS, ROWS[1:], strict=False)}


def judge_rows(rows: dict[str, dict[str, Any]], count: int) -> dict[str, Any]:
    """Return the attribute accuracy (count,) of pictures drawn by each row's U-Net and VAE: the same scenes and noise, 20 steps."""
    from ..core.diffusion.samplers import SAMPLERS
    from ..core.metrics.sampling_runs import open_orchard

    orchard = open_orchard(count)
    found = {}
    for row, parts in rows.items():
        one = orchard.using(parts["model"], parts["vae"])
        found[row] = one.accuracy(one.runs.draw(SAMPLERS["euler"], one.runs.sigmas("simple", 20)).latents)
    return found


def decibels(picture: Any, reference: Any) -> float:
    """Return the PSNR of two IMAGEs in [0, 1]."""
    mean = float((picture - reference).pow(2).mean())
    return MOST_DECIBELS if mean <= 10 ** (-MOST_DECIBELS / 10) else -10 * math.log10(mean)


def draw(host: Any, parts: dict[str, Any], size: int, steps: int, fast_tiles: bool) -> tuple[Any, dict[str, float]]:
    """Return one picture and the seconds of each part. Without `fast_tiles` the upscaler takes the whole picture at once."""
    import torch

    from ..core.host import SamplingRun
    from ..core.upscale.tiles import upscale

    seconds: dict[str, float] = {}
    latent = {"samples": torch.zeros(1, 4, size // 8, size // 8), "downscale_ratio_spacial": 8}
    clock = time.perf_counter()

    def done(part: str) -> None:
        nonlocal clock
        now = time.perf_counter()
        seconds[part], clock = now - clock, now

    with torch.no_grad():
        positive = host.clip.encode(parts["clip"], "a photo of a round red fruit on snow by day")
        negative = host.clip.encode(parts["clip"], "")
        done(PARTS[0])
        guider = host.sampling.make_guider(parts["model"], positive, negative, 4.0)
        drawn = host.sampling.sample(guider, latent, SamplingRun(8, steps, "euler", "simple"))
        done(PARTS[1])
        image = host.vae.decode(parts["vae"], drawn["samples"])
        done(PARTS[2])
        upscaler = parts["upscale_model"]
        image = upscale(upscaler, image) if fast_tiles else upscaler(image.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        done(PARTS[3])
    return image, seconds


def naive(model: Any) -> Any:
    """Return a clone of a MODEL whose attention is softmax(q k^T / sqrt d) v, written out: torch's eager mode before fused kernels."""
    import torch
    from einops import rearrange

    def attention(func: Any, q: Any, k: Any, v: Any, heads: int, mask: Any = None, skip_reshape: bool = False, **_: Any) -> Any:
        if mask is not None or skip_reshape:
            return func(q, k, v, heads, mask, skip_reshape=skip_reshape, **_)
        q, k, v = (rearrange(t, "b n (h d) -> b h n d", h=heads) for t in (q, k, v))
        weights = torch.softmax(q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5, dim=-1)
        return rearrange(weights @ v, "b h n d -> b n (h d)")

    clone = model.clone()
    clone.model_options.setdefault("transformer_options", {})["optimized_attention_override"] = attention
    return clone


def report(parts: dict[str, Any]) -> str:
    """Return what the Compile node would report of these parts."""
    from ..core.operations.compile import report_of

    return report_of(parts["model"])


def plot(outcome: dict[str, Any], path: Path) -> None:
    """Draw a bar of each row's time, its parts end to end."""
    from .plots import bars

    bars(path, {row["setting"]: {part: row[f"{part}_ms"] for part in PARTS} for row in outcome["rows"]}, "milliseconds a picture")
