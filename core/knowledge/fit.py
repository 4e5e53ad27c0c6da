"""Fitting W for a CLIP that was trained without a graph, from the entities whose names the CLIP already knows.

For such an entity, the CLIP's own embedding of the name says what `W e_kg` should be. So `W` is the ridge regression from the entities'
vectors to the mean token embedding of their names, one W for each encoder. Where a CLIP does not know the names (invented ones, for
example), the words that describe the entity in the graph stand in: red, round, striped. Entities that are held out of the fit show whether
W carries over to a name that the CLIP does *not* know. They are compared with the simplest guess: always the mean of the fitted names.
"""

from __future__ import annotations

import difflib
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ..errors import InputError, KnowledgeError
from ..language import folded_name, plain_name
from ..progress import Progress
from .attach import AnyLinker, TokenSpace, linkers_of
from .graph import KnowledgeGraph
from .linking import MAX_ALIAS_TOKENS
from .projection import Projection, measure, ridge

log = logging.getLogger("rapiddraw")
MIN_ENTITIES = 8
MAX_ENTITIES = 10_000
MAX_LIST = 200_000
MAX_SEED = 2**64 - 1


@dataclass(frozen=True)
class Fit:
    """A fitted projection, one row of measures for each encoder (see :func:`~.projection.measure`), and notes on what was left out."""

    projection: Projection
    rows: tuple[Mapping[str, Any], ...]
    notes: tuple[str, ...]

    def table(self) -> str:
        """Return a plain-text table, then what its numbers mean."""
        lines = [
            f"{'encoder':<10}{'width':>6}{'fitted':>8}{'held out':>10}{'error':>8}{'of mean':>9}{'ratio':>7}{'cosine':>8}{'of mean':>9}"
        ]
        for row in self.rows:
            lines.append(
                f"{row['encoder']:<10}{row['width']:>6}{row['fitted']:>8}{row['held_out']:>10}{row['error']:>8.3f}{row['mean_error']:>9.3f}"
                f"{row['ratio']:>7.2f}{row['cosine']:>8.3f}{row['mean_cosine']:>9.3f}"
            )
        return "\n".join([*lines, *self.notes])


@dataclass(frozen=True)
class Selection:
    """Which entities a projection is fitted on, and by which names.

    `entities` narrows the candidates to ids or names, one a line or separated by commas ("": all). More than `limit` (0 is the most
    allowed, 10,000) are sampled. Names are those in `language` ("": any) that every tokenizer spells in at most `max_tokens` (1 to 24)
    tokens. With `described_by`, relations separated by commas, an entity is called by the names of what those lead to, taken together
    (what has no name is called by its id, less what stands before a colon); `max_tokens` is then for each.
    """

    entities: str = ""
    limit: int = 0
    language: str = "en"
    max_tokens: int = 4
    described_by: str = ""

    @property
    def called_by(self) -> str:
        """What the entities are called by, for the report."""
        return f"what {self.described_by.strip()} lead to" if self.described_by.strip() else "their own names"


