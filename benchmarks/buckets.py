"""Eleven aspect ratios: what the model that was trained on them draws right, beside the model of square pictures at the same sizes.

    python -m rapiddraw bench buckets

PanGu-Draw, section 5 and Table 7, at an eighth of the paper's sizes. Both models draw the same prompts from the same noise. The judge reads
squares, so each picture is read in five squares along its long side, and the reading of which the judge is surest counts; renders of the
same scenes are read in the same way, and are the ceiling.
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from . import common
from .checks import CHOSEN, Basis, Expectation, above, at_least

if TYPE_CHECKING:
    from torch import Tensor

    from ..core.metrics.orchard import Parts

MODELS = {"buckets": "buckets-unet", "square": "unet"}
CFG, STEPS, BATCH, WINDOWS = 3.0, 20, 8, 5
SCALE, MULTIPLE = 0.125, 32


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `python -m rapiddraw bench buckets`."""
    parser.add_argument("--count", type=int, default=24, help="pictures a ratio and model (24)")


def expectations(args: argparse.Namespace) -> dict[str, Expectation]:
    """Return the expectations by key."""
    least = "attribute accuracy that buckets add to the square model, the ratio that gains least"
    mean = "attribute accuracy that buckets add to the square model, the mean of all ratios but the square"
    return {
        "least": Expectation(least, at_least(0), CHOSEN, Basis(args.count)),
        "mean": Expectation(mean, above(0), CHOSEN, Basis(10 * args.count)),
    }


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Measure and return the result (see :func:`common.result`)."""
    import numpy as np
    import torch

    from ..core.data.buckets import SQUARE, bucket_sizes
    from ..core.metrics.bootstrap import difference, smallest
    from ..core.metrics.orchard import AA_ATTRIBUTES, accuracy_by_picture, evaluation_scenes, prompts_for
    from ..core.orchard.render import render_wide
    from .shipped import shipped_judge, shipped_parts

    wanted, judge = expectations(args), shipped_judge()
    parts = {name: shipped_parts(unet) for name, unet in MODELS.items()}
    pairs = evaluation_scenes("seen", args.count)
    prompts, scenes = prompts_for(pairs), [scene for _, scene in pairs]
    encoded = {name: [one.host.clip.encode(one.clip, prompt)[0] for prompt in prompts] for name, one in parts.items()}
    rows: list[dict[str, Any]] = []
    found: dict[str, list[Any]] = {name: [] for name in MODELS}
    for height, width in bucket_sizes("structure", SCALE, MULTIPLE):
        renders = torch.stack([torch.from_numpy(render_wide(scene, height, width)) for scene in scenes])
        drawn = {name: draw(one, encoded[name], height, width) for name, one in parts.items()}
        row: dict[str, Any] = {"width x height": f"{width}x{height}", "pictures": args.count}
        for name, pictures in {**drawn, "renders": renders.permute(0, 3, 1, 2).float() / 127.5 - 1}.items():
            accuracy = accuracy_by_picture(read(judge, pictures), scenes, AA_ATTRIBUTES)
            row[f"AA, {name}"] = round(float(accuracy.mean()), 3)
            if name in found:
                found[name].append(accuracy)
        rows.append(row)
    gains = [difference(ours, square) for ours, square in zip(found["buckets"], found["square"], strict=True)]
    oblong = {name: np.concatenate([one for index, one in enumerate(every) if index != SQUARE]) for name, every in found.items()}
    checks = [wanted["least"].judge(smallest(gains)), wanted["mean"].judge(difference(oblong["buckets"], oblong["square"]))]
    notes = f"{args.count} pictures a ratio and model, {STEPS} steps of dpmpp_2m (simple), CFG {CFG:g}. AA: attribute accuracy."
    return common.result("buckets", f"python -m rapiddraw bench buckets --count {args.count}", rows, checks, notes=notes)


def draw(parts: Parts, conditions: list[Any], height: int, width: int) -> Tensor:
    """Return pictures (N, 3, height, width) in [-1, 1], one for each entry of a CONDITIONING.

    Number i starts from the same noise whichever model draws it, and whatever its condition is.
    """
    import torch

    from ..core.metrics.orchard import to_pictures
    from .shipped import sampling

    host, sample, done = parts.host, sampling(parts.host, CFG, STEPS, "simple"), []
    empty = host.clip.encode(parts.clip, "")[0]
    for first in range(0, len(conditions), BATCH):
        part = conditions[first : first + BATCH]
        latent = {"samples": torch.zeros(len(part), 4, height // 8, width // 8)}
        samples = sample(parts.model, joined(part), joined([empty] * len(part)), latent, first)
        done.append(to_pictures(host.vae.decode(parts.vae, samples)))
    return torch.cat(done)


def joined(encoded: list[Any]) -> list[Any]:
    """Return one CONDITIONING of a batch: the first row of tokens of each text, and their pooled states where they have one."""
    import torch

    length = min(tokens.shape[1] for tokens, _ in encoded)
    details = {}
    if all(isinstance(one.get("pooled_output"), torch.Tensor) for _, one in encoded):
        details["pooled_output"] = torch.cat([one["pooled_output"] for _, one in encoded])
    return [[torch.cat([tokens[:, :length] for tokens, _ in encoded]), details]]


def read(judge: Any, pictures: Tensor) -> dict[str, Tensor]:
    """Return the class indices (B,) by attribute that the judge reads in the square of which it is surest.

    How sure it is, is the mean over the attributes of the largest probability.
    """
    import torch

    side, (height, width) = min(pictures.shape[-2:]), pictures.shape[-2:]
    starts = [round(index * (max(height, width) - side) / (WINDOWS - 1)) for index in range(WINDOWS)]
    squares = [
        pictures[..., start : start + side] if width > height else pictures[..., start : start + side, :] for start in dict.fromkeys(starts)
    ]
    with torch.no_grad():
        logits = [judge(square) for square in squares]
    sure = torch.stack([torch.stack([one.softmax(1).amax(1) for one in window.values()]).mean(0) for window in logits])
    chosen = sure.argmax(0)
    each = torch.arange(len(pictures))
    return {name: torch.stack([window[name].argmax(1) for window in logits])[chosen, each] for name in logits[0]}
