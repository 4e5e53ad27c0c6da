"""Vectors for things that a graph was not trained on, from their facts alone.

TransE (Bordes et al. 2013) trains vectors such that head + relation is near tail. So a new head lies near tail - relation and a new tail
near head + relation. Its vector is the mean of these over its facts. Each fact is weighted by the inverse variance of its relation: how
near head + relation comes to tail in the facts that the graph was trained on. This takes no training; Rapid Diffusion (section 3.1.1) adds
such vectors to the tokens of a name. A changed fact of a known thing moves its vector by what the fact moves this mean.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..errors import KnowledgeError
from .facts import Facts, Lexicon, read_facts
from .graph import MAX_DEGREE, MAX_ENTITIES, MAX_TRIPLES, KnowledgeGraph, Triple

ONE_VALUE = 1.05
"""Values a head, in the mean, up to which a relation has one value: a new one then replaces the old one."""
_PRIOR = 5
_FACTS, _VALUES = 512, 4096


@dataclass(frozen=True)
class Relations:
    """What a graph's vectors say of its relations: `vectors` (R, dim), `weights` (R,) by which facts count, `single` (R,) bool: whether a
    thing has one value. `known` are the graph's triples (n, 3)."""

    vectors: Tensor
    weights: Tensor
    single: Tensor
    known: Tensor


@dataclass(frozen=True)
class Extension:
    """An extended graph and a report on each of its new facts."""

    graph: KnowledgeGraph
    report: str


def extend_graph(graph: KnowledgeGraph, text: str) -> Extension:
    """Return `graph` with the facts of `text`, lines "name, relation, value" (see :mod:`.facts`), and a report of how sure each one is.

    The vectors of all entities that no line begins with stay as they are, bit for bit. Raises :class:`KnowledgeError` for a graph
    without vectors and for facts that it cannot place, :class:`InputError` for a text without facts.
    """
    relations, base = relations_of(graph), _vectors(graph)
    facts = read_facts(text, graph)
    known, first = set(graph.triples), len(graph.entities)
    kept, dropped = _kept(graph, facts, relations)
    added = [fact for fact in facts.triples if fact not in known]
    triples = (*kept, *added)
    _check_size(first + len(facts.new), triples)
    vectors = torch.cat([base, _new_vectors(base, facts, relations)])
    changed = {fact[0] for fact in (*added, *dropped) if fact[0] < first}
    before, after = _facts_of(graph.triples, changed), _facts_of(triples, changed)
    for entity in sorted(changed):
        moved = _mean(vectors, after[entity], entity, relations)
        vectors[entity] = vectors[entity] + moved - _mean(vectors, before[entity], entity, relations) if before[entity] else moved
    extended = replace(
        graph,
        entities=(*graph.entities, *facts.new),
        triples=triples,
        aliases=_with_names(graph, facts),
        embeddings=vectors,
        relation_vectors=relations.vectors,
        extends=graph.digest,
    )
    return Extension(extended, _report(graph, extended, facts, dropped, relations))


def relations_of(graph: KnowledgeGraph) -> Relations:
    """Return the relations of a graph. Where the graph holds no relation vectors, each is the mean of tail - head over its facts.

    Raises :class:`KnowledgeError` for a graph without vectors.
    """
    base, count = _vectors(graph), len(graph.relations)
    known = torch.tensor(graph.triples, dtype=torch.long).reshape(-1, 3)
    number = torch.bincount(known[:, 1], minlength=count).float()
    step = base[known[:, 2]] - base[known[:, 0]]
    vectors = graph.relation_vectors
    if vectors is None:
        vectors = torch.zeros(count, graph.dim).index_add_(0, known[:, 1], step) / number.clamp_min(1)[:, None]
    squares = (step - vectors[known[:, 1]]).square().sum(1)
    overall = squares.mean() if len(squares) else torch.tensor(1.0)
    summed = torch.zeros(count).index_add_(0, known[:, 1], squares)
    variance = (summed + _PRIOR * overall) / (number + _PRIOR)  # few facts say little of their own relation
    heads = torch.tensor([known[known[:, 1] == relation, 0].unique().numel() for relation in range(count)])
    return Relations(vectors, 1 / variance.clamp_min(1e-6), number <= ONE_VALUE * heads, known)


