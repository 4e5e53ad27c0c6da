"""The latent-space bridge over its strength d: whose attributes the picture shows, and what a fused step costs.

    python -m rapiddraw bench coop_latent

Model A draws 128 px in a latent space of factor 8 and 8 channels, model B 64 px in one of factor 4 and 4 channels. Table `prompts`: each is
asked for another fruit, and the judge says whose it sees. Seconds over A alone and over A and B, and the identities: d = 0 is A alone bit
for bit without a call of a VAE.
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

    from ..core.metrics.judge import attribute_accuracy, judge_pictures, load_judge
    from ..core.metrics.orchard import FRUIT, evaluation_scenes, prompts_for
    from ..core.paths import resolve_bundle

    count, steps = getattr(args, "count", None) or 16, getattr(args, "steps", None) or STEPS
    draw = Draw(steps)
    judge = load_judge(resolve_bundle("orchard-judge.safetensors", "judge"))
    pairs = [evaluation_scenes("seen", count, seed) for seed in (0, 1)]
    prompts, scenes = [prompts_for(one) for one in pairs], [[scene for _, scene in one] for one in pairs]
    alone, base = draw.alone(0, prompts[0])
    _, base_b = draw.alone(1, prompts[1])
    rows: list[dict[str, Any]] = []
    curve: dict[float, tuple[float, float]] = {}
    calls: dict[float, int] = {}
    cost: dict[float, float] = {}
    same = False
    for strength in STRENGTHS:
        latents, seconds = draw.both(strength, prompts)
        calls[strength], cost[strength] = draw.calls(), seconds
        same = bool(torch.equal(latents, alone)) if strength == 0 else same
        predicted, _ = judge_pictures(judge, draw.pictures(latents))
        curve[strength] = tuple(attribute_accuracy(predicted, of, FRUIT)["AA"] for of in scenes)  # type: ignore[assignment]
        shown = {"fruit AA of A's prompt": round(curve[strength][0], 3), "fruit AA of B's prompt": round(curve[strength][1], 3)}
        times = {"time over A alone": round(seconds / base, 2), "time over A + B": round(seconds / (base + base_b), 2)}
        rows.append({"table": "prompts", "d": strength, "pictures": count, **shown, "calls of a VAE": calls[strength], **times})
    fall, rise = curve[0.0][0] - curve[1.0][0], curve[1.0][1] - curve[0.0][1]
    apart = cost[0.0] / (base + base_b)
    checks = [
        common.check("d = 0 equals model A alone bit for bit", float(same), "1", same),
        common.check("calls of a VAE at d = 0", calls[0.0], "0", calls[0.0] == 0),
        common.check("fruit AA of A's prompt lost from d = 0 to 1", round(fall, 3), "> 0", fall > 0),
        common.check("fruit AA of B's prompt gained from d = 0 to 1", round(rise, 3), "> 0", rise > 0),
        common.check("time of a walk without fusion (d = 0) over A + B", round(apart, 2), "0.9 to 1.1", 0.9 <= apart <= 1.1),
    ]
    notes = f"{steps} steps of dpmpp_2m (karras), CFG {CFG:g}, fused to the end. At d = 1 model A is not asked."
    return common.result("coop_latent", "python -m rapiddraw bench coop_latent", rows, checks, notes=notes)


class Draw:
    """Walks of the two models, each by itself or together, and their VAEs' calls."""

    def __init__(self, steps: int) -> None:
        from ..core.host import current
        from ..core.knowledge.graph import load_knowledge
        from ..core.paths import resolve_bundle

        self.host = current()
        self.models, self.vaes = [], []
        for unet, vae in (("orchard-unet", "orchard-vae"), ("orchard-unet-64", "orchard-vae-f4")):
            names = ((unet, "unet"), ("orchard-text", "text"), (vae, "vae"))
            model, clip, loaded = self.host.load_bundles(*(resolve_bundle(f"{name}.safetensors", kind) for name, kind in names))
            self.models.append(model)
            self.vaes.append(Counting(loaded))
        self.clip = self.host.attach_knowledge(clip, load_knowledge(resolve_bundle("orchard-kg.safetensors", "kg")), 1.0)
        self.sampler, self.sigmas = self.host.named_sampler("dpmpp_2m"), self.host.calculate_sigmas(self.models[0], "karras", steps)

    def calls(self) -> int:
        """Calls of a VAE in the last :meth:`both`."""
        return sum(vae.calls for vae in self.vaes)

    def pictures(self, latents: Any, which: int = 0) -> Any:
        """(B, 3, side, side) in [-1, 1]."""
        return self.host.vae_decode(self.vaes[which].vae, latents).permute(0, 3, 1, 2) * 2 - 1

    def side(self, which: int, prompts: list[str]) -> Any:
        import torch

        from ..core.bridge.latent import Side

        tokens = torch.cat([self.host.encode_text(self.clip, prompt)[0][0] for prompt in prompts])
        against = self.host.encode_text(self.clip, "")[0][0].expand(len(prompts), -1, -1)
        return Side(self.models[which], self.vaes[which], [[tokens, {}]], [[against, {}]], CFG)

    def empty(self, which: int, count: int) -> dict[str, Any]:
        import torch

        return {"samples": torch.zeros(count, self.vaes[which].latent_channels, 16, 16)}

    def alone(self, which: int, prompts: list[str]) -> tuple[Any, float]:
        """(unscaled latents, seconds a picture) of one model by itself."""
        import torch

        drawn, seconds = [], 0.0
        for first in range(0, len(prompts), BATCH):
            side = self.side(which, prompts[first : first + BATCH])
            latent = self.empty(which, len(side.positive[0][0]))
            began = time.perf_counter()
            given = side.model, side.positive, side.negative, CFG, self.sampler, self.sigmas, latent, first
            drawn.append(self.host.sample_custom(*given)["samples"])
            seconds += time.perf_counter() - began
        return torch.cat(drawn), seconds / len(prompts)

    def both(self, strength: float, prompts: list[list[str]]) -> tuple[Any, float]:
        """(A's unscaled latents, seconds a picture) of both models under one sampler."""
        import torch

        from ..core.bridge.joint import LatentBridgeGuider, sample_bridged
        from ..core.bridge.latent import Fusion
        from ..core.host.embedded_latent import RandomNoise

        drawn, seconds = [], 0.0
        for vae in self.vaes:
            vae.calls = 0
        for first in range(0, len(prompts[0]), BATCH):
            a, b = (self.side(which, prompts[which][first : first + BATCH]) for which in (0, 1))
            latents = [self.empty(which, len(a.positive[0][0])) for which in (0, 1)]
            began = time.perf_counter()
            guider = LatentBridgeGuider(a, b, Fusion(strength, end=1.0))
            drawn.append(sample_bridged(guider, RandomNoise(first), self.sampler, self.sigmas, *latents)[0]["samples"])
            seconds += time.perf_counter() - began
        return torch.cat(drawn), seconds / len(prompts[0])


class Counting:
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
