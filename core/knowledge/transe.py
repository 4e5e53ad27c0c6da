"""TransE: a relation is a translation from head to tail (Bordes et al. 2013; used by Rapid Diffusion, section 3.1.1).

Distance `d(h, r, t) = ||h + r - t||_2`, loss `sum max(0, margin + d(positive) - d(negative))`. Unlike the original, vectors are not
normalised. Entities that share (relation, value) are pulled to `value - relation`, so their attributes can be read linearly from the
vector; the unit sphere spoils that (measured). Negatives replace the head with probability tph / (tph + hpt) of the relation ("bern"), and
never state something that the graph knows to be true ("filtered").
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..errors import InputError, KnowledgeError
from ..progress import Progress
from .graph import KnowledgeGraph

SCORED = 5000
"""Triples that link prediction scores; of larger graphs a sample of that many."""
MAX_EPOCHS = 100_000
_DISTANCES = 2**22  # distances held at a time


@dataclass(frozen=True)
class TransEConfig:
    """`dim` features, `margin` of the hinge, `negatives` a triple, `epochs` over all triples, `batch` triples a step, Adam's `lr`."""

    dim: int = 64
    margin: float = 2.0
    negatives: int = 25
    epochs: int = 250
    batch: int = 512
    lr: float = 1e-2

    def __post_init__(self) -> None:
        for name, most in (("dim", 4096), ("negatives", 1024), ("epochs", MAX_EPOCHS), ("batch", 1_000_000)):
            if not 1 <= getattr(self, name) <= most:
                raise InputError(f"TransE: {name}={getattr(self, name)}, expected 1 to {most}")
        if not (self.margin > 0 and self.lr > 0):
            raise InputError(f"TransE: margin={self.margin} and lr={self.lr} must be positive")


class TransE(nn.Module):
    """Entity and relation vectors for a graph, and the hinge loss of a batch of triples."""

    def __init__(self, graph: KnowledgeGraph, config: TransEConfig, generator: torch.Generator) -> None:
        super().__init__()
        bound = 6 / config.dim**0.5
        self.margin = config.margin
        self.entities = nn.Parameter((torch.rand(len(graph.entities), config.dim, generator=generator) * 2 - 1) * bound)
        self.relations = nn.Parameter((torch.rand(len(graph.relations), config.dim, generator=generator) * 2 - 1) * bound)

    def distance(self, triples: Tensor) -> Tensor:
        """Return `||h + r - t||_2` of triples (..., 3) long, shape (...)."""
        head, relation, tail = triples.unbind(-1)
        return (self.entities[head] + self.relations[relation] - self.entities[tail]).norm(dim=-1)

    def loss(self, positive: Tensor, negative: Tensor, valid: Tensor) -> Tensor:
        """Return the hinge loss averaged over `valid` (B, K) negatives (B, K, 3) of positives (B, 3)."""
        hinge = (self.margin + self.distance(positive)[:, None] - self.distance(negative)).clamp_min(0)
        return (hinge * valid).sum() / valid.sum().clamp_min(1)


