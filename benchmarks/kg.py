"""Link prediction on a graph of 15,000 entities: how well held-out facts are found, and that training and scoring fit into ten minutes.

    python -m rapiddraw bench kg

The graph is drawn: things with one value each of six relations, of which two follow from the thing's kind, so that a held-out fact can be
known from the others. Vectors are trained without a share of the facts; both ends of every held-out fact are ranked among all entities.
"""

from __future__ import annotations

import argparse
import random
import time
from typing import Any

from . import common
from .checks import CHOSEN, Basis, Expectation, at_least, at_most

KINDS, VALUES = 40, (40, 24, 16, 12, 10, 8)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `python -m rapiddraw bench kg`."""
    parser.add_argument("--entities", type=int, default=15_000, help="entities of the graph (15000)")
    parser.add_argument("--held-out", type=int, default=2_000, help="facts that are held out and ranked (2000)")
    parser.add_argument("--epochs", type=int, default=20, help="times that the other facts are trained on (20)")


def expectations(args: argparse.Namespace) -> dict[str, Expectation]:
    """Return the expectations by key."""
    facts, once = Basis(args.held_out, "held-out facts"), Basis(1, "timed runs", resampled=False)
    return {
        "found": Expectation("held-out facts of a thing's kind that are among the first ten", at_least(0.5), CHOSEN, facts),
        "seconds": Expectation("seconds to train and to rank all held-out facts", at_most(600), CHOSEN, once),
    }


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Measure and return the result (see :func:`common.result`)."""
    import torch

    from ..core.knowledge.graph import KnowledgeGraph, build_graph
    from ..core.knowledge.transe import TransEConfig, fit, rank_triples
    from ..core.metrics.bootstrap import mean

    wanted, facts = expectations(args), drawn_facts(args.entities)
    rng = random.Random("bench kg")
    whole = build_graph(facts)
    held = set(rng.sample([i for i, fact in enumerate(whole.triples) if fact[1] in (0, 1)], args.held_out))
    rest = KnowledgeGraph(whole.entities, whole.relations, tuple(fact for i, fact in enumerate(whole.triples) if i not in held))
    hidden = torch.tensor([whole.triples[i] for i in sorted(held)], dtype=torch.long)
    started = time.perf_counter()
    model, losses = fit(rest, TransEConfig(dim=64, epochs=args.epochs, batch=4096, lr=0.02))
    trained = time.perf_counter()
    ranks = rank_triples(model, whole, hidden)
    done = time.perf_counter()
    found = (ranks[:, 0] <= 10).double()
    scores = {"mrr": round(float((1 / ranks).mean()), 4), "tails among ten": round(float(found.mean()), 3)}
    rows = [
        {
            "entities": len(whole.entities), "facts": len(rest.triples), "held out": len(hidden), "loss": round(losses[-1], 4),
            "training s": round(trained - started, 1), "ranking s": round(done - trained, 1), **scores,
        }
    ]  # fmt: skip
    checks = [wanted["found"].judge(mean(found.numpy())), wanted["seconds"].judge(done - started)]
    notes = f"{len(VALUES)} relations; both ends of each held-out fact are ranked among all entities, filtered."
    return common.result("kg", f"python -m rapiddraw bench kg --entities {args.entities}", rows, checks, notes=notes)


def drawn_facts(entities: int) -> list[tuple[str, str, str]]:
    """Return the facts of `entities` less the values: each thing has six; the first two follow from its kind, the others are random."""
    rng = random.Random("facts")
    looks = [(rng.randrange(VALUES[0]), rng.randrange(VALUES[1])) for _ in range(KINDS)]
    facts = []
    for thing in range(entities - sum(VALUES) - KINDS):
        kind = rng.randrange(KINDS)
        values = [*looks[kind], *(rng.randrange(count) for count in VALUES[2:])]
        facts += [(f"thing:{thing}", f"relation:{i}", f"value:{i}:{value}") for i, value in enumerate(values)]
        facts.append((f"thing:{thing}", "is_a", f"kind:{kind}"))
    return facts
