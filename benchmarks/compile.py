"""The whole text-to-image graph, one speed-up after the other: naive attention, fast attention, compiled, bf16.

    python -m rapiddraw bench compile

Rapid Diffusion's table 3 in our numbers: milliseconds of the text encoder, the U-Net loop (50 steps there and here), the decoder and
the upscaler. Beside them the quality: how far the picture of the same seed is from the first row's (largest pixel difference, PSNR), and
what the Orchard's judge reads back from further pictures drawn by the same parts at their own size, with the knowledge graph (AA, FID-A).
Rows take turns in one process. Gains are medians over the turns of a row's seconds against those of another row in the same turn; the
seconds of every turn are kept in the result. Each row adds to the one above, and leaves out what its probe found not to be faster;
compiling itself is not counted, and is written beside the table. In the first row the U-Net's attention is written out; text encoder and
VAE have hardly any. The same rows for a U-Net of SD 1.5's size: `bench compile-sd15`.
"""

from __future__ import annotations

import argparse
import math
import statistics
import time
from pathlib import Path
from typing import Any

from . import common
from .stopwatch import Timing, ratio, timing

PAPER = 1.73
AA_LOSS = 0.03
MOST_DECIBELS = 120.0  # what two equal pictures count as
ROWS = ("eager, naive attention", "+ attention", "+ compile, fast ESRGAN", "+ bf16")
PARTS = ("text encoder", "U-Net loop", "decoder", "upscaler")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `python -m rapiddraw bench compile`."""
    parser.add_argument("--steps", type=int, default=50, help="sampling steps (default 50, as in the paper)")
    parser.add_argument("--size", type=int, default=256, help="pixels a side before upscaling (default 256, as in the paper)")
    parser.add_argument("--repeats", type=int, default=11, help="measured pictures a row (default 11)")
    parser.add_argument("--budget", type=float, default=180.0, help="seconds of compiling allowed for each network (default 180)")
    parser.add_argument("--judged", type=int, default=8, help="pictures a row that the judge reads (default 8)")


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Measure and return the result (see :func:`common.result`)."""
    import torch

    from ..core.attention.patch import AttentionPatch
    from ..core.bundles.find import resolve_bundle
    from ..core.host import Host
    from ..core.operations.compile import speed_up
    from ..core.speed.plan import Options
    from ..core.upscale.find import resolve_upscaler

    host = Host("embedded")
    names = ("orchard-unet.safetensors", "orchard-text.safetensors", "orchard-vae.safetensors")
    size, steps = args.size, args.steps
    rows: dict[str, dict[str, Any]] = {}
    for row in ROWS:  # parts of its own for each row: what one learns must not help another
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
    judged = judge_rows(rows, args.judged)
    first = pictures[ROWS[0]]
    table: list[dict[str, Any]] = []
    totals = {row: timing([sum(one.values()) for one in taken[row]]) for row in ROWS}
    gains = {row: ratio(totals[ROWS[0]], totals[row]) for row in ROWS}
    for row in ROWS:
        table.append(
            {
                "setting": row,
                **{f"{part}_ms": round(statistics.median(one[part] for one in taken[row]) * 1000, 1) for part in PARTS},
                "total_ms": totals[row].milliseconds(),
                "gain": round(gains[row], 3),
                "largest_difference_255": round(float((pictures[row] - first).abs().max()) * 255, 2),
                "PSNR_dB": "" if row == ROWS[0] else round(decibels(pictures[row], first), 1),
                **judged[row],
                "first_picture_s": round(warm[row], 1),
            }
        )
    lost = judged[ROWS[0]]["AA"] - judged[ROWS[-1]]["AA"]
    last = gains[ROWS[-1]]
    checks = [
        common.check("times as fast as the first row, everything on", last, f"at least {PAPER} (the paper's)", last >= PAPER),
        never_slower(totals),
        common.check(
            "largest difference of compiled from eager, of 255", table[2]["largest_difference_255"], "at most 1",
            table[2]["largest_difference_255"] <= 1,
        ),
        common.check("AA lost with everything on", round(lost, 3), f"at most {AA_LOSS}", lost <= AA_LOSS),
    ]  # fmt: skip
    reports = {row: report(rows[row]) for row in ROWS[2:]}
    settings = {"size": size, "steps": steps, "threads": torch.get_num_threads()}
    turns = {row: [round(run, 4) for run in totals[row].runs] for row in ROWS}
    notes = (
        "In float32 little is left to gain on a CPU: convolutions, half of the U-Net's time, run at the rate of a plain matrix product, "
        "and written-out attention takes no more than a seventh at these sizes. What gains is bf16, whose products run at more than twice "
        "the rate where the processor has them, and compiling the U-Net in one piece."
    )
    more = {"settings": settings, "reports": reports, "turns_s": turns, "notes": notes}
    return common.result("compile", "python -m rapiddraw bench compile", table, checks, **more)


