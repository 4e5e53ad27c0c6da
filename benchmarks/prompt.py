"""Prompt enhancement: reward of the pictures of short prompts, of the grammar's and of the trained model's, and names that come through.

    python -m rapiddraw bench prompt

PanGu-Draw, section 7 and figure 8. The prompts are about fruits that no training names, in both languages; each prompt has the same noise
in every row. The reward is the one that RAFT raises: the aesthetic proxy (the judge's confidence, and how finely it finds a picture drawn)
plus the similarity of the picture and the *short* prompt. `AA of what was asked` is the attribute accuracy over the attributes that the
short prompt asks for, by words or by the name.
"""

from __future__ import annotations

import argparse
import random
from typing import Any

from . import common
from .checks import CHOSEN, EARLIER, Basis, Expectation, above, at_least, equal, exact

STEPS, CFG, TEMPERATURE, CANDIDATES = 10, 3.0, 0.7, 4
MODEL = "orchard-prompt.safetensors"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `python -m rapiddraw bench prompt`."""
    parser.add_argument("--count", type=int, default=64, help="prompts (64)")
    parser.add_argument("--names", type=int, default=400, help="prompts without pictures, for names alone (400)")


def expectations(args: argparse.Namespace) -> dict[str, Expectation]:
    """Return the expectations by key."""
    prompts = Basis(args.count, "prompts")
    lost = "prompts that lose a name or an unknown word in the trained model"
    return {
        "lost": Expectation(lost, equal(0), CHOSEN, exact(args.names, "prompts")),
        "reward": Expectation("reward that the trained model's prompts add to those as typed", above(0), CHOSEN, prompts),
        "asked": Expectation("attribute accuracy of what was asked that they add", at_least(-0.03), EARLIER, prompts),
    }


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Measure and return the result (see :func:`common.result`)."""
    import numpy as np

    from ..core.bundles.find import resolve_bundle
    from ..core.metrics.bootstrap import difference
    from ..core.metrics.orchard import sample_pictures
    from ..core.operations.enhance import GRAMMAR, Proposals, enhance, load_writer
    from ..core.scoring.aesthetics import preference
    from ..core.scoring.clip_score import load_scorer
    from ..core.scoring.judge import judge_pictures, labels
    from ..core.text.protect import lost
    from ..core.train.inputs.prompt_data import orchard_request
    from .shipped import sampling, shipped_graph, shipped_judge, shipped_parts

    wanted, parts, graph, judge = expectations(args), shipped_parts(), shipped_graph(), shipped_judge()
    scorer = load_scorer(resolve_bundle("pretrained-orchard-text.safetensors", "text"), graph)
    rng = random.Random("bench prompt")
    requests = [orchard_request(rng, ("unseen",), strangers=False) for _ in range(args.count)]
    short = [request.pair.short for request in requests]
    truth = labels([request.scene for request in requests])

    rows: list[dict[str, Any]] = []
    reward: dict[str, Any] = {}
    asked: dict[str, Any] = {}
    for name in ("short", GRAMMAR, MODEL):
        texts = short
        if name != "short":
            writer = load_writer(name)
            found = [
                enhance(request.pair.short, writer, Proposals(CANDIDATES, TEMPERATURE, index, request.pair.language), graph)
                for index, request in enumerate(requests)
            ]
            texts = [row.text for row in found]
        pictures = sample_pictures(parts, texts, sampling(parts.host, CFG, STEPS), batch=16, seed=7)
        predicted, _ = judge_pictures(judge, pictures)
        right = [[float(predicted[one][index] == truth[one][index]) for one in request.said] for index, request in enumerate(requests)]
        asked[name] = np.array([sum(one) / len(one) if one else np.nan for one in right])
        proxy, similarity = preference(judge, pictures), scorer.score(pictures, short)
        reward[name] = (proxy + similarity).double().numpy()
        rows.append(
            {
                "prompts": "as typed" if name == "short" else "grammar" if name == GRAMMAR else "trained model",
                "reward": round(float(reward[name].mean()), 3), "aesthetic proxy": round(float(proxy.mean()), 3),
                "similarity": round(float(similarity.mean()), 3), "AA of what was asked": round(float(np.nanmean(asked[name])), 3),
                "changed": sum(a != b for a, b in zip(texts, short, strict=True)), "pictures": args.count, "example": texts[0],
            }
        )  # fmt: skip
    writer = load_writer(MODEL)
    whole = [orchard_request(rng, ("unseen", "seen"), strangers=True).pair for _ in range(args.names)]
    results = [(pair, enhance(pair.short, writer, Proposals(CANDIDATES, 1.0, i, pair.language), graph)) for i, pair in enumerate(whole)]
    failed = sum(bool(lost(found.text, pair.keep)) for pair, found in results)
    changed = sum(found.text != pair.short for pair, found in results) / len(results)
    names = {"names kept": round(1 - failed / len(results), 4), "changed": round(changed, 3), "count": args.names}
    rows.append({"prompts": "trained model, names alone", **names})
    checks = [
        wanted["lost"].judge(failed),
        wanted["reward"].judge(difference(reward[MODEL], reward["short"])),
        wanted["asked"].judge(difference(asked[MODEL], asked["short"])),
    ]
    notes = (
        f"{args.count} prompts, {STEPS} steps of dpmpp_2m (karras), CFG {CFG:g}, {CANDIDATES} candidates at temperature {TEMPERATURE:g}, "
        "of which the likeliest is taken. The reward's proxy comes from the judge that also reads the attributes; the similarity does not."
    )
    return common.result("prompt", f"python -m rapiddraw bench prompt --count {args.count} --names {args.names}", rows, checks, notes=notes)