def fit_projection(
    spaces: Sequence[TokenSpace],
    knowledge: KnowledgeGraph,
    strength: float = 0.1,
    holdout: float = 0.2,
    seed: int = 0,
    chosen: Selection | None = None,
) -> Fit:
    """Fit W for every one of `spaces`, by ridge regression of `strength` (0 to 1e6, see :func:`~.projection.ridge`).

    Candidates are the entities of `chosen` that have a vector and a name. A share `holdout` (0.05 to 0.5) of them is not fitted but
    measured; the W that is returned is the one that was measured. `seed` samples and divides the candidates.

    Raises :class:`InputError` for numbers out of range, unknown entities or relations, :class:`KnowledgeError` for a graph that has no
    vectors or fewer than 8 usable entities.
    """
    chosen = chosen or Selection()
    _check(holdout, seed, chosen.limit, chosen.max_tokens)
    if knowledge.embeddings is None:
        raise KnowledgeError("this graph has no vectors yet, only triples: train them first (python -m rapiddraw train kg --help)")
    generator = torch.Generator().manual_seed(seed % 2**63)
    wanted, language = _wanted(knowledge, chosen.entities), chosen.language.strip()
    names = _descriptions(knowledge, chosen.described_by, language) if chosen.described_by.strip() else _names(knowledge, language)
    found, left_out = _candidates(spaces, knowledge, wanted, names, chosen.max_tokens)
    if len(found) < MIN_ENTITIES:
        raise KnowledgeError(
            f"only {len(found)} of {len(wanted)} entities can be fitted on, at least {MIN_ENTITIES} are needed: {_reasons(left_out)}. "
            "Choose more entities, another language, or raise max_tokens; a graph needs names (aliases) that this CLIP knows"
        )
    order = torch.randperm(len(found), generator=generator)[: chosen.limit or MAX_ENTITIES].tolist()
    if len(order) < MIN_ENTITIES:
        raise InputError(f"limit={chosen.limit}: at least {MIN_ENTITIES} entities are needed (0 takes all)")
    held = max(1, round(len(order) * holdout))
    vectors = torch.stack([knowledge.embeddings[knowledge.index[found[i][0]]] for i in order])
    weights, rows = {}, []
    with Progress(len(spaces), "fitting projection", "encoder") as bar:
        for position, space in enumerate(spaces):
            targets = _targets(space, [found[i][1][position] for i in order])
            weights[space.key] = ridge(vectors[held:], targets[held:], strength)
            measured = measure(weights[space.key], vectors[:held], targets[:held], targets[held:].mean(0))
            rows.append({"encoder": space.key, "width": space.width, "fitted": len(order) - held, "held_out": held, **measured})
            bar.update()
    notes = [
        f"{len(order)} of {len(wanted)} entities by {chosen.called_by}, language {language or 'any'}, at most {chosen.max_tokens} tokens a "
        f"name, ridge {strength:g}, seed {seed}; {_reasons(left_out)}"
    ]
    notes += [_verdict(row) for row in rows]
    provenance = {
        "recipe": "fit_knowledge", "ridge": float(strength), "holdout": float(holdout), "seed": seed, "language": language,
        "max_tokens": chosen.max_tokens, "described_by": chosen.described_by.strip(), "entities": len(order),
        "rows": [dict(row) for row in rows],
    }  # fmt: skip
    return Fit(Projection(weights, knowledge.digest, provenance), tuple(rows), tuple(notes))


def named(fit: Fit, name: str) -> Fit:
    """Return the same fit with its projection called `name`; the report says where it was saved."""
    return replace(fit, projection=replace(fit.projection, name=name), notes=(*fit.notes, f"saved as {name}"))


def _check(holdout: float, seed: int, limit: int, max_tokens: int) -> None:
    if isinstance(holdout, bool) or not isinstance(holdout, int | float) or not 0.05 <= holdout <= 0.5:
        raise InputError(f"holdout={holdout!r}: give the share of entities to measure on, from 0.05 to 0.5")
    for name, value, low, high in (
        ("seed", seed, 0, MAX_SEED),
        ("limit", limit, 0, MAX_ENTITIES),
        ("max_tokens", max_tokens, 1, MAX_ALIAS_TOKENS),
    ):
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise InputError(f"{name}={value!r}: give an integer from {low} to {high}")


def _wanted(knowledge: KnowledgeGraph, text: str) -> list[str]:
    """Return the ids that a list of ids and names means, each once, in the graph's order; for an empty list all ids."""
    if not isinstance(text, str) or len(text) > MAX_LIST:
        raise InputError(f"entities: at most {MAX_LIST} characters of ids or names, one a line or separated by commas")
    asked = {plain_name(part) for part in _parts(text)}
    if not asked:
        return list(knowledge.entities)
    by_name: dict[str, str] = {}
    for entity, by in knowledge.aliases.items():
        for name in (name for names in by.values() for name in names):
            by_name.setdefault(folded_name(name), entity)
    chosen = {part: part if part in knowledge.index else by_name.get(folded_name(part)) for part in asked}
    unknown = sorted(part for part, entity in chosen.items() if entity is None)
    if unknown:
        near = difflib.get_close_matches(unknown[0], [*knowledge.entities[:5000], *list(by_name)[:5000]], n=3, cutoff=0.4)
        hint = f"; near the first there is {', '.join(near)}" if near else ""
        raise InputError(f"the graph has no entity or name {', '.join(map(repr, unknown[:5]))} ({len(unknown)} unknown in all){hint}")
    ids = set(chosen.values())
    return [entity for entity in knowledge.entities if entity in ids]


