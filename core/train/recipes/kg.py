"""Recipe `kg`: vectors for the entities of a knowledge graph, which a text encoder adds to the names in a prompt.

    python -m rapiddraw train kg --data my-graph.tsv --out weights/my-kg.safetensors

`data` is a .tsv or .jsonl file of triples and names; without it the Orchard's own graph is used. It takes a minute or less on one core.

Paper: TransE (Bordes et al. 2013), by which Rapid Diffusion (section 3.1.1) makes its vectors; see `core/knowledge/transe.py`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import nn

from ...errors import InputError
from ...knowledge.graph import KnowledgeGraph, build_graph, save_knowledge
from ...knowledge.transe import MAX_EPOCHS, Corruptor, TransE, TransEConfig, fit, link_prediction, split_triples
from ...knowledge.triples import load_triples
from ..recipe import EpochOrder, Losses, Recipe


def orchard_graph() -> KnowledgeGraph:
    """Return the Orchard's graph: every fruit, the unseen ones too, with its names in both languages."""
    from ...orchard.entities import entities, triples

    names = [(e.id, language, name) for e in entities() for language, found in e.aliases.items() for name in found]
    return build_graph(triples(), names, "the Orchard")


@dataclass
class KgRecipe(Recipe):
    """Settings of the recipe `kg`: TransE on all triples. With `held_out` > 0 a second run of the same length trains on the other
    triples and is scored on the held-out share."""

    name: ClassVar[str] = "kg"
    default_steps: ClassVar[int] = 1750

    batch_size: int = 512
    lr: float = 1e-2
    schedule: str = "constant"
    warmup: int = 0
    clip: float = 0.0
    dim: int = 64  # features of an entity's vector
    margin: float = 2.0  # distance by which a true triple must beat a corrupted one
    negatives: int = 25  # corrupted triples for each true one
    held_out: float = 0.0  # share of triples kept for a second, scored run; 0 for none

    def setup(self, device: torch.device) -> None:
        self.graph = self.source()
        self.settings_of_model = TransEConfig(dim=self.dim, margin=self.margin, negatives=self.negatives, batch=self.batch_size, lr=self.lr)
        self.corruptor = Corruptor(self.graph)
        self.order = EpochOrder(len(self.graph.triples), self.batch_size, self.seed)
        self.model = TransE(self.graph, self.settings_of_model, torch.Generator().manual_seed(self.seed)).to(device)

    def source(self) -> KnowledgeGraph:
        """Return the graph whose vectors are trained."""
        return load_triples(self.data) if self.data else orchard_graph()

    def check(self) -> None:
        super().check()
        if not 0 <= self.held_out < 1:
            raise InputError(f"held_out={self.held_out!r}: expected 0 (none) or a fraction below 1")

    def modules(self) -> dict[str, nn.Module]:
        return {"transe": self.model}

    def optimizers(self) -> dict[str, torch.optim.Optimizer]:
        return {"main": torch.optim.Adam(self.model.parameters(), lr=self.lr)}

    def batch(self, index: int, generator: torch.Generator) -> dict[str, torch.Tensor]:
        positive = self.corruptor.triples[self.order.indices(index)]
        negative, valid = self.corruptor.draw(positive, self.negatives, generator)
        return {"positive": positive, "negative": negative, "valid": valid}

    def loss(self, batch: dict[str, torch.Tensor]) -> Losses:
        return {"loss": self.model.loss(batch["positive"], batch["negative"], batch["valid"])}

    def finish(self, out: Path, provenance: dict[str, Any]) -> list[Path]:
        model = self.model.cpu()
        metrics = {f"known_{key}": value for key, value in link_prediction(model, self.graph).items()}
        if self.held_out:
            rest, hidden = split_triples(self.graph, self.held_out, self.seed)
            epochs = round(provenance["steps"] / -(-len(rest.triples) // self.batch_size))
            trained, _ = fit(rest, replace(self.settings_of_model, epochs=min(max(1, epochs), MAX_EPOCHS)), self.seed)
            metrics |= {f"held_out_{key}": value for key, value in link_prediction(trained, self.graph, hidden).items()}
        provenance["metrics"] = {**provenance.get("metrics", {}), **metrics}
        return [save_knowledge(out, self.graph.with_embeddings(model.entities.detach(), relations=model.relations.detach()), provenance)]
