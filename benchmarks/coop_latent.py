"""The latent-space bridge over its strength d: whose attributes the picture shows, and what a fused step costs.

    python -m rapiddraw bench coop_latent

Model A draws 128 px in a latent space of factor 8 and 8 channels, model B 64 px in one of factor 4 and 4 channels.

`prompts`: each is asked for another fruit, and the judge says whose it sees. Seconds over A alone and over A and B, and the identities:
d = 0 is A alone bit for bit without a call of a VAE. `edges`: A has the text, B in guess mode (no prompt) a control adapter of its own
space with the edges of a scene of that text. `halves`: two control adapters, each with the edges of one half of a picture and a prompt of
its own, against the stock way, both chained on one prompt. The last two are left out where there is no adapter.
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
    parser.add_argument("--count", type=int, default=8, help="pictures a strength (8)")
    parser.add_argument("--steps", type=int, default=STEPS, help=f"steps of a walk ({STEPS})")


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Measure and return the result (see :func:`common.result`)."""
    import torch

    from ..core.bundles.find import resolve_bundle
    from ..core.metrics.orchard import FRUIT, evaluation_scenes, prompts_for
    from ..core.scoring.judge import attribute_accuracy, judge_pictures, load_judge

    count, steps = getattr(args, "count", None) or 8, getattr(args, "steps", None) or STEPS
    draw = Draw(steps)
    judge = load_judge(resolve_bundle("orchard-judge.safetensors", "judge"))
    pairs = [evaluation_scenes("seen", count, seed) for seed in (0, 1)]
    prompts, scenes = [prompts_for(one) for one in pairs], [[scene for _, scene in one] for one in pairs]
    sides = [[draw.side(which, prompts[which][first : first + BATCH]) for which in (0, 1)] for first in range(0, count, BATCH)]
    alone, base = draw.alone([pair[0] for pair in sides])
    _, base_b = draw.alone([pair[1] for pair in sides])
    rows: list[dict[str, Any]] = []
    curve: dict[float, tuple[float, float]] = {}
    calls: dict[float, int] = {}
    cost: dict[float, float] = {}
    same = False
    for strength in STRENGTHS:
        latents, seconds = draw.both(strength, sides)
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
    if draw.control is not None:
        for part in (_edges(draw, judge, prompts[0], scenes[0]), _halves(draw, judge, count)):
            rows += part[0]
            checks += part[1]
    notes = f"{steps} steps of dpmpp_2m (karras), CFG {CFG:g}, fused to the end. At d = 1 model A is not asked."
    return common.result("coop_latent", f"python -m rapiddraw bench coop_latent --count {count}", rows, checks, notes=notes)


