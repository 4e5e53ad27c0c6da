"""Two models of different noise conventions draw one picture: the part `bridge` of `bench families`.

Model A is a flow model of 128 px that has the text; model B is the shipped diffusion model of 64 px, in another latent space, with the
edges of a scene of that text and no prompt (guess mode). The flow model is not shipped. It is found as `orchard-flow-unet.safetensors` in a
weights folder, and comes from

    python -m rapiddraw data orchard --split train --count 5000 --size 128 --out data/orchard
    python -m rapiddraw train unet --data data/orchard --out weights/orchard-flow-unet.safetensors --set prediction=flow \\
        --set base=weights/orchard-unet.safetensors --set new_prediction=true --set text_lr=0 --set vae=weights/orchard-vae.safetensors \\
        --set text=weights/orchard-text.safetensors --set graph=weights/orchard-kg.safetensors
"""

from __future__ import annotations

import logging
from typing import Any

from .checks import CHOSEN, Basis, Check, Expectation, above, at_most, equal, exact
from .coop_latent import BATCH, Draw

log = logging.getLogger("rapiddraw")
FLOW = "orchard-flow-unet.safetensors"
COUNT, STEPS = 64, 16
STRENGTHS = (0.0, 0.25, 0.5, 0.75, 1.0)
Rows = list[dict[str, Any]]


def measure_bridge(count: int = COUNT, steps: int = STEPS) -> tuple[Rows, list[Check]]:
    """Return (rows, checks) of `count` pictures a row; none, with a line in the log, where there is no flow model."""
    from ..core.bundles.find import list_bundles
    from ..core.control.maps import canny
    from ..core.metrics.bootstrap import difference
    from ..core.metrics.control import edge_f_score
    from ..core.metrics.orchard import FRUIT, accuracy_by_picture, evaluation_scenes, prompts_for, render_batch
    from ..core.scoring.judge import judge_pictures
    from .shipped import shipped_judge

    if FLOW not in list_bundles("unet"):
        log.warning("no %s in a weights folder: the bridge between families is not measured; see benchmarks/families_bridge.py", FLOW)
        return [], []
    draw, judge = FlowDraw(steps), shipped_judge()
    if draw.control is None:
        log.warning("no orchard-control-64.safetensors in a weights folder: the bridge between families is not measured")
        return [], []
    pairs = evaluation_scenes("seen", count, 0)
    prompts, scenes = prompts_for(pairs), [scene for _, scene in pairs]
    renders = (render_batch(scenes, 128) + 1) / 2
    edges, sides = canny(renders), []
    for first in range(0, count, BATCH):
        part = slice(first, first + BATCH)
        guess, _ = draw.steered(draw.side(1, [""] * len(prompts[part])), renders[part])
        sides.append((draw.side(0, prompts[part]), guess))
    rows: Rows = []
    shows: dict[str, Any] = {}
    follows: dict[str, Any] = {}

    def note(name: str, pictures: Any) -> None:
        pictures = resized(pictures)
        shows[name] = accuracy_by_picture(judge_pictures(judge, pictures)[0], scenes, FRUIT)
        follows[name] = edge_f_score(canny((pictures.clamp(-1, 1) + 1) / 2), edges).numpy()
        rows.append({"name": name, "pictures": count, "text attribute accuracy": round(float(shows[name].mean()), 3),
                     "edge F-score": round(float(follows[name].mean()), 3)})  # fmt: skip

    alone = draw.alone([a for a, _ in sides])[0]
    note("A alone: flow model, text", draw.pictures(alone))
    note("B alone: diffusion model, edges", draw.pictures(draw.alone([b for _, b in sides])[0], 1))
    differ = 0
    for strength in STRENGTHS:
        latents = draw.both(strength, sides)[0]
        differ += int((latents != alone).flatten(1).any(1).sum()) if strength == 0 else 0
        note(f"strength {strength:g}", draw.pictures(latents))
    note("guess mode: early window", draw.pictures(draw.early(sides)))
    wanted, basis = "bridge between families: ", Basis(count)
    checks = [
        Expectation(f"{wanted}pictures at strength 0 that differ from A's in any bit", equal(0), CHOSEN, exact(count, "pictures")).judge(
            differ
        ),
        Expectation(f"{wanted}edge F-score gained from strength 0 to 0.5", above(0), CHOSEN, basis).judge(
            difference(follows["strength 0.5"], follows["strength 0"])
        ),
        Expectation(f"{wanted}text attribute accuracy lost in the early window", at_most(0.1), CHOSEN, basis).judge(
            difference(shows["strength 0"], shows["guess mode: early window"])
        ),
    ]
    return rows, checks


def resized(pictures: Any, side: int = 128) -> Any:
    """Return pictures (B, 3, h, w) at `side` x `side` pixels, bicubic where they have another size."""
    import torch.nn.functional as functional

    return pictures if pictures.shape[-1] == side else functional.interpolate(pictures, size=(side, side), mode="bicubic", antialias=True)


class FlowDraw(Draw):
    """The runs of :class:`~.coop_latent.Draw`, with a flow model as model A."""

    def __init__(self, steps: int) -> None:
        super().__init__(steps)
        from ..core.bundles.find import resolve_bundle

        self.models[0] = self.host.model.load(resolve_bundle(FLOW, "unet"))
        self.sigmas = self.host.sampling.calculate_sigmas(self.models[0], "simple", steps)

    def alone(self, sides: list[Any], width: int = 16) -> tuple[Any, list[float]]:
        """Do as the base class, along the side's own noise levels."""
        from ..core.bridge.convention import sigmas_for

        own = self.sigmas
        self.sigmas = sigmas_for(self.models[0], sides[0].model, own)
        try:
            return super().alone(sides, width)
        finally:
            self.sigmas = own

    def early(self, pairs: list[Any]) -> Any:
        """Return the first side's unscaled latents, fused in the early window of guess mode."""
        from ..core.bridge.latent import EARLY_END, EARLY_STRENGTH

        own = self.end
        self.end = EARLY_END
        try:
            return self.both(EARLY_STRENGTH, pairs)[0]
        finally:
            self.end = own
