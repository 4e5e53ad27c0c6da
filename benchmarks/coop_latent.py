"""Latent-space bridge over its strength d: whose attributes the picture shows, and the cost of a fused step.

    python -m rapiddraw bench coop_latent

Model A draws 128 px in a latent space of factor 8 and 8 channels, model B 64 px in one of factor 4 and 4 channels. Guidance, and the share
of the steps in which the two are fused, are the defaults of the node Latent Space Bridge Sampler.

`prompts`: each model is asked for another fruit, and the judge says whose fruit it sees. Seconds are given over those of A alone and of A
and B. At d = 0 the picture is A's bit for bit, without a call of a VAE. `edges`: A has the text; B has no prompt (guess mode) but a control
adapter of its own space with the edges of a scene of that text. `halves`: two control adapters, each with the edges of one half of a
picture and a prompt of its own, against the stock way, both chained on one prompt. The last two are left out where there is no adapter.
"""

from __future__ import annotations

import argparse
import time
from typing import Any

from . import common
from .checks import CHOSEN, EARLIER, Basis, Check, Expectation, above, at_most, between, equal, exact

STEPS, BATCH = 16, 4
STRENGTHS = (0.0, 0.25, 0.5, 0.75, 1.0)
Rows = list[dict[str, Any]]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `python -m rapiddraw bench coop_latent`."""
    parser.add_argument("--count", type=int, default=24, help="pictures a strength (24)")
    parser.add_argument("--steps", type=int, default=STEPS, help=f"sampling steps ({STEPS})")


def expectations(args: argparse.Namespace) -> dict[str, Expectation]:
    """Return the expectations by key; those of `edges` and `halves` are judged only where there is a control adapter."""
    basis, batches = Basis(args.count), Basis(-(-args.count // BATCH), "timed batches")
    every, fruit = exact(args.count, "pictures"), "fruit accuracy of"
    return {
        "same": Expectation("pictures at d = 0 that differ from model A's in any bit", equal(0), CHOSEN, every),
        "calls": Expectation("calls of a VAE at d = 0", equal(0), CHOSEN, every),
        "fall": Expectation(f"{fruit} A's prompt lost from d = 0 to 1", above(0), CHOSEN, basis),
        "rise": Expectation(f"{fruit} B's prompt gained from d = 0 to 1", above(0), CHOSEN, basis),
        "time": Expectation("seconds without fusion (d = 0) over those of A and B", between(0.9, 1.1), EARLIER, batches),
        "edges": Expectation("edge F-score gained from d = 0 to 1", above(0), CHOSEN, basis),
        "edges at half": Expectation("edge F-score gained from d = 0 to 0.5", above(0), CHOSEN, basis),
        "text": Expectation(f"{fruit} the text lost from d = 0 to 0.5", at_most(0.1), CHOSEN, basis),
        "halves": Expectation(f"{fruit} a half that the bridge gains over chaining", above(0), CHOSEN, basis),
    }


def defaults() -> dict[str, Any]:
    """Return the defaults of the node's inputs by name."""
    from ..nodes.bridge_latent import LatentSpaceBridgeSampler

    given = LatentSpaceBridgeSampler.INPUT_TYPES()["required"]
    return {name: options["default"] for name, (_, options) in given.items() if "default" in options}


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Measure and return the result (see :func:`common.result`)."""
    import numpy as np

    from ..core.metrics.bootstrap import difference, median_ratio
    from ..core.metrics.orchard import FRUIT, accuracy_by_picture, evaluation_scenes, prompts_for
    from ..core.scoring.judge import judge_pictures
    from .shipped import shipped_judge

    wanted, count, draw, judge = expectations(args), args.count, Draw(args.steps), shipped_judge()
    pairs = [evaluation_scenes("seen", count, seed) for seed in (0, 1)]
    prompts, scenes = [prompts_for(one) for one in pairs], [[scene for _, scene in one] for one in pairs]
    sides = [[draw.side(which, prompts[which][first : first + BATCH]) for which in (0, 1)] for first in range(0, count, BATCH)]
    alone, seconds_a = draw.alone([pair[0] for pair in sides])
    _, seconds_b = draw.alone([pair[1] for pair in sides])
    base, both = np.array(seconds_a), np.array(seconds_a) + np.array(seconds_b)
    rows: Rows = []
    shows: dict[float, list[Any]] = {}
    checks: list[Check] = []
    for strength in STRENGTHS:
        latents, taken = draw.both(strength, sides)
        predicted, _ = judge_pictures(judge, draw.pictures(latents))
        shows[strength] = [accuracy_by_picture(predicted, of, FRUIT) for of in scenes]
        shown = {f"fruit accuracy of {who}'s prompt": round(float(one.mean()), 3) for who, one in zip("AB", shows[strength], strict=True)}
        times = {"time over A alone": round(sum(taken) / base.sum(), 2), "time over A + B": round(sum(taken) / both.sum(), 2)}
        rows.append({"table": "prompts", "d": strength, "pictures": count, **shown, "calls of a VAE": draw.calls(), **times})
        if strength == 0:
            differ = int((latents != alone).flatten(1).any(1).sum())
            checks = [wanted["same"].judge(differ), wanted["calls"].judge(draw.calls()), wanted["time"].judge(median_ratio(taken, both))]
    checks[2:2] = [
        wanted["fall"].judge(difference(shows[0.0][0], shows[1.0][0])),
        wanted["rise"].judge(difference(shows[1.0][1], shows[0.0][1])),
    ]
    if draw.control is not None:
        for part in (_edges(draw, judge, prompts[0], scenes[0], wanted), _halves(draw, judge, count, wanted)):
            rows += part[0]
            checks += part[1]
    notes = (
        f"{args.steps} steps of dpmpp_2m (karras), CFG {draw.cfg:g}, fused until {draw.end:.0%} of the timesteps: the node's defaults. At "
        "d = 1 model A is not asked while the two are fused. Edge F-score: an edge counts as met within two pixels."
    )
    return common.result("coop_latent", f"python -m rapiddraw bench coop_latent --count {count}", rows, checks, notes=notes)


def _edges(draw: Draw, judge: Any, prompts: list[str], scenes: list[Any], wanted: dict[str, Expectation]) -> tuple[Rows, list[Check]]:
    """Return rows and checks of table `edges`."""
    from ..core.control.maps import canny
    from ..core.metrics.bootstrap import difference
    from ..core.metrics.control import edge_f_score, edge_nmse
    from ..core.metrics.orchard import FRUIT, accuracy_by_picture, render_batch
    from ..core.scoring.judge import judge_pictures

    renders = (render_batch(scenes, 128) + 1) / 2
    edges, pairs = canny(renders), []
    for first in range(0, len(prompts), BATCH):
        part = slice(first, first + BATCH)
        guess, _ = draw.steered(draw.side(1, [""] * len(prompts[part])), renders[part])
        pairs.append((draw.side(0, prompts[part]), guess))
    rows: Rows = []
    follows: dict[float, Any] = {}
    shows: dict[float, Any] = {}
    for strength in STRENGTHS:
        pictures = draw.pictures(draw.both(strength, pairs)[0])
        found = canny((pictures.clamp(-1, 1) + 1) / 2)
        shows[strength] = accuracy_by_picture(judge_pictures(judge, pictures)[0], scenes, FRUIT)
        follows[strength] = edge_f_score(found, edges).numpy()
        shown = {"fruit accuracy of A's prompt": round(float(shows[strength].mean()), 3),
                 "edge F-score": round(float(follows[strength].mean()), 3),
                 "edge NMSE": round(float(edge_nmse(found, edges).nanmean()), 3)}  # fmt: skip
        rows.append({"table": "edges", "d": strength, "pictures": len(prompts), **shown})
    return rows, [
        wanted["edges"].judge(difference(follows[1.0], follows[0.0])),
        wanted["edges at half"].judge(difference(follows[0.5], follows[0.0])),
        wanted["text"].judge(difference(shows[0.0], shows[0.5])),
    ]


def _halves(draw: Draw, judge: Any, count: int, wanted: dict[str, Expectation]) -> tuple[Rows, list[Check]]:
    """Return rows and checks of table `halves`: pictures of 128 x 64 px, a fruit in each half."""
    import torch

    from ..core.metrics.bootstrap import difference
    from ..core.metrics.orchard import FRUIT, accuracy_by_picture, evaluation_scenes, prompts_for, render_batch
    from ..core.scoring.judge import judge_pictures

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
    rows: Rows = []
    shows = []
    for way, latents in ways.items():
        halves = draw.pictures(latents, 1).chunk(2, dim=3)
        left, right = (accuracy_by_picture(judge_pictures(judge, one)[0], of, FRUIT) for one, of in zip(halves, scenes, strict=True))
        shows.append((left + right) / 2)
        rows.append({"table": "halves", "way": way, "pictures": count, "fruit accuracy, left": round(float(left.mean()), 3),
                     "fruit accuracy, right": round(float(right.mean()), 3)})  # fmt: skip
    return rows, [wanted["halves"].judge(difference(*shows))]


class Draw:
    """Sampling runs of the two models, each by itself or together, and the calls of their VAEs."""

    def __init__(self, steps: int) -> None:
        from ..core.bundles.find import list_bundles
        from .shipped import shipped, shipped_parts

        given = defaults()
        self.cfg, self.end = float(given["cfg_a"]), float(given["end_percent"])
        parts = [shipped_parts("unet", "vae"), shipped_parts("unet-64", "vae-f4")]
        self.host, self.clip = parts[0].host, parts[0].clip
        self.models, self.vaes = [one.model for one in parts], [Counting(one.vae) for one in parts]
        self.control: Any = None
        if "orchard-control-64.safetensors" in list_bundles("control"):
            self.control = self.host.control.load(shipped("control-64", "control"), "edges")
        sampling = self.host.sampling
        self.sampler, self.sigmas = sampling.named_sampler("dpmpp_2m"), sampling.calculate_sigmas(self.models[0], "karras", steps)

    def calls(self) -> int:
        """Return the calls of a VAE in the last :meth:`both`."""
        return sum(vae.calls for vae in self.vaes)

    def pictures(self, latents: Any, which: int = 0) -> Any:
        """Decode to pictures (B, 3, side, side) in [-1, 1]."""
        from ..core.metrics.orchard import to_pictures

        return to_pictures(self.host.vae.decode(self.vaes[which].vae, latents))

    def side(self, which: int, prompts: list[str]) -> Any:
        """Return model number `which` with a prompt for each picture of a batch."""
        import torch

        from ..core.bridge.side import Side

        tokens = torch.cat([self.host.clip.encode(self.clip, prompt)[0][0] for prompt in prompts])
        against = self.host.clip.encode(self.clip, "")[0][0].expand(len(prompts), -1, -1)
        return Side(self.models[which], self.vaes[which], [[tokens, {}]], [[against, {}]], self.cfg)

    def empty(self, which: int, count: int, width: int = 16) -> dict[str, Any]:
        """Return an empty LATENT of 16 x `width` cells."""
        import torch

        return {"samples": torch.zeros(count, self.vaes[which].latent_channels, 16, width)}

    def steered(self, side: Any, pictures: Any, chained: Any = None) -> tuple[Any, Any]:
        """Return (`side` with the edges of `pictures` (B, 3, H, W) in [0, 1] on its prompt, the control); `chained` comes before it."""
        from dataclasses import replace

        from ..core.control.maps import canny

        hint = canny(pictures)[:, None].expand(-1, 3, -1, -1)
        control = self.control.copy().set_cond_hint(hint, 1.0, (0.0, 1.0)).set_previous_controlnet(chained)
        return replace(side, positive=[[tokens, {**more, "control": control}] for tokens, more in side.positive]), control

    def alone(self, sides: list[Any], width: int = 16) -> tuple[Any, list[float]]:
        """Return (unscaled latents, seconds of each batch) of one model by itself; each side is a batch."""
        import torch

        drawn: list[Any] = []
        seconds: list[float] = []
        for number, side in enumerate(sides):
            latent = self.empty(self.models.index(side.model), len(side.positive[0][0]), width)
            began = time.perf_counter()
            sampling = self.host.sampling
            guider = sampling.make_guider(side.model, side.positive, side.negative, self.cfg)
            drawn.append(sampling.sample_custom(guider, self.sampler, self.sigmas, latent, number * BATCH)["samples"])
            seconds.append(time.perf_counter() - began)
        return torch.cat(drawn), seconds

    def both(self, strength: float, pairs: list[Any], width: int = 16) -> tuple[Any, list[float]]:
        """Return (the first side's unscaled latents, seconds of each batch) of two sides under one sampler."""
        import torch

        from ..core.bridge.joint import LatentBridgeGuider, sample_bridged
        from ..core.bridge.latent import Fusion
        from ..core.host.embedded.latent import RandomNoise

        drawn: list[Any] = []
        seconds: list[float] = []
        for vae in self.vaes:
            vae.calls = 0
        for number, pair in enumerate(pairs):
            latents = [self.empty(self.models.index(side.model), len(side.positive[0][0]), width) for side in pair]
            began = time.perf_counter()
            guider = LatentBridgeGuider(*pair, Fusion(strength, end=self.end))
            drawn.append(sample_bridged(guider, RandomNoise(number * BATCH), self.sampler, self.sigmas, *latents)[0]["samples"])
            seconds.append(time.perf_counter() - began)
        return torch.cat(drawn), seconds


class Counting:
    """A VAE that counts its calls."""

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
