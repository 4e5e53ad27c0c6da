"""The knowledge graph: triples, names in several languages, and (once trained) one vector for each entity.

Graphs come from strangers: every size is capped *before* memory grows with it, every string is brought to one form
(:func:`~..language.plain_name`), and no code follows edges recursively, so cycles are harmless. :mod:`.triples` reads text files.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..bundles.format import Bundle, BundleInfo, save_bundle
from ..bundles.load import load_bundle
from ..errors import KnowledgeError
from ..language import plain_name

MAX_BYTES = 64 * 2**20
MAX_TRIPLES = 1_000_000
MAX_ENTITIES = 200_000
MAX_RELATIONS = 1_000
MAX_DEGREE = 100_000
MAX_STRING = 256
MAX_ALIASES = 64
MAX_DIM = 4096
_LANGUAGE = re.compile(r"[a-z]{2,3}(-[A-Za-z0-9]{1,8})?")
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
Triple = tuple[int, int, int]


@dataclass(frozen=True)
class KnowledgeGraph:
    """Entities and the statements about them: what the KNOWLEDGE_GRAPH socket carries.

    `entities` and `relations` are distinct ids; `triples` (head, relation, tail) index them. `aliases` maps an entity id to its names by
    language (`{"fruit:mirado": {"en": ["mirado"], "zh": [..]}}`). `embeddings` is (len(entities), dim) float32, or `None` before training.
    `relation_vectors` is (len(relations), dim) float32, or `None` where a bundle does not hold them. `extends` is the digest of the graph
    whose vectors this one was extended from, "" for a graph that was trained. A graph is built by :func:`build_graph`,
    :func:`~.triples.load_triples` or :func:`load_knowledge`, which check all of it.
    """

    entities: tuple[str, ...]
    relations: tuple[str, ...]
    triples: tuple[Triple, ...]
    aliases: Mapping[str, Mapping[str, tuple[str, ...]]] = field(default_factory=dict)
    embeddings: Tensor | None = None
    provenance: Mapping[str, Any] = field(default_factory=dict)
    relation_vectors: Tensor | None = None
    extends: str = ""

    @cached_property
    def index(self) -> dict[str, int]:
        """The position of an entity id in `entities`, which is its row in `embeddings`."""
        return {entity: i for i, entity in enumerate(self.entities)}

    @cached_property
    def connected(self) -> frozenset[int]:
        """Positions of the entities that at least one triple mentions; only these carry knowledge."""
        return frozenset(i for head, _, tail in self.triples for i in (head, tail))

    @property
    def dim(self) -> int:
        """The length of an entity's vector; 0 before training."""
        return 0 if self.embeddings is None else int(self.embeddings.shape[1])

    @cached_property
    def digest(self) -> str:
        """Hex SHA-256 of the vectors, empty before training. A projection remembers by it which vectors it was fitted to.

        An extended graph has the digest of the graph that it extends: its new vectors lie in the same space.
        """
        if self.embeddings is None:
            return ""
        if self.extends:
            return self.extends
        return hashlib.sha256(str(tuple(self.embeddings.shape)).encode() + self.embeddings.contiguous().numpy().tobytes()).hexdigest()

    def vector(self, entity: str) -> Tensor | None:
        """Return `e_kg` of an entity (dim,); `None` for an unknown entity, for one without triples, and before training."""
        position = self.index.get(entity)
        if position is None or self.embeddings is None or position not in self.connected:
            return None
        return self.embeddings[position]

    def neighbours(self, entity: str) -> list[tuple[str, str, str]]:
        """Return the triples that mention an entity, as ids, in file order. Raises :class:`KnowledgeError` for an unknown one."""
        position = self.index.get(entity)
        if position is None:
            raise KnowledgeError(
                f"the graph has no entity {entity!r}; ids look like {self.entities[0] if self.entities else 'nothing: it is empty'}"
            )
        return [(self.entities[h], self.relations[r], self.entities[t]) for h, r, t in self.triples if position in (h, t)]

    def with_embeddings(
        self, embeddings: Tensor | None, provenance: Mapping[str, Any] | None = None, relations: Tensor | None = None
    ) -> KnowledgeGraph:
        """Return the same graph with vectors (len(entities), dim) and, where given, the vectors `relations` (len(relations), dim).

        Rows of entities without triples become zero: they know nothing.
        """
        if relations is not None:
            relations = _checked_embeddings(relations, len(self.relations), "relations")
            if embeddings is None or relations.shape[1] != embeddings.shape[1]:
                raise KnowledgeError("the vectors of entities and relations differ in length: train the graph again")
        if embeddings is not None:
            embeddings = _checked_embeddings(embeddings, len(self.entities))
            for position in range(len(self.entities)):
                if position not in self.connected:
                    embeddings[position] = 0.0
        said = dict(self.provenance if provenance is None else provenance)
        return replace(self, embeddings=embeddings, provenance=said, relation_vectors=relations, extends="")