def never_slower(totals: dict[str, Timing]) -> dict[str, Any]:
    """The check that each row of :data:`ROWS` is at least as fast as the one above."""
    least = min(ratio(totals[above], totals[row]) for above, row in zip(ROWS, ROWS[1:], strict=False))
    return common.check("the least gain of a row over the one above", round(least, 3), "at least 0.97", least >= 0.97)


def judge_rows(rows: dict[str, dict[str, Any]], count: int) -> dict[str, dict[str, float]]:
    """AA and FID-A of `count` pictures drawn by each row's U-Net and VAE: the same scenes and noise, 20 steps."""
    from ..core.diffusion.samplers import SAMPLERS
    from ..core.metrics.walks import OrchardWalks, open_orchard

    orchard = open_orchard(count)
    found = {}
    for row, parts in rows.items():
        walks = orchard.walks.using(parts["model"])
        latents = walks.draw(SAMPLERS["euler"], walks.sigmas("simple", 20)).latents
        found[row] = OrchardWalks(walks, parts["vae"], orchard.judge, orchard.scenes, orchard.real).quality(latents)
    return found


def decibels(picture: Any, reference: Any) -> float:
    """PSNR of two IMAGEs in [0, 1]."""
    mean = float((picture - reference).pow(2).mean())
    return MOST_DECIBELS if mean <= 10 ** (-MOST_DECIBELS / 10) else -10 * math.log10(mean)


def draw(host: Any, parts: dict[str, Any], size: int, steps: int, fast_tiles: bool) -> tuple[Any, dict[str, float]]:
    """One picture and the seconds of each part. Without `fast_tiles` the upscaler takes the whole picture at once, as it is."""
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
        drawn = host.sampling.sample(
            host.sampling.make_guider(parts["model"], positive, negative, 4.0), latent, SamplingRun(8, steps, "euler", "simple")
        )
        done(PARTS[1])
        image = host.vae.decode(parts["vae"], drawn["samples"])
        done(PARTS[2])
        upscaler = parts["upscale_model"]
        image = upscale(upscaler, image) if fast_tiles else upscaler(image.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        done(PARTS[3])
    return image, seconds


def naive(model: Any) -> Any:
    """A clone of a MODEL whose attention is softmax(q k^T / sqrt d) v, written out: torch's eager mode before fused kernels."""
    import torch

    def attention(func: Any, q: Any, k: Any, v: Any, heads: int, mask: Any = None, skip_reshape: bool = False, **_: Any) -> Any:
        if mask is not None or skip_reshape:
            return func(q, k, v, heads, mask, skip_reshape=skip_reshape, **_)
        batch, tokens, width = q.shape
        q, k, v = (t.reshape(batch, -1, heads, width // heads).transpose(1, 2) for t in (q, k, v))
        weights = torch.softmax(q @ k.transpose(-1, -2) * (width // heads) ** -0.5, dim=-1)
        return (weights @ v).transpose(1, 2).reshape(batch, tokens, width)

    clone = model.clone()
    clone.model_options.setdefault("transformer_options", {})["optimized_attention_override"] = attention
    return clone


def report(parts: dict[str, Any]) -> str:
    """What the Compile node would report of these parts."""
    from ..core.operations.compile import report_of

    return report_of(parts["model"])


def plot(outcome: dict[str, Any], path: Path) -> None:
    """Bars of each row's time, its parts side by side."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    rows = outcome["rows"]
    figure, axes = pyplot.subplots(figsize=(7, 3))
    left = [0.0] * len(rows)
    for part in PARTS:
        widths = [row[f"{part}_ms"] for row in rows]
        axes.barh([row["setting"] for row in rows], widths, left=left, label=part)
        left = [a + b for a, b in zip(left, widths, strict=True)]
    axes.invert_yaxis()
    axes.set_xlabel("milliseconds a picture")
    axes.legend()
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    pyplot.close(figure)
