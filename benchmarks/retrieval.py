"""Retrieval with and without knowledge (Rapid Diffusion, Table 2), with controls that can prove the claim wrong.

    python -m rapiddraw bench retrieval

All encoders go on from one common start, which is trained here with captions that describe and never name, so that it favours no graph.
From there each learns names with the same pictures, captions, seed and number of steps, against the start's image tower, which is frozen.
They differ in the graph alone:

* `none`      no graph
* `graph`     the Orchard's graph
* `shuffled`  the same vectors, each given to another entity
* `random`    random vectors of the same mean and spread
* `oracle`    no training: the encoder `none` is asked for the look in words instead of the name

The gallery holds one picture an entity (80 seen, 80 rare, 80 unseen names; entities of equal looks count once), all on one ground under
one sky, so the scene's words in the query say nothing: chance is 100 k / n. The result is the mean over such galleries and both languages.
The rows `shipped` score the encoder in `weights/`, which was trained longer.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import logging
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from . import common
from .checks import CHOSEN, Basis, Check, Expectation, at_least, at_most

log = logging.getLogger("rapiddraw")
ARMS = ("none", "graph", "shuffled", "random")
SPLITS = ("seen", "rare", "unseen")
GALLERIES = (("grass", "day"), ("sand", "dusk"), ("snow", "night"), ("wood", "day"))
TOLERANCE = 3.0
"""Points of R@1 within which a control counts as "no better": two or three of 80 names."""
NAMES = 80


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `python -m rapiddraw bench retrieval`."""
    parser.add_argument("--start-steps", type=int, default=500, help="training steps of the common start (default 500, about 5 min)")
    parser.add_argument(
        "--steps", type=int, default=150, help="training steps of each of the four encoders (default 150, about 1 min each)"
    )
    parser.add_argument("--count", type=int, default=6000, help="pictures to learn from (default 6000)")
    parser.add_argument("--seed", type=int, default=0, help="seed of data order and weights, the same for all encoders")
    parser.add_argument("--cache", default="runs/retrieval", help="where trained encoders are kept for the next run")


