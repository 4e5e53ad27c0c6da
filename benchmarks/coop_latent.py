"""The latent-space bridge over its strength d: whose attributes the picture shows, and what a fused step costs.

    python -m rapiddraw bench coop_latent

Model A is asked for one fruit, model B for another; both are the shipped model, with two prompts, in two roles. Fruit AA against either
prompt over d, seconds over model A alone, and the identities: d = 0 is A alone bit for bit without a call of a VAE. What the paper shows
with a ControlNet of another latent space needs a control model, which is not among the shipped ones.
"""

from __future__ import annotations

import argparse
import time
from typing import Any

from . import common

CFG, STEPS, BATCH = 4.0, 16, 8
STRENGTHS = (0.0, 0.25, 0.5, 0.75, 1.0)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `python -m rapiddraw bench coop_latent`."""
    parser.add_argument("--count", type=int, default=16, help="pictures a strength (16)")
    parser.add_argument("--steps", type=int, default=STEPS, help=f"steps of a walk ({STEPS})")


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Measure and return the result (see :func:`common.result`)."""
    import torch

    from ..core.bridge.joint import LatentBridgeGuider, sample_bridged
    from ..core.bridge.latent import Fusion, Side
    from ..core.host import current
    from ..core.host.embedded_latent import RandomNoise
    from ..core.knowledge.graph import load_knowledge
    from ..core.metrics.judge import attribute_accuracy, judge_pictures, load_judge
    from ..core.metrics.orchard import FRUIT, evaluation_scenes, prompts_for
    from ..core.paths import resolve_bundle

    count, steps = getattr(args, "count", None) or 16, getattr(args, "steps", None) or STEPS
    host = current()
    model, clip, vae = host.load_bundles(*(resolve_bundle(f"orchard-{kind}.safetensors", kind) for kind in ("unet", "text", "vae")))
    clip = host.attach_knowledge(clip, load_knowledge(resolve_bundle("orchard-kg.safetensors", "kg")), 1.0)
    judge = load_judge(resolve_bundle("orchard-judge.safetensors", "judge"))
    pairs = [evaluation_scenes("seen", count, seed) for seed in (0, 1)]
    prompts, scenes = [prompts_for(one) for one in pairs], [[scene for _, scene in one] for one in pairs]
    sampler, sigmas = host.named_sampler("dpmpp_2m"), host.calculate_sigmas(model, "karras", steps)
    spy = _Counting(vae)

    def side(which: int, first: int) -> Side:
        part = prompts[which][first : first + BATCH]
        tokens = torch.cat([host.encode_text(clip, prompt)[0][0] for prompt in part])
        against = host.encode_text(clip, "")[0][0].expand(len(part), -1, -1)
        return Side(model, spy, [[tokens, {}]], [[against, {}]], CFG)

    def draw(strength: float | None) -> tuple[Any, float]:
        """(unscaled latents, seconds a picture); None is model A by itself."""
        drawn, seconds = [], 0.0
        for first in range(0, count, BATCH):
            a, b = side(0, first), side(1, first)
            latent = {"samples": torch.zeros(a.positive[0][0].shape[0], 4, 16, 16)}
            began = time.perf_counter()
            if strength is None:
                out = host.sample_custom(model, a.positive, a.negative, CFG, sampler, sigmas, latent, first)
            else:
                guider = LatentBridgeGuider(a, b, Fusion(strength, end=1.0))
                out = sample_bridged(guider, RandomNoise(first), sampler, sigmas, latent, None)[0]
            seconds += time.perf_counter() - began
            drawn.append(out["samples"])
        return torch.cat(drawn), seconds / count

    alone, base = draw(None)
    rows: list[dict[str, Any]] = []
    curve: dict[float, tuple[float, float]] = {}
    calls: dict[float, int] = {}
    cost: dict[float, float] = {}
    same = False
    for strength in STRENGTHS:
        spy.calls = 0
        latents, seconds = draw(strength)
        calls[strength], cost[strength] = spy.calls, seconds / base
        same = bool(torch.equal(latents, alone)) if strength == 0 else same
        predicted, _ = judge_pictures(judge, host.vae_decode(vae, latents).permute(0, 3, 1, 2) * 2 - 1)
        curve[strength] = tuple(attribute_accuracy(predicted, of, FRUIT)["AA"] for of in scenes)  # type: ignore[assignment]
        shown = {"fruit AA of A's prompt": round(curve[strength][0], 3), "fruit AA of B's prompt": round(curve[strength][1], 3)}
        rows.append(
            {"d": strength, "pictures": count, **shown, "calls of a VAE": calls[strength], "time over A alone": round(cost[strength], 2)}
        )
    fall, rise = curve[0.0][0] - curve[1.0][0], curve[1.0][1] - curve[0.0][1]
    checks = [
        common.check("d = 0 equals model A alone bit for bit", float(same), "1", same),
        common.check("Calls of a VAE at d = 0", calls[0.0], "0", calls[0.0] == 0),
        common.check("Fruit AA of A's prompt lost from d = 0 to 1", round(fall, 3), "> 0", fall > 0),
        common.check("Fruit AA of B's prompt gained from d = 0 to 1", round(rise, 3), "> 0", rise > 0),
        common.check("Time of a walk without fusion (d = 0) over A alone", round(cost[0.0], 2), "about 2 (A + B)", 1.5 <= cost[0.0] <= 2.5),
    ]
    notes = f"{steps} steps of dpmpp_2m (karras), CFG {CFG:g}, fused to the end. At d = 1 model A is not asked."
    return common.result("coop_latent", "python -m rapiddraw bench coop_latent", rows, checks, notes=notes)


class _Counting:
    """A VAE that counts what is asked of it."""

    def __init__(self, vae: Any) -> None:
        self.vae, self.calls, self.latent_channels = vae, 0, vae.latent_channels

    def spacial_compression_encode(self) -> int:
        return self.vae.spacial_compression_encode()

    def decode(self, latent: Any) -> Any:
        self.calls += 1
        return self.vae.decode(latent)

    def encode(self, pixels: Any) -> Any:
        self.calls += 1
        return self.vae.encode(pixels)