class GraphBuilder:
    """Collects checked statements and names, one by one, into a :class:`KnowledgeGraph`.

    Strings are brought to the form of :func:`~..language.plain_name`. Repeated statements and names count once. Every method raises
    :class:`KnowledgeError`, which begins with `source`: where the statement stands, such as "fruits.tsv, line 3".
    """

    def __init__(self) -> None:
        self._entities: dict[str, int] = {}
        self._relations: dict[str, int] = {}
        self._triples: dict[Triple, None] = {}
        self._degree: Counter[int] = Counter()
        self._names: dict[str, dict[str, dict[str, None]]] = {}

    def __len__(self) -> int:
        """Return how many triples and named entities there are."""
        return len(self._triples) + len(self._names)

    def add(self, head: object, relation: object, tail: object, source: str) -> None:
        """Add one triple of ids."""
        row = (
            _number(self._entities, _clean(head, source), MAX_ENTITIES, "entities", source),
            _number(self._relations, _clean(relation, source), MAX_RELATIONS, "relations", source),
            _number(self._entities, _clean(tail, source), MAX_ENTITIES, "entities", source),
        )
        if row in self._triples:
            return
        if len(self._triples) >= MAX_TRIPLES:
            raise KnowledgeError(f"{source}: more than {MAX_TRIPLES} triples; keep the part of the graph that pictures can show")
        self._triples[row] = None
        self._degree.update({row[0], row[2]})
        for position in (row[0], row[2]):
            if self._degree[position] > MAX_DEGREE:
                raise KnowledgeError(f"{source}: entity {list(self._entities)[position]!r} is in more than {MAX_DEGREE} triples")

    def name(self, entity: object, language: object, name: object, source: str) -> None:
        """Add one name of an entity. An entity may have names only; such an entity knows nothing."""
        identity, code = _clean(entity, source), _language(language, entity, source)
        if identity not in self._names and len(self._names) >= MAX_ENTITIES:
            raise KnowledgeError(f"{source}: more than {MAX_ENTITIES} entities with names")
        by = self._names.setdefault(identity, {})
        by.setdefault(code, {})[_clean(name, source)] = None
        if sum(map(len, by.values())) > MAX_ALIASES:
            raise KnowledgeError(f"{source}: entity {identity!r} has more than {MAX_ALIASES} names")

    def build(self, source: str) -> KnowledgeGraph:
        """Return the graph: the entities of triples in the order in which they came, then those that have names only."""
        for entity in self._names:
            _number(self._entities, entity, MAX_ENTITIES, "entities", source)
        aliases = {entity: {code: tuple(names) for code, names in by.items()} for entity, by in self._names.items()}
        return KnowledgeGraph(tuple(self._entities), tuple(self._relations), tuple(self._triples), aliases)


