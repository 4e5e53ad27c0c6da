"""A knowledge graph: triples, names in several languages, and (once trained) one vector an entity.

Files come from strangers, so every size is capped *before* anything grows with it, every string is normalised, and nothing follows
an edge recursively (cycles are harmless).

TSV, one statement a line: `head<TAB>relation<TAB>tail`; names: `id<TAB>alias@en<TAB>name`; `#` starts a comment line.
JSON Lines, one object a line: `{"head": .., "relation": .., "tail": ..}` or `{"id": .., "aliases": {"en": [..], "zh": [..]}}`.
"""

from __future__ import annotations

import hashlib
import json
import re
import unicodedata
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

MAX_BYTES = 64 * 2**20
MAX_TRIPLES = 1_000_000
MAX_ENTITIES = 200_000
MAX_RELATIONS = 1_000
MAX_DEGREE = 100_000
MAX_STRING = 256
MAX_ALIASES = 64
MAX_DIM = 4096
_LANGUAGE = re.compile(r"[a-z]{2,3}(-[A-Za-z0-9]{1,8})?")
_ALIAS = "alias@"
Triple = tuple[int, int, int]


@dataclass(frozen=True)
class KnowledgeGraph:
    """Entities and what is said of them. What the KNOWLEDGE_GRAPH socket carries.

    `entities` and `relations` are distinct ids; `triples` (head, relation, tail) index them; `aliases` maps an entity id to its names by
    language (`{"fruit:mirado": {"en": ["mirado"], "zh": [..]}}`); `embeddings` is (len(entities), dim) float32 or `None` before training.
    Built by :func:`build_graph`, :func:`load_triples` or :func:`load_knowledge`, which check all of it.
    """

    entities: tuple[str, ...]
    relations: tuple[str, ...]
    triples: tuple[Triple, ...]
    aliases: Mapping[str, Mapping[str, tuple[str, ...]]] = field(default_factory=dict)
    embeddings: Tensor | None = None
    provenance: Mapping[str, Any] = field(default_factory=dict)

    @cached_property
    def index(self) -> dict[str, int]:
        """Entity id to its position in `entities` and its row in `embeddings`."""
        return {entity: i for i, entity in enumerate(self.entities)}

    @cached_property
    def connected(self) -> frozenset[int]:
        """Positions of the entities that at least one triple mentions; only these carry knowledge."""
        return frozenset(i for head, _, tail in self.triples for i in (head, tail))

    @property
    def dim(self) -> int:
        """Length of an entity's vector; 0 before training."""
        return 0 if self.embeddings is None else int(self.embeddings.shape[1])

    @cached_property
    def digest(self) -> str:
        """Hex SHA-256 of the vectors, empty before training: what a projection fitted to them is recognised by."""
        if self.embeddings is None:
            return ""
        return hashlib.sha256(str(tuple(self.embeddings.shape)).encode() + self.embeddings.contiguous().numpy().tobytes()).hexdigest()

    def vector(self, entity: str) -> Tensor | None:
        """`e_kg` of an entity (dim,), or `None` where there is nothing to add: an unknown entity, one without triples, no training yet."""
        position = self.index.get(entity)
        if position is None or self.embeddings is None or position not in self.connected:
            return None
        return self.embeddings[position]

    def neighbours(self, entity: str) -> list[tuple[str, str, str]]:
        """The triples that mention an entity, as ids, in file order. Raises :class:`KnowledgeError` for an unknown one."""
        position = self.index.get(entity)
        if position is None:
            raise KnowledgeError(
                f"the graph has no entity {entity!r}; ids look like {self.entities[0] if self.entities else 'nothing: it is empty'}"
            )
        return [(self.entities[h], self.relations[r], self.entities[t]) for h, r, t in self.triples if position in (h, t)]

    def with_embeddings(self, embeddings: Tensor | None, provenance: Mapping[str, Any] | None = None) -> KnowledgeGraph:
        """The same graph with vectors (len(entities), dim). Rows of entities without triples become zero: they know nothing."""
        if embeddings is not None:
            embeddings = _checked_embeddings(embeddings, len(self.entities))
            for position in range(len(self.entities)):
                if position not in self.connected:
                    embeddings[position] = 0.0
        return replace(self, embeddings=embeddings, provenance=dict(self.provenance if provenance is None else provenance))


