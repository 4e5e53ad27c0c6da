"""Does prompt enhancement help the picture and keep what was asked for? Short prompts against the grammar's and the trained model's.

PanGu-Draw, section 7 and figure 8. Prompts about fruits that no training names, in both languages; the same noise for each prompt. The
reward is the one RAFT climbs: the aesthetic proxy (the judge's confidence, and how finely it finds a picture drawn) plus the similarity
of the picture and the *short* prompt. AA counts the attributes that the short prompt asks for, by words or by the name. What RAFT gained
is what its own run measured on held-out prompts and stored in the bundle.
"""

from __future__ import annotations

import argparse
import random
from typing import Any

from . import common

STEPS, CFG, TEMPERATURE, CANDIDATES = 10, 3.0, 0.7, 4


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--count", type=int, default=64, help="prompts (64)")
    parser.add_argument("--names", type=int, default=400, help="prompts without pictures, for names alone (400)")


def run(args: argparse.Namespace) -> dict[str, Any]:
    import torch

    from ..core.bundles.find import resolve_bundle
    from ..core.bundles.format import read_info
    from ..core.host import SamplingRun, current
    from ..core.knowledge.graph import load_knowledge
    from ..core.metrics.orchard import sample_pictures
    from ..core.operations.enhance import GRAMMAR, Proposals, enhance, load_writer
    from ..core.scoring.aesthetics import preference
    from ..core.scoring.clip_score import load_scorer
    from ..core.scoring.judge import judge_pictures, labels, load_judge
    from ..core.text.protect import lost
    from ..core.train.inputs.prompt_data import orchard_request

    host = current()
    parts = host.load_bundles(*(resolve_bundle(f"orchard-{kind}.safetensors", kind) for kind in ("unet", "text", "vae")))
    graph = load_knowledge(resolve_bundle("orchard-kg.safetensors", "kg"))
    parts = parts[0], host.knowledge.attach(parts[1], graph, 1.0), parts[2]
    scorer = load_scorer(resolve_bundle("pretrained-orchard-text.safetensors", "text"), graph)
    judge = load_judge(resolve_bundle("orchard-judge.safetensors", "judge"))
    rng = random.Random("bench prompt")
    requests = [orchard_request(rng, ("unseen",), strangers=False) for _ in range(args.count)]
    short = [request.pair.short for request in requests]
    truth = labels([request.scene for request in requests])

    def sample(model: Any, positive: Any, negative: Any, latent: dict[str, Any], seed: int) -> torch.Tensor:
        return host.sampling.sample(
            host.sampling.make_guider(model, positive, negative, CFG), latent, SamplingRun(seed, STEPS, "dpmpp_2m", "karras")
        )["samples"]

    rows: list[dict[str, Any]] = []
    mean: dict[str, float] = {}
    for name in ("short", GRAMMAR, "orchard-prompt.safetensors"):
        texts = short
        if name != "short":
            writer = load_writer(name)
            found = [
                enhance(request.pair.short, writer, Proposals(CANDIDATES, TEMPERATURE, index, request.pair.language), graph)
                for index, request in enumerate(requests)
            ]
            texts = [row.text for row in found]
        pictures = sample_pictures(host, *parts, texts, sample, batch=16, seed=7)
        predicted, _ = judge_pictures(judge, pictures)
        right = [
            float(predicted[attribute][index] == truth[attribute][index])
            for index, request in enumerate(requests)
            for attribute in request.said
        ]
        proxy, similarity = preference(judge, pictures), scorer.score(pictures, short)
        mean[name] = float((proxy + similarity).mean())
        rows.append(
            {
                "prompts": "as typed" if name == "short" else "grammar" if name == GRAMMAR else "trained model",
                "reward": round(mean[name], 3), "aesthetic proxy": round(float(proxy.mean()), 3),
                "similarity": round(float(similarity.mean()), 3), "AA of what was asked": round(sum(right) / len(right), 3),
                "changed": sum(a != b for a, b in zip(texts, short, strict=True)), "pictures": args.count, "example": texts[0],
            }
        )  # fmt: skip
    writer = load_writer("orchard-prompt.safetensors")
    whole = [orchard_request(rng, ("unseen", "seen"), strangers=True).pair for _ in range(args.names)]
    results = [(pair, enhance(pair.short, writer, Proposals(CANDIDATES, 1.0, i, pair.language), graph)) for i, pair in enumerate(whole)]
    kept = sum(not lost(found.text, pair.keep) for pair, found in results) / len(results)
    changed = sum(found.text != pair.short for pair, found in results) / len(results)
    rows.append({"prompts": "trained model, names alone", "names kept": round(kept, 4), "changed": round(changed, 3), "count": args.names})
    stored = read_info(resolve_bundle("orchard-prompt.safetensors", "prompt")).provenance.get("metrics", {})
    before, after = stored.get("reward_before", 0.0), stored.get("reward_after", 0.0)  # none in a bundle of the first stage alone
    gain = mean["orchard-prompt.safetensors"] - mean["short"]
    checks = [
        common.check("share of prompts whose names and unknown words come through verbatim", round(kept, 4), "1", kept == 1.0),
        common.check("reward that the trained model's prompts add", round(gain, 3), "above 0", gain > 0),
        common.check("reward on held-out prompts after RAFT, less that before it", round(after - before, 3), "above 0", after > before),
    ]
    notes = (
        f"{args.count} prompts, {STEPS} steps of dpmpp_2m (karras), CFG {CFG:g}, {CANDIDATES} candidates at temperature {TEMPERATURE:g}, "
        "the likeliest taken. The reward's proxy comes from the judge that also reads the attributes; the similarity is "
        "the independent one."
    )
    return common.result("prompt", f"python -m rapiddraw bench prompt --count {args.count} --names {args.names}", rows, checks, notes=notes)
