"""A LoRA on pictures of new fruits: what it adds for their names, with a knowledge graph and without, and what the old names lose.

    python -m rapiddraw bench domain-lora

The pictures show twelve fruits of the Orchard whose names stand in no caption of the shipped model's training. "graph" is the shipped
graph, extended by the typed facts of these fruits; "no graph" reads the names by their letters alone. Both LoRAs of the shipped model take
the same steps. Accuracy of new names is over shape, skin, pattern and topper, that of old names over the fruit, ground and sky, as the
judge reads them.
"""

from __future__ import annotations

import argparse
from typing import Any

from . import common
from .checks import CHOSEN, Basis, Expectation, above, at_least, at_most

CONDITIONS = ("graph", "no graph")
QUICK = {"pictures": 12, "steps": 2, "count": 6, "old": 6}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `python -m rapiddraw bench domain-lora`."""
    parser.add_argument("--pictures", type=int, default=300, help="pictures to train on (300)")
    parser.add_argument("--steps", type=int, default=200, help="training steps of each LoRA (200)")
    parser.add_argument("--count", type=int, default=72, help="pictures of new names for each model (72)")
    parser.add_argument("--old", type=int, default=96, help="pictures of old names for each model (96)")
    parser.add_argument("--quick", action="store_true", help="a trial of a minute that measures nothing: pictures 12, steps 2, 6 drawn")


def expectations(args: argparse.Namespace) -> dict[str, Expectation]:
    """Return the expectations by key."""
    of = sizes(args)
    new, old = Basis(of["count"]), Basis(of["old"])
    return {
        "graph": Expectation("fruit accuracy of new names that the LoRA adds, with the graph", above(0), CHOSEN, new),
        "no graph": Expectation("fruit accuracy of new names that the LoRA adds, without a graph", at_least(0.1), CHOSEN, new),
        "knowledge": Expectation("fruit accuracy of new names with the graph less without, both after the LoRA", above(0), CHOSEN, new),
        "lost": Expectation("attribute accuracy of old names that the LoRA costs, with the graph", at_most(0.03), CHOSEN, old),
    }


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Measure and return the result (see :func:`common.result`)."""
    from dataclasses import replace

    from ..core.knowledge.extend import extend_graph
    from ..core.metrics.bootstrap import difference, mean
    from ..core.metrics.orchard import AA_ATTRIBUTES, FRUIT, evaluation_scenes
    from ..core.operations.domain import DomainTuning
    from .domain_training import CFG, SETTINGS, STEPS, Reader, facts_of_new_fruits, new_scenes, pictures_of_new_fruits, tuned
    from .shipped import shipped_graph, shipped_judge, shipped_parts

    of, wanted = sizes(args), expectations(args)
    plain, judge = shipped_parts(knowledge=False), shipped_judge()
    graph = extend_graph(shipped_graph(), facts_of_new_fruits()).graph
    bases = {"graph": replace(plain, clip=plain.host.knowledge.attach(plain.clip, graph, 1.0)), "no graph": plain}
    readers = {
        "new names": Reader(new_scenes(of["count"], 0), judge, FRUIT),
        "old names": Reader(evaluation_scenes("seen", of["old"]), judge, AA_ATTRIBUTES),
    }
    found: dict[tuple[str, str, str], Any] = {}
    rows = []
    with pictures_of_new_fruits(of["pictures"]):
        for condition in CONDITIONS:
            base = bases[condition]
            made = tuned(base, DomainTuning(**SETTINGS), condition.replace(" ", "-"), of["steps"])
            for model, parts in (("base", base), ("LoRA", replace(base, model=made.model))):
                for names, reader in readers.items():
                    accuracy = found[condition, model, names] = reader.accuracy(parts)
                    estimate = mean(accuracy)
                    cells = {"accuracy": round(estimate.value, 3), "interval": [estimate.low, estimate.high]}
                    rows.append({"condition": condition, "model": model, "names": names, "pictures": len(accuracy), **cells})
    new = {(condition, model): found[condition, model, "new names"] for condition in CONDITIONS for model in ("base", "LoRA")}
    checks = [
        *(wanted[condition].judge(difference(new[condition, "LoRA"], new[condition, "base"])) for condition in CONDITIONS),
        wanted["knowledge"].judge(difference(new["graph", "LoRA"], new["no graph", "LoRA"])),
        wanted["lost"].judge(difference(found["graph", "base", "old names"], found["graph", "LoRA", "old names"])),
    ]
    notes = (
        f"{of['pictures']} pictures, {of['steps']} steps of {SETTINGS['batch_size']}, rank {SETTINGS['rank']}, learning rate "
        f"{SETTINGS['lr']:g}. Drawn in {STEPS} steps of dpmpp_2m (karras), CFG {CFG:g}. Old names are those of the split seen, in English."
    )
    return common.result("domain_lora", "python -m rapiddraw bench domain-lora", rows, checks, notes=notes)


def sizes(args: argparse.Namespace) -> dict[str, int]:
    """Return the numbers of pictures, steps and drawn pictures that are used."""
    return QUICK if getattr(args, "quick", False) else {key: getattr(args, key) for key in QUICK}