def build_graph(
    statements: Iterable[tuple[str, str, str]],
    aliases: Iterable[tuple[str, str, str]] = (),
    source: str = "graph",
) -> KnowledgeGraph:
    """A checked graph from (head, relation, tail) and (entity, language, name).

    Strings are NFC-normalised and stripped, repeated statements and names count once, an entity may have names only (it then knows
    nothing). Raises :class:`KnowledgeError` naming `source` and the cap that was passed.
    """
    entities: dict[str, int] = {}
    relations: dict[str, int] = {}
    triples: dict[Triple, None] = {}
    degree: Counter[int] = Counter()
    for head, relation, tail in statements:
        row = (
            _number(entities, _clean(head, source), MAX_ENTITIES, "entities", source),
            _number(relations, _clean(relation, source), MAX_RELATIONS, "relations", source),
            _number(entities, _clean(tail, source), MAX_ENTITIES, "entities", source),
        )
        if row in triples:
            continue
        triples[row] = None
        degree.update({row[0], row[2]})
        if len(triples) > MAX_TRIPLES:
            raise KnowledgeError(f"{source}: more than {MAX_TRIPLES} triples; keep the part of the graph that pictures can show")
        for position in (row[0], row[2]):
            if degree[position] > MAX_DEGREE:
                raise KnowledgeError(f"{source}: entity {list(entities)[position]!r} is in more than {MAX_DEGREE} triples")
    named: dict[str, dict[str, dict[str, None]]] = {}
    for entity, language, name in aliases:
        entity = _clean(entity, source)
        if not isinstance(language, str) or not _LANGUAGE.fullmatch(language):
            raise KnowledgeError(f"{source}: {language!r} is not a language code such as 'en' or 'zh' (alias of {entity!r})")
        _number(entities, entity, MAX_ENTITIES, "entities", source)
        names = named.setdefault(entity, {}).setdefault(language, {})
        names[_clean(name, source)] = None
        if sum(map(len, named[entity].values())) > MAX_ALIASES:
            raise KnowledgeError(f"{source}: entity {entity!r} has more than {MAX_ALIASES} names")
    frozen = {entity: {language: tuple(names) for language, names in by.items()} for entity, by in named.items()}
    return KnowledgeGraph(tuple(entities), tuple(relations), tuple(triples), frozen)


def load_triples(path: str | Path) -> KnowledgeGraph:
    """Read a `.tsv` or `.jsonl` file (see the module's head). Raises :class:`KnowledgeError` with the file's name and the line."""
    path = Path(path)
    if not path.is_file():
        raise KnowledgeError(f"no such knowledge file: {path}")
    if path.stat().st_size > MAX_BYTES:
        raise KnowledgeError(f"{path.name} is {path.stat().st_size} bytes long, more than the {MAX_BYTES} allowed for a knowledge file")
    parse = {".tsv": _parse_tsv, ".jsonl": _parse_jsonl}.get(path.suffix.lower())
    if parse is None:
        raise KnowledgeError(
            f"{path.name}: knowledge comes as .tsv (head, relation, tail) or .jsonl, not {path.suffix or 'without a suffix'!r}"
        )
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise KnowledgeError(f"{path.name} is not UTF-8 text ({error}); save it as UTF-8") from error
    statements: list[tuple[str, str, str]] = []
    aliases: list[tuple[str, str, str]] = []
    for number, line in enumerate(text.split("\n"), 1):
        line = line.rstrip("\r")
        if not line.strip() or line.startswith("#"):
            continue
        for kind, row in parse(line, f"{path.name}, line {number}"):
            (aliases if kind == "alias" else statements).append(row)
        if len(statements) > 2 * MAX_TRIPLES or len(aliases) > MAX_ENTITIES * 8:
            raise KnowledgeError(f"{path.name}: more than {MAX_TRIPLES} triples or too many names by line {number}")
    if not statements and not aliases:
        raise KnowledgeError(f"{path.name} holds no statement; a line reads head<TAB>relation<TAB>tail")
    return build_graph(statements, aliases, path.name)