def build_graph(
    statements: Iterable[tuple[str, str, str]],
    aliases: Iterable[tuple[str, str, str]] = (),
    source: str = "graph",
) -> KnowledgeGraph:
    """Return a checked graph from (head, relation, tail) and (entity, language, name); see :class:`GraphBuilder`.

    Raises :class:`KnowledgeError`, which names `source` and the cap that was passed.
    """
    builder = GraphBuilder()
    for head, relation, tail in statements:
        builder.add(head, relation, tail, source)
    for entity, language, name in aliases:
        builder.name(entity, language, name, source)
    return builder.build(source)


def save_knowledge(path: str | Path, graph: KnowledgeGraph, provenance: Mapping[str, Any] | None = None) -> Path:
    """Write the whole graph as one bundle (kind `kg`): vectors and triples as tensors, ids and names in the metadata. Return the file's
    path.
    """
    if graph.embeddings is None:
        raise KnowledgeError("this graph has no vectors yet: train them first (python -m rapiddraw train kg)")
    tensors = {"embeddings": graph.embeddings, "triples": torch.tensor(graph.triples, dtype=torch.int32).reshape(-1, 3)}
    if graph.relation_vectors is not None:
        tensors["relations"] = graph.relation_vectors
    extra: dict[str, Any] = {
        "entities": list(graph.entities),
        "relations": list(graph.relations),
        "aliases": {entity: {lang: list(names) for lang, names in by.items()} for entity, by in graph.aliases.items()},
    }
    if graph.extends:
        extra["extends"] = graph.extends
    info = BundleInfo(
        "kg", config={"kg_dim": graph.dim}, provenance=dict(graph.provenance if provenance is None else provenance), extra=extra
    )
    return save_bundle(path, tensors, info)


def load_knowledge(source: str | Path | Bundle) -> KnowledgeGraph:
    """Return the graph in a bundle of kind `kg`. Raises :class:`KnowledgeError` where ids, triples and vectors do not fit together."""
    bundle = source if isinstance(source, Bundle) else load_bundle(source, "kg")
    name = bundle.info.path.name if bundle.info.path else "knowledge bundle"
    extra = bundle.info.extra
    entities, relations = _ids(extra, "entities", MAX_ENTITIES, name), _ids(extra, "relations", MAX_RELATIONS, name)
    triples = bundle.tensors.get("triples")
    if triples is None or triples.dim() != 2 or triples.shape[1] != 3 or triples.is_floating_point() or len(triples) > MAX_TRIPLES:
        raise KnowledgeError(f"{name}: 'triples' must be an integer tensor (n, 3) of at most {MAX_TRIPLES} rows")
    limits = torch.tensor([len(entities), len(relations), len(entities)])
    if bool((triples.long() < 0).any()) or bool((triples.long() >= limits).any()):
        raise KnowledgeError(f"{name}: a triple points at an entity or relation that the file does not list; write the bundle again")
    ids = [(entities[h], relations[r], entities[t]) for h, r, t in triples.tolist()]
    raw = extra.get("aliases", {})
    if not isinstance(raw, dict) or not all(isinstance(by, dict) for by in raw.values()):
        raise KnowledgeError(f"{name}: 'aliases' must map an entity to names by language")
    checked = build_graph(ids, _alias_rows(raw, name), name)
    unlisted = set(checked.entities) - set(entities)
    if unlisted:
        raise KnowledgeError(f"{name}: names are given for {sorted(unlisted)[0]!r}, which the file does not list")
    graph = KnowledgeGraph(entities, relations, tuple((h, r, t) for h, r, t in triples.tolist()), checked.aliases)
    if "embeddings" not in bundle.tensors:
        raise KnowledgeError(f"{name}: the vectors ('embeddings') are missing; write the bundle again")
    extends = extra.get("extends", "")
    if not isinstance(extends, str) or not re.fullmatch("([0-9a-f]{64})?", extends):
        raise KnowledgeError(f"{name}: 'extends' must be the digest of a graph (64 hexadecimal digits); write the bundle again")
    graph = graph.with_embeddings(bundle.tensors["embeddings"], bundle.info.provenance, bundle.tensors.get("relations"))
    return replace(graph, extends=extends)