def read_back(graph: KnowledgeGraph, values: Sequence[int], relations: Relations, fact: Triple) -> tuple[int, int, int]:
    """Return the rank of a fact's value by its distance from head + relation, among `values`, their number, and the nearest other value.

    At most 4096 values are compared. The nearest other value is -1 where there is none.
    """
    others = [value for value in values if value != fact[2]][:_VALUES]
    if not others:
        return 1, 1, -1
    distance = _distances(graph, [fact[0]], fact[1], [fact[2], *others], relations)[0]
    return 1 + int((distance[1:] < distance[0]).sum()), len(others) + 1, others[int(distance[1:].argmin())]


def holds(graph: KnowledgeGraph, values: Sequence[int], relations: Relations, relation: int) -> float:
    """Return the share of a relation's known facts whose value is, of all `values`, nearest to head + relation.

    At most 512 facts and 4096 values are compared.
    """
    facts = relations.known[relations.known[:, 1] == relation]
    facts = facts[:: max(1, -(-len(facts) // _FACTS))]
    compared = torch.tensor(values[:_VALUES], dtype=torch.long)
    distance = _distances(graph, facts[:, 0].tolist(), relation, compared.tolist(), relations)
    return float((compared[distance.argmin(1)] == facts[:, 2]).float().mean())


def _distances(graph: KnowledgeGraph, heads: Sequence[int], relation: int, values: Sequence[int], relations: Relations) -> Tensor:
    vectors = _vectors(graph)
    return torch.cdist(vectors[list(heads)] + relations.vectors[relation], vectors[list(values)])


def _vectors(graph: KnowledgeGraph) -> Tensor:
    if graph.embeddings is None:
        raise KnowledgeError("this graph has no vectors yet, only triples: train them first (python -m rapiddraw train kg --help)")
    return graph.embeddings


def _kept(graph: KnowledgeGraph, facts: Facts, relations: Relations) -> tuple[list[Triple], list[Triple]]:
    """Return the graph's triples that stay, and those that a new value of a relation with one value replaces."""
    replaced = {(head, relation) for head, relation, _ in facts.triples if relations.single[relation]}
    stated = set(facts.triples)
    dropped = [fact for fact in graph.triples if fact[:2] in replaced and fact not in stated]
    gone = set(dropped)
    return [fact for fact in graph.triples if fact not in gone], dropped


def _check_size(entities: int, triples: Sequence[Triple]) -> None:
    if entities > MAX_ENTITIES or len(triples) > MAX_TRIPLES:
        raise KnowledgeError(
            f"the extended graph would have {entities} entities and {len(triples)} triples; at most {MAX_ENTITIES} and {MAX_TRIPLES} "
            "are allowed"
        )
    degree = torch.bincount(torch.tensor([(head, tail) for head, _, tail in triples], dtype=torch.long).flatten())
    if int(degree.max()) > MAX_DEGREE:
        raise KnowledgeError(f"an entity of the extended graph would be in {int(degree.max())} triples; at most {MAX_DEGREE} are allowed")


def _new_vectors(vectors: Tensor, facts: Facts, relations: Relations) -> Tensor:
    """Return vectors (len(facts.new), dim): the weighted mean of each one's facts, solved together where new things name each other."""
    first, count = len(vectors), len(facts.new)
    if not count:
        return vectors[:0]
    matrix = torch.zeros(count, count, dtype=torch.float64)
    right = torch.zeros(count, vectors.shape[1], dtype=torch.float64)
    for head, relation, tail in facts.triples:
        weight, step = relations.weights[relation].double(), relations.vectors[relation].double()
        for one, other, shift in ((head, tail, -step), (tail, head, step)):
            if one < first:
                continue
            matrix[one - first, one - first] += weight
            right[one - first] += weight * shift
            if other < first:
                right[one - first] += weight * vectors[other]
            else:
                matrix[one - first, other - first] -= weight
    return torch.linalg.solve(matrix, right).float()


def _facts_of(triples: Iterable[Triple], entities: Iterable[int]) -> dict[int, list[Triple]]:
    found: dict[int, list[Triple]] = {entity: [] for entity in entities}
    for fact in triples:
        for end in {fact[0], fact[2]} & found.keys():
            found[end].append(fact)
    return found


def _mean(vectors: Tensor, facts: Sequence[Triple], entity: int, relations: Relations) -> Tensor:
    """Return the weighted mean (dim,) of tail - relation and head + relation over the facts of one entity."""
    head, relation, tail = torch.tensor(facts, dtype=torch.long).unbind(1)
    step, weight = relations.vectors[relation], relations.weights[relation][:, None]
    aims = torch.where((head == entity)[:, None], vectors[tail] - step, vectors[head] + step)
    return (weight * aims).sum(0) / weight.sum()


def _with_names(graph: KnowledgeGraph, facts: Facts) -> dict[str, dict[str, tuple[str, ...]]]:
    aliases = {entity: dict(by) for entity, by in graph.aliases.items()}
    for entity, language, name in facts.names:
        by = aliases.setdefault(entity, {})
        by[language] = tuple(dict.fromkeys((*by.get(language, ()), name)))
    return aliases


def _report(graph: KnowledgeGraph, extended: KnowledgeGraph, facts: Facts, dropped: Sequence[Triple], relations: Relations) -> str:
    """Return a block of lines for each thing that the facts describe: what was said, and how sure the vectors are of it."""
    values = Lexicon(graph).tails
    sure = {relation: holds(graph, values[relation], relations, relation) for _, relation, _ in facts.triples}
    old = {fact[:2]: graph.entities[fact[2]] for fact in dropped}
    subjects: dict[int, list[Triple]] = {}
    for fact in facts.triples:
        subjects.setdefault(fact[0], []).append(fact)
    links = _links(extended, subjects)
    lines: list[str] = []
    for subject, own in subjects.items():
        kind = "new" if subject >= len(graph.entities) else "known before"
        lines.append(f"{extended.entities[subject]}: {kind}, {len(own)} fact{'s' if len(own) != 1 else ''}")
        for fact in own:
            name = extended.relations[fact[1]]
            rank, count, other = read_back(extended, values[fact[1]], relations, fact)
            change = f"{old[fact[:2]]} -> " if fact[:2] in old else ""
            nearest = f", {'then' if rank == 1 else 'first'} {extended.entities[other]}" if other >= 0 else ""
            lines.append(
                f"  {name}: {change}{extended.entities[fact[2]]} (read back as number {rank} of {count}{nearest}; "
                f"of the known facts of {name}, {sure[fact[1]]:.0%} are read back as number 1)"
            )
        lines += [f"  note: {note}" for note in _contradictions(extended, own, links)]
    return "\n".join([*lines, *(f"name of {entity} ({language}): {name}" for entity, language, name in facts.names)])


def _links(graph: KnowledgeGraph, subjects: Iterable[int]) -> dict[int, list[tuple[int, int]]]:
    """Return (relation, tail) by head, for `subjects` and for what they lead to."""
    wanted = set(subjects)
    wanted |= {tail for head, _, tail in graph.triples if head in wanted}
    links: dict[int, list[tuple[int, int]]] = {}
    for head, relation, tail in graph.triples:
        if head in wanted:
            links.setdefault(head, []).append((relation, tail))
    return links


def _contradictions(graph: KnowledgeGraph, own: Sequence[Triple], links: dict[int, list[tuple[int, int]]]) -> list[str]:
    """Return notes on facts of one thing that something it leads to says otherwise: a fruit's shape and the shape of its genus."""
    notes = []
    for subject, relation, tail in own:
        for through, value in links[subject]:
            for other in (end for kind, end in links.get(value, ()) if kind == relation and end != tail and through != relation):
                notes.append(
                    f"{graph.relations[through]} {graph.entities[value]} still says {graph.relations[relation]} {graph.entities[other]}; "
                    f"change {graph.relations[through]} too"
                )
    return notes
