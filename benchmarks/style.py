"""Style guidance over style_scale: how often the judge takes pictures for cartoons whose prompts ask for a photo.

    python -m rapiddraw bench style

PanGu-Draw, figure 9. The shipped model, whose captions call flat pictures a cartoon; the same prompts and noise at every scale.
"""

from __future__ import annotations

import argparse
from typing import Any

from . import common
from .checks import CHOSEN, Basis, Expectation, at_least

SCALES = (-2.0, 0.0, 1.0, 2.0, 4.0, 6.0)
CFG, STEPS, SIDE, BATCH = 3.0, 20, 128, 16


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `python -m rapiddraw bench style`."""
    parser.add_argument("--count", type=int, default=64, help="pictures a scale (64)")


def expectations(args: argparse.Namespace) -> dict[str, Expectation]:
    """Return the expectations by key."""
    basis = Basis(args.count)
    rise = "smallest rise of the share of cartoons from one scale to the next"
    return {
        "rise": Expectation(rise, at_least(-0.02), CHOSEN, basis),
        "gain": Expectation("share of cartoons that the largest scale adds", at_least(0.2), CHOSEN, basis),
    }


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Measure and return the result (see :func:`common.result`)."""
    import torch

    from ..core.metrics.bootstrap import bootstrap, difference
    from ..core.metrics.orchard import AA_ATTRIBUTES, accuracy_by_picture, evaluation_scenes, sample_pictures
    from ..core.orchard.captions import name_caption
    from ..core.orchard.world import ATTRIBUTES
    from ..core.scoring.judge import judge_pictures
    from .shipped import sampling, shipped_judge, shipped_parts

    wanted, parts, judge = expectations(args), shipped_parts(), shipped_judge()
    host, plain = parts.host, sampling(parts.host, CFG, STEPS, "simple")
    pairs = evaluation_scenes("seen", args.count)
    scenes, prompts = [scene for _, scene in pairs], [name_caption(scene, entity) for entity, scene in pairs]
    styled = [prompt.replace("a photo of", "a cartoon of", 1) for prompt in prompts]
    cartoon = ATTRIBUTES["style"].index("cartoon")

    rows: list[dict[str, Any]] = []
    cartoons: dict[float, Any] = {}
    for scale in SCALES:

        def sample(model: Any, positive: Any, negative: Any, latent: Any, seed: int, scale: float = scale) -> Any:
            tokens = torch.cat([host.clip.encode(parts.clip, text)[0][0] for text in styled[seed : seed + BATCH]])
            moved = host.style.guide(model, [[tokens, {}]], scale, 0.0, 1.0)
            return plain(moved, positive, negative, latent, seed)

        predicted, _ = judge_pictures(judge, sample_pictures(parts, prompts, sample, SIDE, BATCH))
        cartoons[scale] = (predicted["style"] == cartoon).double().numpy()
        accuracy = accuracy_by_picture(predicted, scenes, AA_ATTRIBUTES)
        shares = {"cartoons": round(float(cartoons[scale].mean()), 3), "AA": round(float(accuracy.mean()), 3)}
        rows.append({"style_scale": scale, **shares, "pictures": args.count})

    def smallest_rise(drawn: Any) -> float:
        shares = [float(cartoons[scale][drawn].mean()) for scale in SCALES]
        return min(after - before for before, after in zip(shares, shares[1:], strict=False))

    checks = [
        wanted["rise"].judge(bootstrap(smallest_rise, args.count)),
        wanted["gain"].judge(difference(cartoons[SCALES[-1]], cartoons[0.0])),
    ]
    notes = (
        f"{args.count} pictures a scale, {STEPS} steps of dpmpp_2m (simple), CFG {CFG:g}. The prompts ask for a photo, the style for a "
        "cartoon. AA: attribute accuracy."
    )
    return common.result("style", f"python -m rapiddraw bench style --count {args.count}", rows, checks, notes=notes)