def expectations(args: argparse.Namespace) -> dict[str, Expectation]:
    """Return the expectations by key."""
    basis, gain = Basis(NAMES, "names"), "unseen names: points of R@1 that the graph adds to none"
    wanted = {"graph": Expectation(gain, at_least(30), CHOSEN, basis)}
    for arm in ("shuffled", "random"):
        claim = f"unseen names: points of R@1 that {arm} vectors add to none"
        wanted[arm] = Expectation(claim, at_most(TOLERANCE), CHOSEN, basis)
    return wanted


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Train what is not in the cache, score everything, and return the result (see :func:`common.result`)."""
    from ..core.bundles.find import resolve_bundle
    from ..core.bundles.load import load_bundle
    from ..core.metrics.bootstrap import difference
    from ..core.text.encoder import load_text_encoder
    from ..core.text.image_tower import load_image_tower
    from .shipped import shipped, shipped_graph

    wanted, graph, galleries, seed = expectations(args), shipped_graph(), _galleries(), args.seed
    rows: list[dict[str, Any]] = []
    first: dict[str, Any] = {}
    for arm, (text_path, image_path) in train_arms(shipped("kg", "kg"), args).items():
        encoder, tower = load_text_encoder(load_bundle(text_path, "text")), load_image_tower(load_bundle(image_path, "image"))
        found, first[arm] = _score(arm, encoder, tower, _table(encoder, graph, arm, seed), galleries)
        rows += found
        if arm == "none":
            rows += _score("oracle", encoder, tower, None, galleries)[0]
    encoder = load_text_encoder(load_bundle(resolve_bundle("pretrained-orchard-text.safetensors", "text"), "text"))
    tower = load_image_tower(load_bundle(resolve_bundle("pretrained-orchard-image.safetensors", "image"), "image"))
    rows += _score("shipped, with graph", encoder, tower, _table(encoder, graph, "graph", seed), galleries)[0]
    rows += _score("shipped, kg_scale 0", encoder, tower, None, galleries)[0]
    checks: list[Check] = [one.judge(difference(first[arm], first["none"])) for arm, one in wanted.items()]
    settings = {"count": args.count, "start_steps": args.start_steps, "steps": args.steps, "seed": seed, "galleries": len(GALLERIES),
                "languages": ["en", "zh"]}  # fmt: skip
    return common.result("retrieval", "python -m rapiddraw bench retrieval", rows, checks, settings=settings)


def _galleries() -> list[dict[str, Any]]:
    """Return for each split, scene and language: pictures of entities of distinct looks, their names and their looks in words."""
    import numpy as np
    import torch

    from ..core.orchard.captions import attribute_caption, name_caption
    from ..core.orchard.entities import entities
    from ..core.orchard.render import render

    found = []
    for split in SPLITS:
        chosen = list({tuple(e.looks().values()): e for e in reversed(entities()) if e.split == split}.values())[::-1][:NAMES]
        for ground, sky in GALLERIES:
            fixed = {"ground": ground, "sky": sky, "style": "fine", "size": "large", "position": "middle"}
            scenes = [e.scene(random.Random(f"retrieval/{ground}/{sky}/{e.id}"), **fixed) for e in chosen]
            pictures = torch.from_numpy(np.stack([render(scene, 64) for scene in scenes])).permute(0, 3, 1, 2).float() / 127.5 - 1
            for language in ("en", "zh"):
                found.append(
                    {
                        "split": split,
                        "language": language,
                        "images": pictures,
                        "names": [name_caption(s, e, language) for s, e in zip(scenes, chosen, strict=True)],
                        "looks": [attribute_caption(s, language) for s in scenes],
                    }
                )
    return found


def train_arms(kg_path: Path, args: argparse.Namespace, arms: Sequence[str] = ARMS) -> dict[str, tuple[Path, Path]]:
    """Return the files (text encoder, image tower) of each of `arms`, from the cache or by training them now."""
    from ..core.paths import image_bundle_path
    from ..core.train.loop import Intervals, train
    from ..core.train.recipes.text import TextRecipe

    cache, shared = Path(args.cache), list[Any]()

    class SharedData(TextRecipe):
        """A recipe whose pictures are drawn once for all arms."""

        def _items(self) -> list[Any]:
            if not shared:
                shared.extend(super()._items())
            return shared

    def trained(label: str, length: int, start: Path | None = None, **settings: Any) -> Path:
        given = {"graph": str(kg_path), "seed": args.seed, "count": args.count, "start": str(start or ""), "lock_images": start is not None}
        recipe = SharedData(**given, **settings)
        # All that decides the result, without the folders of files: the start's own name holds its key.
        relevant = {**recipe.settings(), "graph": graph_hash, "start": start.name if start else "", "steps": length}
        key = hashlib.sha256(json.dumps(relevant, sort_keys=True).encode()).hexdigest()[:10]
        text = cache / f"text-{label}-{key}.safetensors"
        if text.is_file() and image_bundle_path(text).is_file():
            log.info("retrieval: %s from the cache", text.name)
        else:
            train(recipe, text, length, run_dir=cache / f"{label}-{key}", every=Intervals(save=length))
        return text

    graph_hash = hashlib.sha256(kg_path.read_bytes()).hexdigest()
    start = trained("start", args.start_steps, names=False)
    texts = {arm: trained(arm, args.steps, start, knowledge=arm) for arm in arms}
    return {arm: (text, image_bundle_path(text)) for arm, text in texts.items()}


def _table(encoder: Any, graph: Any, arm: str, seed: int) -> Any:
    from ..core.knowledge.linking import wordpiece_linker
    from ..core.text.embed import KnowledgeTable
    from ..core.train.recipes.text import control_graph

    return None if arm == "none" else KnowledgeTable(control_graph(graph, arm, seed), wordpiece_linker(graph, encoder.tokenizer))


def _score(arm: str, encoder: Any, tower: Any, table: Any, galleries: list[dict[str, Any]]) -> tuple[list[dict[str, Any]], Any]:
    """Return (rows, each unseen name's points of R@1 (n,), the mean over galleries, languages and both ways)."""
    import torch

    from ..core.metrics.retrieval import first_hits, mean_of, retrieval
    from ..core.text.embed import embed_texts

    scores: dict[str, dict[str, list[dict[str, float]]]] = {split: {"en": [], "zh": []} for split in SPLITS}
    sizes: dict[str, int] = {}
    hits: list[Any] = []
    with torch.no_grad():
        for gallery in galleries:
            texts = embed_texts(encoder, table, gallery["looks" if arm == "oracle" else "names"])
            images = tower(gallery["images"])
            scores[gallery["split"]][gallery["language"]].append(retrieval(texts, images))
            if gallery["split"] == "unseen":
                hits += [100.0 * first_hits(similarity) for similarity in (texts @ images.T, images @ texts.T)]
            sizes[gallery["split"]] = len(texts)
    rows = []
    for split in SPLITS:
        both = mean_of([score for found in scores[split].values() for score in found])
        by_language = {f"text_to_image@1 {lang}": mean_of(found)["text_to_image@1"] for lang, found in scores[split].items()}
        rows.append(
            {"encoder": arm, "names": split, "gallery": sizes[split], "chance@1": round(100 / sizes[split], 2), **both, **by_language}
        )
    return rows, torch.stack(hits).mean(0).numpy()