class Corruptor:
    """Draws filtered "bern" negatives for a graph."""

    def __init__(self, graph: KnowledgeGraph) -> None:
        if not graph.triples:
            raise KnowledgeError("the graph has no triples: there is nothing to learn from")
        self.triples = torch.tensor(graph.triples, dtype=torch.long)
        self.count, self.relations = len(graph.entities), len(graph.relations)
        self.known = self._key(self.triples).sort().values
        self.head_probability = torch.full((self.relations,), 0.5)
        for relation in range(self.relations):
            rows = self.triples[self.triples[:, 1] == relation]
            if len(rows):
                heads, tails = rows[:, 0].unique().numel(), rows[:, 2].unique().numel()
                tails_per_head, heads_per_tail = len(rows) / heads, len(rows) / tails
                self.head_probability[relation] = tails_per_head / (tails_per_head + heads_per_tail)

    def _key(self, triples: Tensor) -> Tensor:
        return (triples[..., 0] * self.relations + triples[..., 1]) * self.count + triples[..., 2]

    def is_known(self, triples: Tensor) -> Tensor:
        """Return whether the graph states each triple (..., 3)."""
        keys = self._key(triples)
        return self.known[torch.searchsorted(self.known, keys).clamp_max(len(self.known) - 1)] == keys

    def draw(self, positive: Tensor, negatives: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Return negatives (B, K, 3) of positives (B, 3), and which of them are valid (B, K); the others happen to be true."""
        shape = (len(positive), negatives)
        head = torch.rand(shape, generator=generator) < self.head_probability[positive[:, 1]][:, None]
        other = torch.randint(self.count, shape, generator=generator)
        negative = positive[:, None].expand(*shape, 3).clone()
        negative[..., 0] = torch.where(head, other, negative[..., 0])
        negative[..., 2] = torch.where(head, negative[..., 2], other)
        return negative, ~self.is_known(negative)


def batches(count: int, config: TransEConfig, generator: torch.Generator) -> Iterator[Tensor]:
    """Yield the indices of the triples of each step: `epochs` shuffles cut into batches."""
    for _ in range(config.epochs):
        yield from torch.randperm(count, generator=generator).split(config.batch)


def fit(graph: KnowledgeGraph, config: TransEConfig | None = None, seed: int = 0) -> tuple[TransE, list[float]]:
    """Train vectors on all triples. Return the model and the loss of every step. The same seed gives the same vectors."""
    config = config or TransEConfig()
    generator = torch.Generator().manual_seed(seed)
    corruptor = Corruptor(graph)
    model = TransE(graph, config, generator)
    optimizer = torch.optim.Adam(model.parameters(), lr=config.lr)
    losses: list[float] = []
    total = config.epochs * -(-len(corruptor.triples) // config.batch)
    with torch.inference_mode(False), torch.enable_grad(), Progress(total, "TransE") as bar:
        for rows in batches(len(corruptor.triples), config, generator):
            positive = corruptor.triples[rows]
            loss = model.loss(positive, *corruptor.draw(positive, config.negatives, generator))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(float(loss.detach()))
            bar.update(loss=losses[-1])
    return model, losses


@torch.no_grad()
def link_prediction(
    model: TransE, graph: KnowledgeGraph, triples: Tensor | None = None, most: int = SCORED, seed: int = 0
) -> dict[str, float]:
    """Return the filtered link-prediction scores `mrr`, `hits@1` and `hits@10` over `triples` (n, 3), both ends of each.

    By default all triples of the graph are used. An end is ranked among all entities, except those that would make another known triple;
    equal distances count half. Of more than `most` triples a random sample of that many is scored, drawn by `seed`; 0 scores all.
    """
    chosen = torch.tensor(graph.triples, dtype=torch.long).reshape(-1, 3) if triples is None else triples
    if most and len(chosen) > most:
        chosen = chosen[torch.randperm(len(chosen), generator=torch.Generator().manual_seed(seed))[:most].sort().values]
    rank = rank_triples(model, graph, chosen).flatten()
    return {
        "mrr": round(float((1 / rank).mean()), 4),
        "hits@1": round(float((rank <= 1).float().mean()), 4),
        "hits@10": round(float((rank <= 10).float().mean()), 4),
    }


@torch.no_grad()
def rank_triples(model: TransE, graph: KnowledgeGraph, chosen: Tensor) -> Tensor:
    """Return the filtered ranks (n, 2) of the tail and of the head of triples (n, 3); see :func:`link_prediction`."""
    known: dict[tuple[int, int, int], list[int]] = {}
    for head, relation, tail in graph.triples:
        known.setdefault((0, relation, tail), []).append(head)
        known.setdefault((2, head, relation), []).append(tail)
    ranks = []
    parts = chosen.split(max(1, _DISTANCES // max(1, len(model.entities))))
    with Progress(len(parts), "link prediction") as bar:
        for part in parts:
            head, relation, tail = part.unbind(1)
            step = model.relations[relation]
            heads, tails = (known.get((0, r, t), []) for _, r, t in part.tolist()), (known.get((2, h, r), []) for h, r, _ in part.tolist())
            found_tails = _ranks(model.entities[head] + step, model.entities, tail, tails)
            ranks.append(torch.stack([found_tails, _ranks(model.entities[tail] - step, model.entities, head, heads)], 1))
            bar.update()
    return torch.cat(ranks)


def _ranks(aims: Tensor, entities: Tensor, true: Tensor, known: Iterable[list[int]]) -> Tensor:
    """Return the rank (B,) of the entity `true` (B,) by its distance from `aims` (B, dim), without the other entities in `known`."""
    # Without matrix products, which round: entities at equal places must be at equal distances.
    distance = torch.cdist(aims, entities, compute_mode="donot_use_mm_for_euclid_dist")
    own = distance.gather(1, true[:, None])
    for row, others in enumerate(known):
        distance[row, others] = float("inf")
    distance.scatter_(1, true[:, None], float("inf"))
    return 1 + (distance < own).sum(1) + 0.5 * (distance == own).sum(1)


def split_triples(graph: KnowledgeGraph, fraction: float, seed: int = 0) -> tuple[KnowledgeGraph, Tensor]:
    """Return the graph without a random `fraction` of its triples, and those triples (n, 3), for a link-prediction score on unseen ones."""
    if not 0 < fraction < 1:
        raise InputError(f"fraction={fraction}: hold out a part between 0 and 1")
    order = torch.randperm(len(graph.triples), generator=torch.Generator().manual_seed(seed)).tolist()
    held = order[: max(1, int(len(order) * fraction))]
    hidden = set(held)
    kept = tuple(t for i, t in enumerate(graph.triples) if i not in hidden)
    rest = KnowledgeGraph(graph.entities, graph.relations, kept, graph.aliases)
    return rest, torch.tensor([graph.triples[i] for i in held], dtype=torch.long)
