"""Is style guidance a dial? How often the judge takes pictures of a photo's prompt for cartoons, over style_scale.

PanGu-Draw, figure 9. The shipped model, whose captions call flat pictures a cartoon; the same prompts and noise at every scale.
"""

from __future__ import annotations

import argparse
from typing import Any

from . import common

SCALES = (-2.0, 0.0, 1.0, 2.0, 4.0, 6.0)
CFG, STEPS, SIDE, SLACK = 3.0, 20, 128, 0.02


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--count", type=int, default=64, help="pictures a scale (64)")


def run(args: argparse.Namespace) -> dict[str, Any]:
    import torch

    from ..core.bundles.find import resolve_bundle
    from ..core.host import SamplingRun, current
    from ..core.knowledge.graph import load_knowledge
    from ..core.metrics.orchard import AA_ATTRIBUTES, evaluation_scenes
    from ..core.orchard.captions import name_caption
    from ..core.orchard.world import ATTRIBUTES
    from ..core.scoring.judge import attribute_accuracy, judge_pictures, load_judge

    host = current()
    model, clip, vae = host.load_bundles(*(resolve_bundle(f"orchard-{kind}.safetensors", kind) for kind in ("unet", "text", "vae")))
    clip = host.knowledge.attach(clip, load_knowledge(resolve_bundle("orchard-kg.safetensors", "kg")), 1.0)
    judge = load_judge(resolve_bundle("orchard-judge.safetensors", "judge"))
    pairs = evaluation_scenes("seen", args.count)
    prompts = [name_caption(scene, entity) for entity, scene in pairs]
    styled = [prompt.replace("a photo of", "a cartoon of", 1) for prompt in prompts]
    negative = host.clip.encode(clip, "")
    cartoon = ATTRIBUTES["style"].index("cartoon")

    def tokens(texts: list[str]) -> list[list[Any]]:
        return [[torch.cat([host.clip.encode(clip, text)[0][0] for text in texts]), {}]]

    rows, shares = [], {}
    for scale in SCALES:
        pictures = []
        for first in range(0, args.count, 16):
            part = slice(first, first + 16)
            moved = host.style.guide(model, tokens(styled[part]), scale, 0.0, 1.0)
            count = len(prompts[part])
            latent = {"samples": torch.zeros(count, 4, SIDE // 8, SIDE // 8)}
            against = [[negative[0][0].expand(count, -1, -1), {}]]
            drawn = host.sampling.sample(
                host.sampling.make_guider(moved, tokens(prompts[part]), against, CFG),
                latent,
                SamplingRun(first, STEPS, "dpmpp_2m", "simple"),
            )
            pictures.append(host.vae.decode(vae, drawn["samples"]).permute(0, 3, 1, 2) * 2 - 1)
        predicted, _ = judge_pictures(judge, torch.cat(pictures))
        shares[scale] = float((predicted["style"] == cartoon).float().mean())
        accuracy = attribute_accuracy(predicted, [scene for _, scene in pairs], AA_ATTRIBUTES)["AA"]
        rows.append({"style_scale": scale, "cartoons": round(shares[scale], 3), "AA": round(accuracy, 3), "pictures": args.count})
    steps = [shares[b] - shares[a] for a, b in zip(SCALES, SCALES[1:], strict=False)]
    gain = shares[SCALES[-1]] - shares[0.0]
    checks = [
        common.check("smallest rise of the share of cartoons from one scale to the next", round(min(steps), 3), f"at least -{SLACK}",
                     min(steps) >= -SLACK),
        common.check("share of cartoons that the largest scale adds", round(gain, 3), "at least 0.2", gain >= 0.2),
    ]  # fmt: skip
    notes = (
        f"{args.count} pictures a scale, {STEPS} steps of dpmpp_2m (simple), CFG {CFG:g}; the prompts ask for a photo, the style for a "
        "cartoon."
    )
    return common.result("style", f"python -m rapiddraw bench style --count {args.count}", rows, checks, notes=notes)
