"""Training of a knowledge graph's vectors in a graph of nodes (TransE, Bordes et al. 2013; Rapid Diffusion, section 3.1.1)."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch

from ..bundles.format import read_info
from ..errors import BundleError, InputError, KnowledgeError
from ..knowledge.graph import KnowledgeGraph, load_knowledge
from ..knowledge.transe import SCORED, TransEConfig
from ..paths import made_bundle_path
from ..train.loop import TrainResult, train
from ..train.plot import loss_image
from ..train.recipes.kg import KgRecipe
from ..train.writing import check_writable
from .distill import Run


@dataclass
class GraphTraining(KgRecipe):
    """The recipe behind :func:`train_graph`, which fills in the graph before it is run."""

    name: ClassVar[str] = "train_graph"

    fingerprint: str = ""  # of the triples, so that a run is resumed on the same ones only

    def given(self, graph: KnowledgeGraph) -> None:
        """Take the graph whose vectors are trained; vectors that it has are not used."""
        listed = repr((graph.entities, graph.relations, graph.triples)).encode()
        self.of, self.fingerprint = graph, hashlib.sha256(listed).hexdigest()[:16]

    def source(self) -> KnowledgeGraph:
        """See :meth:`KgRecipe.source`."""
        return self.of.with_embeddings(None, {})


def train_graph(graph: KnowledgeGraph, filename: str, recipe: GraphTraining, run: Run) -> tuple[KnowledgeGraph, str, torch.Tensor]:
    """Return (the graph with trained vectors, a report, the loss as an IMAGE), and write it as the bundle `filename` where nodes write.

    Checkpoints lie in a folder beside it, and a stopped run goes on from the last one where all settings are equal. Raises
    :class:`InputError`, before any work, for settings out of range, :class:`KnowledgeError` for a graph without triples,
    :class:`BundleError` where `filename` would replace a file of another kind.
    """
    run.check()
    recipe.check()
    TransEConfig(recipe.dim, recipe.margin, recipe.negatives, batch=recipe.batch_size, lr=recipe.lr)
    if not graph.triples:
        raise KnowledgeError("the graph has no triples: there is nothing to learn from; write facts as head, relation, tail")
    if recipe.held_out and len(graph.triples) < 2:
        raise InputError(f"held_out={recipe.held_out:g}: a graph of {len(graph.triples)} triple has none to hold out; give 0")
    out = made_bundle_path(filename)
    if out.exists() and read_info(out).kind != "kg":
        raise BundleError(f"{out.name} is a bundle of another kind; give the graph another name")
    run_dir = run.dir(out.with_name(f"{out.stem}-run"))
    check_writable(out, run_dir)
    recipe.given(graph)
    run.check_goes_on(run_dir, recipe)
    result = train(recipe, out, run.steps, run_dir=run_dir, resume=run.resume, every=run.every, device="cpu")
    trained = load_knowledge(result.files[0])
    return trained, _report(trained, result, out), loss_image(result.losses, f"TransE: loss over {result.steps} steps")


def _report(graph: KnowledgeGraph, result: TrainResult, out: Path) -> str:
    metrics: dict[str, Any] = dict(graph.provenance.get("metrics", {}))
    lines = [f"{result.steps} steps on {len(graph.triples)} triples of {len(graph.entities)} entities, {graph.dim} features each"]
    for kind, words in (("known", "triples that it was trained on"), ("held_out", "held-out triples, of a second run without them")):
        if f"{kind}_mrr" in metrics:
            lines.append(
                f"{words}: the right entity comes first for {metrics[f'{kind}_hits@1']:.0%}, among ten for "
                f"{metrics[f'{kind}_hits@10']:.0%} (mean reciprocal rank {metrics[f'{kind}_mrr']:.3f})"
            )
    if len(graph.triples) > SCORED:
        lines.append(f"scores are of a sample of {SCORED} triples")
    saved = result.files[0]
    lines.append(f"saved as {out.name}" if saved == out else f"{out.name} could not be written; the graph is in {saved}")
    return "\n".join(lines)