def save_knowledge(path: str | Path, graph: KnowledgeGraph, provenance: Mapping[str, Any] | None = None) -> Path:
    """Write one bundle (kind `kg`) that is the whole KNOWLEDGE_GRAPH: vectors and triples as tensors, ids and names in the metadata."""
    if graph.embeddings is None:
        raise KnowledgeError("this graph has no vectors yet: train them first (python -m rapiddraw train kg)")
    tensors = {"embeddings": graph.embeddings, "triples": torch.tensor(graph.triples, dtype=torch.int32).reshape(-1, 3)}
    extra = {
        "entities": list(graph.entities),
        "relations": list(graph.relations),
        "aliases": {entity: {lang: list(names) for lang, names in by.items()} for entity, by in graph.aliases.items()},
    }
    info = BundleInfo(
        "kg", config={"kg_dim": graph.dim}, provenance=dict(graph.provenance if provenance is None else provenance), extra=extra
    )
    return save_bundle(path, tensors, info)


def load_knowledge(source: str | Path | Bundle) -> KnowledgeGraph:
    """The graph in a bundle of kind `kg`. Raises :class:`KnowledgeError` where ids, triples and vectors do not fit together."""
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
    return graph.with_embeddings(bundle.tensors["embeddings"], bundle.info.provenance)


def _parse_tsv(line: str, where: str) -> Iterator[tuple[str, tuple[str, str, str]]]:
    cells = line.split("\t")
    if len(cells) != 3:
        raise KnowledgeError(f"{where}: expected head<TAB>relation<TAB>tail, found {len(cells)} column(s)")
    head, relation, tail = cells
    if relation.startswith(_ALIAS):
        yield "alias", (head, relation.removeprefix(_ALIAS), tail)
    else:
        yield "triple", (head, relation, tail)


def _parse_jsonl(line: str, where: str) -> Iterator[tuple[str, tuple[str, str, str]]]:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise KnowledgeError(f"{where}: not a JSON object ({error})") from error
    if isinstance(row, dict) and {"head", "relation", "tail"} <= row.keys():
        yield "triple", (row["head"], row["relation"], row["tail"])
    elif isinstance(row, dict) and isinstance(row.get("aliases"), dict) and "id" in row:
        for alias in _alias_rows({row["id"]: row["aliases"]} if isinstance(row["id"], str) else {}, where):
            yield "alias", alias
    else:
        raise KnowledgeError(f'{where}: expected {{"head", "relation", "tail"}} or {{"id", "aliases": {{"en": [..]}}}}')


def _alias_rows(raw: Mapping[str, Mapping[str, Any]], where: str) -> Iterator[tuple[str, str, str]]:
    for entity, by in raw.items():
        for language, names in by.items():
            if not isinstance(names, list):
                raise KnowledgeError(f"{where}: the names of {entity!r} in {language!r} must be a list")
            for name in names:
                yield entity, language, name


def _clean(value: object, source: str) -> str:
    if not isinstance(value, str):
        raise KnowledgeError(f"{source}: ids, relations and names are strings, found {type(value).__name__}")
    if len(value) > MAX_STRING:  # before normalising, which is not free
        raise KnowledgeError(f"{source}: a string of {len(value)} characters, more than the {MAX_STRING} allowed: {value[:40]!r}...")
    text = unicodedata.normalize("NFC", value).strip()
    if not text or len(text) > MAX_STRING or any(unicodedata.category(c) in ("Cc", "Cs") for c in text):
        raise KnowledgeError(f"{source}: {value[:40]!r} is empty, too long or holds control characters")
    return text


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
        raise KnowledgeError(f"{name}: {key!r} lists {Counter(ids).most_common(1)[0][0]!r} twice")
    return tuple(ids)


def _checked_embeddings(embeddings: Tensor, count: int) -> Tensor:
    if embeddings.dim() != 2 or len(embeddings) != count or not 1 <= embeddings.shape[1] <= MAX_DIM:
        raise KnowledgeError(
            f"vectors of shape {tuple(embeddings.shape)} do not fit a graph of {count} entities; "
            f"expected ({count}, dim) with dim up to {MAX_DIM}. Were they trained on another version of the graph?"
        )
    whole = embeddings.detach().to("cpu", torch.float32, copy=True)
    if not bool(whole.isfinite().all()):
        raise KnowledgeError("the graph's vectors hold values that are NaN or infinite")
    return whole
