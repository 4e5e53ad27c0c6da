"""What a graph knows of one thing, as text: its names, its facts and its nearest neighbours."""

from __future__ import annotations

from ..errors import InputError
from ..language import plain_name
from .facts import Lexicon
from .graph import KnowledgeGraph

MAX_NEIGHBOURS, MAX_FACTS = 100, 200


def describe_entity(graph: KnowledgeGraph, name: str, neighbours: int = 5) -> str:
    """Return what `graph` says of the entity with this id, name or label, and its `neighbours` (0 to 100) nearest entities.

    Near are entities whose vectors lie at a small Euclidean distance; each is listed with the facts that it shares. At most 200 facts are
    listed. Raises :class:`InputError` for an empty name or a number out of range, :class:`KnowledgeError` for an unknown name.
    """
    if not isinstance(name, str) or not plain_name(name):
        raise InputError("no entity is named; give an id or a name of the graph, such as those that Load Knowledge Graph knows")
    if isinstance(neighbours, bool) or not isinstance(neighbours, int) or not 0 <= neighbours <= MAX_NEIGHBOURS:
        raise InputError(f"neighbours={neighbours!r}: give an integer from 0 to {MAX_NEIGHBOURS}")
    position = Lexicon(graph).require(name)
    entity = graph.entities[position]
    facts = [fact for fact in graph.triples if position in (fact[0], fact[2])]
    lines = [entity]
    lines += [f"names ({language}): {', '.join(names)}" for language, names in graph.aliases.get(entity, {}).items()]
    lines.append(f"facts: {len(facts)}" + (f", of which {MAX_FACTS} are listed" if len(facts) > MAX_FACTS else ""))
    lines += [f"  {graph.entities[h]}, {graph.relations[r]}, {graph.entities[t]}" for h, r, t in facts[:MAX_FACTS]]
    if graph.vector(entity) is None:
        return "\n".join([*lines, "it has no vector, so it adds nothing to a prompt"])
    near = nearest_entities(graph, position, neighbours)
    said = _said(graph, {position, *(other for other, _ in near)})
    if near:
        lines.append("nearest:")
    for other, distance in near:
        shared = [f"{graph.relations[r]} {graph.entities[t]}" for r, t in said[position] if (r, t) in said[other]]
        lines.append(f"  {graph.entities[other]} (distance {distance:.2f})" + (f": {', '.join(shared)}" if shared else ""))
    return "\n".join(lines)


def nearest_entities(graph: KnowledgeGraph, position: int, count: int) -> list[tuple[int, float]]:
    """Return the `count` entities nearest to one by their vectors, as (position, Euclidean distance), nearest first."""
    if graph.embeddings is None:
        return []
    distance = (graph.embeddings - graph.embeddings[position]).norm(dim=1)
    order = [i for i in distance.argsort(stable=True).tolist() if i != position and i in graph.connected]
    return [(i, float(distance[i])) for i in order[:count]]


def _said(graph: KnowledgeGraph, heads: set[int]) -> dict[int, dict[tuple[int, int], None]]:
    said: dict[int, dict[tuple[int, int], None]] = {head: {} for head in heads}
    for head, relation, tail in graph.triples:
        if head in said:
            said[head][relation, tail] = None
    return said