def _edges(draw: Draw, judge: Any, prompts: list[str], scenes: list[Any]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Rows and checks of table `edges`."""
    from ..core.control.maps import canny
    from ..core.metrics.control import edge_nmse
    from ..core.metrics.orchard import FRUIT, render_batch
    from ..core.scoring.judge import attribute_accuracy, judge_pictures

    renders = (render_batch(scenes, 128) + 1) / 2
    wanted, pairs = canny(renders), []
    for first in range(0, len(prompts), BATCH):
        part = slice(first, first + BATCH)
        guess, _ = draw.steered(draw.side(1, [""] * len(prompts[part])), renders[part])
        pairs.append((draw.side(0, prompts[part]), guess))
    rows, follows, shows = [], {}, {}
    for strength in STRENGTHS:
        pictures = draw.pictures(draw.both(strength, pairs)[0])
        found = canny((pictures.clamp(-1, 1) + 1) / 2)
        shows[strength] = attribute_accuracy(judge_pictures(judge, pictures)[0], scenes, FRUIT)["AA"]
        follows[strength] = agreement(found, wanted)
        error = float(edge_nmse(found, wanted).nanmean())
        shown = {"fruit AA of A's prompt": round(shows[strength], 3), "edge agreement": round(follows[strength], 3)}
        rows.append({"table": "edges", "d": strength, "pictures": len(prompts), **shown, "edge NMSE": round(error, 3)})
    gain, loss = follows[1.0] - follows[0.0], shows[0.0] - shows[0.5]
    return rows, [
        common.check("edge agreement gained from d = 0 to 1", round(gain, 3), "> 0", gain > 0),
        common.check("edge agreement gained from d = 0 to 0.5", round(half := follows[0.5] - follows[0.0], 3), "> 0", half > 0),
        common.check("fruit AA of the text lost from d = 0 to 0.5", round(loss, 3), "at most 0.1", loss <= 0.1),
    ]


def _halves(draw: Draw, judge: Any, count: int) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Rows and checks of table `halves`: pictures of 128 x 64 px, a fruit in each half."""
    import torch

    from ..core.metrics.orchard import FRUIT, evaluation_scenes, prompts_for, render_batch
    from ..core.scoring.judge import attribute_accuracy, judge_pictures

    scenes, prompts, edges = [], [], []
    for half in (0, 1):
        pairs = evaluation_scenes("seen", count, 2 + half)
        scenes.append([scene for _, scene in pairs])
        prompts.append(prompts_for(pairs))
        renders = (render_batch(scenes[half], 128) + 1) / 2
        nothing = torch.zeros_like(renders)  # without an edge
        edges.append(torch.cat([renders, nothing] if half == 0 else [nothing, renders], 3))
    bridged, chained = [], []
    for first in range(0, count, BATCH):
        part = slice(first, first + BATCH)
        bridged.append([draw.steered(draw.side(1, prompts[half][part]), edges[half][part])[0] for half in (0, 1)])
        both = draw.side(1, [f"{one}, {other}" for one, other in zip(prompts[0][part], prompts[1][part], strict=True)])
        chained.append(draw.steered(both, edges[1][part], draw.steered(both, edges[0][part])[1])[0])
    ways = {"bridge, d = 0.5": draw.both(0.5, bridged, 32)[0], "chained on one prompt": draw.alone(chained, 32)[0]}
    rows, shows = [], {}
    for way, latents in ways.items():
        each = draw.pictures(latents, 1).chunk(2, dim=3)
        scores = [attribute_accuracy(judge_pictures(judge, picture)[0], of, FRUIT)["AA"] for picture, of in zip(each, scenes, strict=True)]
        shows[way] = sum(scores) / 2
        rows.append({"table": "halves", "way": way, "pictures": count, "fruit AA, left": round(scores[0], 3),
                     "fruit AA, right": round(scores[1], 3)})  # fmt: skip
    gain = shows["bridge, d = 0.5"] - shows["chained on one prompt"]
    return rows, [common.check("fruit AA of a half that the bridge gains over chaining", round(gain, 3), "> 0", gain > 0)]


def agreement(found: Any, wanted: Any, slack: int = 2) -> float:
    """F-score of edges (B, H, W) in {0, 1}: an edge counts as met where the other map has one within `slack` pixels."""
    from torch.nn import functional

    near = [functional.max_pool2d(edges[:, None], 2 * slack + 1, 1, slack)[:, 0] for edges in (found, wanted)]
    precision, recall = float((found * near[1]).sum() / found.sum().clamp(min=1)), float((wanted * near[0]).sum() / wanted.sum())
    return 2 * precision * recall / max(precision + recall, 1e-9)


class Draw:
    """Walks of the two models, each by itself or together, and their VAEs' calls."""

    def __init__(self, steps: int) -> None:
        from ..core.bundles.find import list_bundles, resolve_bundle
        from ..core.host import current
        from ..core.knowledge.graph import load_knowledge

        self.host = current()
        self.models, self.vaes = [], []
        for unet, vae in (("orchard-unet", "orchard-vae"), ("orchard-unet-64", "orchard-vae-f4")):
            names = ((unet, "unet"), ("orchard-text", "text"), (vae, "vae"))
            model, clip, loaded = self.host.load_bundles(*(resolve_bundle(f"{name}.safetensors", kind) for name, kind in names))
            self.models.append(model)
            self.vaes.append(Counting(loaded))
        self.control: Any = None
        if "orchard-control-64.safetensors" in list_bundles("control"):
            self.control = self.host.control.load(resolve_bundle("orchard-control-64.safetensors", "control"), "edges")
        self.clip = self.host.knowledge.attach(clip, load_knowledge(resolve_bundle("orchard-kg.safetensors", "kg")), 1.0)
        self.sampler, self.sigmas = (
            self.host.sampling.named_sampler("dpmpp_2m"),
            self.host.sampling.calculate_sigmas(self.models[0], "karras", steps),
        )

    def calls(self) -> int:
        """Calls of a VAE in the last :meth:`both`."""
        return sum(vae.calls for vae in self.vaes)

    def pictures(self, latents: Any, which: int = 0) -> Any:
        """(B, 3, side, side) in [-1, 1]."""
        return self.host.vae.decode(self.vaes[which].vae, latents).permute(0, 3, 1, 2) * 2 - 1

    def side(self, which: int, prompts: list[str]) -> Any:
        import torch

        from ..core.bridge.side import Side

        tokens = torch.cat([self.host.clip.encode(self.clip, prompt)[0][0] for prompt in prompts])
        against = self.host.clip.encode(self.clip, "")[0][0].expand(len(prompts), -1, -1)
        return Side(self.models[which], self.vaes[which], [[tokens, {}]], [[against, {}]], CFG)

    def empty(self, which: int, count: int, width: int = 16) -> dict[str, Any]:
        import torch

        return {"samples": torch.zeros(count, self.vaes[which].latent_channels, 16, width)}

    def steered(self, side: Any, pictures: Any, chained: Any = None) -> tuple[Any, Any]:
        """(`side` with the edges of `pictures` (B, 3, H, W) in [0, 1] on its positive prompt, the control), after `chained` if given."""
        from dataclasses import replace

        from ..core.control.maps import canny

        hint = canny(pictures)[:, None].expand(-1, 3, -1, -1)
        control = self.control.copy().set_cond_hint(hint, 1.0, (0.0, 1.0)).set_previous_controlnet(chained)
        return replace(side, positive=[[tokens, {**more, "control": control}] for tokens, more in side.positive]), control

    def alone(self, sides: list[Any], width: int = 16) -> tuple[Any, float]:
        """(unscaled latents, seconds a picture) of one model by itself, a batch a side."""
        import torch

        drawn, seconds = [], 0.0
        for number, side in enumerate(sides):
            latent = self.empty(self.models.index(side.model), len(side.positive[0][0]), width)
            began = time.perf_counter()
            sampling = self.host.sampling
            guider = sampling.make_guider(side.model, side.positive, side.negative, CFG)
            drawn.append(sampling.sample_custom(guider, self.sampler, self.sigmas, latent, number * BATCH)["samples"])
            seconds += time.perf_counter() - began
        out = torch.cat(drawn)
        return out, seconds / len(out)

    def both(self, strength: float, pairs: list[Any], width: int = 16) -> tuple[Any, float]:
        """(the first side's unscaled latents, seconds a picture) of two sides under one sampler."""
        import torch

        from ..core.bridge.joint import LatentBridgeGuider, sample_bridged
        from ..core.bridge.latent import Fusion
        from ..core.host.embedded.latent import RandomNoise

        drawn, seconds = [], 0.0
        for vae in self.vaes:
            vae.calls = 0
        for number, pair in enumerate(pairs):
            latents = [self.empty(self.models.index(side.model), len(side.positive[0][0]), width) for side in pair]
            began = time.perf_counter()
            guider = LatentBridgeGuider(*pair, Fusion(strength, end=1.0))
            drawn.append(sample_bridged(guider, RandomNoise(number * BATCH), self.sampler, self.sigmas, *latents)[0]["samples"])
            seconds += time.perf_counter() - began
        out = torch.cat(drawn)
        return out, seconds / len(out)


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
