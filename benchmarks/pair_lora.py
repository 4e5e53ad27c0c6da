"""Two LoRAs of one base, for high and low noise levels, against one LoRA at equal cost (PanGu-Draw, section 4.1, with LoRAs).

    python -m rapiddraw bench pair-lora

Both are trained on pictures of twelve new fruits of the Orchard, whose names stand in no caption and in no graph, by the shipped model
without a graph. A step of the pair evaluates the network twice, once for each LoRA; the single LoRA takes twice as many steps. Rank,
learning rate and pictures are equal, so that drawing costs the same too. Accuracy is over shape, skin, pattern and topper, as the judge
reads them.
"""

from __future__ import annotations

import argparse
from typing import Any

from . import common
from .checks import CHOSEN, Basis, Expectation, above, at_least

QUICK = {"seeds": 1, "pictures": 12, "steps": 2, "count": 6}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `python -m rapiddraw bench pair-lora`."""
    parser.add_argument("--seeds", type=int, default=3, help="trainings of each kind (3)")
    parser.add_argument("--pictures", type=int, default=96, help="pictures to train on (96)")
    parser.add_argument("--steps", type=int, default=60, help="training steps of the pair; the single LoRA takes twice as many (60)")
    parser.add_argument("--count", type=int, default=36, help="pictures that each training draws (36)")
    parser.add_argument("--quick", action="store_true", help="a trial of a minute that measures nothing: " + _said(QUICK))


def expectations(args: argparse.Namespace) -> dict[str, Expectation]:
    """Return the expectations by key."""
    of = sizes(args)
    basis = Basis(of["count"] * of["seeds"], "pictures", of["seeds"])
    return {
        "learned": Expectation("fruit accuracy that one LoRA adds to the base", above(0), CHOSEN, basis),
        "pair": Expectation("fruit accuracy of the pair less that of one LoRA at equal cost", at_least(-0.03), CHOSEN, basis),
    }


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Measure and return the result (see :func:`common.result`)."""
    from dataclasses import replace

    import numpy as np

    from ..core.metrics.bootstrap import difference, mean
    from ..core.metrics.orchard import FRUIT
    from ..core.operations.domain import DomainTuning
    from ..core.operations.domain_pair import PairTuning
    from .domain_training import CFG, SETTINGS, STEPS, Reader, new_scenes, pictures_of_new_fruits, tuned
    from .shipped import shipped_judge, shipped_parts

    of, wanted = sizes(args), expectations(args)
    parts, judge = shipped_parts(knowledge=False), shipped_judge()
    found: dict[str, list[Any]] = {"base": [], "one LoRA": [], "pair": []}
    rows = []
    with pictures_of_new_fruits(of["pictures"]):
        for seed in range(of["seeds"]):
            reader = Reader(new_scenes(of["count"], seed), judge, FRUIT, seed)
            one = tuned(parts, DomainTuning(seed=seed, **SETTINGS), f"one-{seed}", 2 * of["steps"])
            recipe = PairTuning(seed=seed, **SETTINGS)
            pair = tuned(parts, recipe, f"pair-{seed}", of["steps"])
            found["base"].append(reader.accuracy(parts))
            found["one LoRA"].append(reader.accuracy(replace(parts, model=one.model)))
            found["pair"].append(reader.accuracy(replace(parts, model=pair.structure), pair.texture, recipe.t_struct))
            for name, steps in (("base", 0), ("one LoRA", 2 * of["steps"]), ("pair", of["steps"])):
                estimate = mean(found[name][-1])
                cells = {"fruit AA": round(estimate.value, 3), "interval": [estimate.low, estimate.high]}
                rows.append({"seed": seed, "model": name, "steps": steps, "pictures": of["count"], **cells})
    base, single, both = (np.concatenate(found[name]) for name in found)
    checks = [wanted["learned"].judge(difference(single, base)), wanted["pair"].judge(difference(both, single))]
    notes = (
        f"{of['pictures']} pictures of twelve new fruits, batches of {SETTINGS['batch_size']}, rank {SETTINGS['rank']}, learning rate "
        f"{SETTINGS['lr']:g}, switch at timestep 500. Drawn in {STEPS} steps of dpmpp_2m (karras), CFG {CFG:g}, by the names alone."
    )
    return common.result("pair_lora", "python -m rapiddraw bench pair-lora", rows, checks, notes=notes)


def sizes(args: argparse.Namespace) -> dict[str, int]:
    """Return the numbers of seeds, pictures, steps and drawn pictures that are used."""
    return QUICK if getattr(args, "quick", False) else {key: getattr(args, key) for key in QUICK}


def _said(sizes: dict[str, int]) -> str:
    return ", ".join(f"{key} {value}" for key, value in sizes.items())
