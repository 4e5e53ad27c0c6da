"""A picture as the prompt: how much of a render the shipped image tokens bring into a new picture.

    python -m rapiddraw bench image_variation

PanGu-Draw, section 5.2, fuses such an image-variation model with its own. Each row draws the same scenes from the same noise. "picture" has
the tokens of the scene's render and no text. "another picture" has those of the next scene: what is right by chance, or because all Orchard
pictures are alike. "name" has the text alone; "name and picture" has both.
"""

from __future__ import annotations

import argparse
from typing import Any

from . import common
from .buckets import CFG, STEPS, draw
from .checks import CHOSEN, Basis, Expectation, at_least

SIDE = 128
ROWS = ("picture", "another picture", "name", "name and picture")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `python -m rapiddraw bench image_variation`."""
    parser.add_argument("--count", type=int, default=64, help="pictures a row (64)")


def expectations(args: argparse.Namespace) -> dict[str, Expectation]:
    """Return the expectations by key."""
    basis = Basis(args.count)
    gain = "attribute accuracy of the fruit that its own picture adds to another picture"
    kept = "attribute accuracy of the fruit that a picture beside the name adds to the name alone"
    return {"gain": Expectation(gain, at_least(0.2), CHOSEN, basis), "kept": Expectation(kept, at_least(-0.05), CHOSEN, basis)}


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Measure and return the result (see :func:`common.result`)."""
    from ..core.bundles.find import resolve_bundle
    from ..core.metrics.bootstrap import difference
    from ..core.metrics.orchard import AA_ATTRIBUTES, FRUIT, accuracy_by_picture, evaluation_scenes, prompts_for, render_batch
    from ..core.scoring.judge import judge_pictures
    from ..core.text.image_tokens import encode_variation
    from .shipped import shipped, shipped_judge, shipped_parts

    wanted, parts, judge = expectations(args), shipped_parts(), shipped_judge()
    tokens, tower = shipped("image-tokens", "image_tokens"), resolve_bundle("pretrained-orchard-image.safetensors", "image")
    pairs = evaluation_scenes("seen", args.count)
    prompts, scenes = prompts_for(pairs), [scene for _, scene in pairs]
    images = (render_batch(scenes, SIDE).permute(0, 2, 3, 1) + 1) / 2
    named = [parts.host.clip.encode(parts.clip, prompt) for prompt in prompts]

    def conditions(row: str) -> list[Any]:
        if row == "name":
            return [one[0] for one in named]
        shown = images.roll(-1, 0) if row == "another picture" else images
        texts = named if row == "name and picture" else [None] * args.count
        return [encode_variation(image[None], tokens, tower, 1.0, text)[0] for image, text in zip(shown, texts, strict=True)]

    rows, fruit = [], {}
    for row in ROWS:
        predicted, _ = judge_pictures(judge, draw(parts, conditions(row), SIDE, SIDE))
        fruit[row] = accuracy_by_picture(predicted, scenes, FRUIT)
        accuracy = accuracy_by_picture(predicted, scenes, AA_ATTRIBUTES)
        shares = {"AA": round(float(accuracy.mean()), 3), "fruit AA": round(float(fruit[row].mean()), 3)}
        rows.append({"prompt": row, **shares, "pictures": args.count})
    checks = [
        wanted["gain"].judge(difference(fruit["picture"], fruit["another picture"])),
        wanted["kept"].judge(difference(fruit["name and picture"], fruit["name"])),
    ]
    notes = f"{args.count} pictures a row, {STEPS} steps of dpmpp_2m (simple), CFG {CFG:g}, strength 1. AA: attribute accuracy."
    return common.result("image_variation", f"python -m rapiddraw bench image_variation --count {args.count}", rows, checks, notes=notes)