Readings = Mapping[str, Sequence[Sequence[str]]]
"""What an entity may be called: alternatives, of which the first that can be spelled counts. Each is one or more names, taken together."""


def _names(knowledge: KnowledgeGraph, language: str) -> Readings:
    return {
        entity: [[name] for key, names in by.items() if not language or key == language for name in names]
        for entity, by in knowledge.aliases.items()
    }


def _descriptions(knowledge: KnowledgeGraph, described_by: str, language: str) -> Readings:
    relations = list(dict.fromkeys(map(plain_name, _parts(described_by))))
    unknown = [name for name in relations if name not in knowledge.relations]
    if unknown:
        raise InputError(f"described_by: the graph has no relation {unknown[0]!r}; it has {', '.join(knowledge.relations[:20])}")
    own = _names(knowledge, language)
    rank = {knowledge.relations.index(name): place for place, name in enumerate(relations)}
    tails: dict[str, list[tuple[int, str]]] = {}
    for head, relation, tail in knowledge.triples:
        if relation in rank:
            entity = knowledge.entities[tail]
            called = own[entity][0][0] if own.get(entity) else entity.rpartition(":")[2].replace("_", " ")
            tails.setdefault(knowledge.entities[head], []).append((rank[relation], called))
    return {entity: [[name for _, name in sorted(found)]] for entity, found in tails.items()}


def _candidates(
    spaces: Sequence[TokenSpace], knowledge: KnowledgeGraph, wanted: Sequence[str], readings: Readings, max_tokens: int
) -> tuple[list[tuple[str, list[list[int]]]], dict[str, int]]:
    """Return (entity, the ids of its name by encoder) of what can be fitted on, and the number of others by reason."""
    linkers = list(linkers_of(spaces, KnowledgeGraph((), (), ())).values())  # the graph is empty, because they only spell here
    found: list[tuple[str, list[list[int]]]] = []
    left_out = {"without a vector": 0, "without a name": 0, f"with names of more than {max_tokens} tokens": 0}
    no_vector, no_name, too_long = left_out
    for entity in wanted:
        vector, names = knowledge.vector(entity), readings.get(entity, ())
        if vector is None or not bool(vector.count_nonzero()):
            left_out[no_vector] += 1
        elif not names:
            left_out[no_name] += 1
        elif (spelled := next(filter(None, (_spell(linkers, name, max_tokens) for name in names)), None)) is None:
            left_out[too_long] += 1
        else:
            found.append((entity, spelled))
    return found, left_out


def _spell(linkers: Sequence[AnyLinker], names: Sequence[str], max_tokens: int) -> list[list[int]] | None:
    """Return by encoder the ids of `names` in one list, without names that a tokenizer cannot spell shortly; `None` where none is left."""
    spelled: list[list[int]] = [[] for _ in linkers]
    for name in names:
        ids = [linker.spell(name) for linker in linkers]
        if all(one is not None and len(one) <= max_tokens for one in ids):
            for whole, one in zip(spelled, ids, strict=True):
                whole += one or []
    return spelled if spelled and spelled[0] else None


def _parts(text: str) -> list[str]:
    return [part.strip() for line in text.splitlines() for part in line.split(",") if part.strip()]


def _targets(space: TokenSpace, names: Sequence[Sequence[int]]) -> Tensor:
    """Return (len(names), width): the mean of each name's token embeddings. Every token is looked up once."""
    distinct = sorted({token for name in names for token in name})
    place = {token: row for row, token in enumerate(distinct)}
    table = space.embed(distinct).detach().to("cpu", torch.float32)
    return torch.stack([table[[place[token] for token in name]].mean(0) for name in names])


def _reasons(left_out: Mapping[str, int]) -> str:
    parts = [f"{count} {reason}" for reason, count in left_out.items() if count]
    return f"left out: {', '.join(parts)}" if parts else "none left out"


def _verdict(row: Mapping[str, Any]) -> str:
    if row["ratio"] < 1:
        return f"{row['encoder']}: on held-out names W does better than the mean name, by {1 - row['ratio']:.0%} of its error"
    text = (
        f"{row['encoder']}: on held-out names W does no better than the mean name, so what it adds to an unknown name is hardly more "
        "than noise: fit on names that this CLIP knows and that mean what the graph says, on more of them, or with more ridge"
    )
    log.warning("fitted projection, encoder %s", text)
    return text