def _alias_rows(raw: Mapping[str, Mapping[str, Any]], where: str) -> Iterator[tuple[str, str, str]]:
    for entity, by in raw.items():
        for language, names in by.items():
            if not isinstance(names, list):
                raise KnowledgeError(f"{where}: the names of {entity!r} in {language!r} must be a list of strings")
            for name in names:
                yield entity, language, name


def _language(code: object, entity: object, source: str) -> str:
    """Return a language code with its first part in small letters: `EN` is `en`, `zh_CN` is `zh-CN`."""
    text = plain_name(code).replace("_", "-") if isinstance(code, str) and len(code) <= MAX_STRING else ""
    first, dash, rest = text.partition("-")
    text = first.lower() + dash + rest
    if not _LANGUAGE.fullmatch(text):
        raise KnowledgeError(f"{source}: {_shown(code)} is not a language code such as 'en' or 'zh' (name of {_shown(entity)})")
    return text


def _clean(value: object, source: str) -> str:
    if not isinstance(value, str):
        raise KnowledgeError(f"{source}: ids, relations and names are strings, {_shown(value)} is {type(value).__name__}; put it in quotes")
    if len(value) > MAX_STRING:  # before the string is brought to its form, which takes time
        raise KnowledgeError(f"{source}: a string of {len(value)} characters, more than the {MAX_STRING} allowed: {_shown(value)}")
    text = value.strip()
    if not (text.isascii() and text.isprintable()):
        if _CONTROL.search(text):
            raise KnowledgeError(f"{source}: {_shown(value)} holds control characters or lone surrogates; remove them")
        text = plain_name(text)
    if not text or len(text) > MAX_STRING:
        raise KnowledgeError(f"{source}: {_shown(value)} is empty, or longer than {MAX_STRING} characters in plain form")
    return text


def _shown(value: object) -> str:
    """Return a value for an error message: at most 40 characters, everything that does not print escaped."""
    return repr(value[:40]) + ("..." if len(value) > 40 else "") if isinstance(value, str) else repr(value)[:40]


def _number(ids: dict[str, int], value: str, limit: int, what: str, source: str) -> int:
    if value not in ids and len(ids) >= limit:
        raise KnowledgeError(f"{source}: more than {limit} {what}")
    return ids.setdefault(value, len(ids))


def _ids(extra: Mapping[str, Any], key: str, limit: int, name: str) -> tuple[str, ...]:
    values = extra.get(key)
    if not isinstance(values, list) or len(values) > limit:
        raise KnowledgeError(f"{name}: {key!r} must be a list of at most {limit} ids")
    ids: Sequence[str] = [_clean(value, name) for value in values]
    if len(set(ids)) != len(ids):
        twice = Counter(ids).most_common(1)[0][0]
        raise KnowledgeError(f"{name}: {key!r} lists {twice!r} twice, perhaps in two writings; train the graph again from its triples")
    return tuple(ids)


def _checked_embeddings(embeddings: Tensor, count: int, what: str = "entities") -> Tensor:
    if embeddings.dim() != 2 or len(embeddings) != count or not 1 <= embeddings.shape[1] <= MAX_DIM:
        raise KnowledgeError(
            f"vectors of shape {tuple(embeddings.shape)} do not fit a graph of {count} {what}; "
            f"expected ({count}, dim) with dim up to {MAX_DIM}. Were they trained on another version of the graph?"
        )
    whole = embeddings.detach().to("cpu", torch.float32, copy=True)
    if not bool(whole.isfinite().all()):
        raise KnowledgeError("the graph's vectors hold values that are NaN or infinite")
    return whole
