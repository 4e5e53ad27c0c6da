"""Knowledge files as people write them: triples and names, as TSV or as JSON Lines.

TSV, one statement a line: `head<TAB>relation<TAB>tail`; names: `id<TAB>alias@en<TAB>name`; `#` starts a comment line.

JSON Lines, one object a line: `{"head": .., "relation": .., "tail": ..}` or `{"id": .., "aliases": {"en": [..], "zh": [..]}}`, or both in
one object.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..errors import KnowledgeError
from ..language import plain_name
from . import graph as limits
from .graph import GraphBuilder, KnowledgeGraph

MAX_LINE = 2**20
_ALIAS = re.compile(r"alias(es)?( *@ *(?P<language>.*))?", re.IGNORECASE)
_NOTHING = "\ufeff\u200b\u200c\u200d\u2060"  # what may stand unseen before the first column
_TRIPLE = ("head", "relation", "tail")


def load_triples(path: str | Path) -> KnowledgeGraph:
    """Read a `.tsv` or `.jsonl` file (see the module's head). Raises :class:`KnowledgeError` with the file's name and the line."""
    path = Path(path)
    if not path.is_file():
        raise KnowledgeError(f"no such knowledge file: {path}")
    size = path.stat().st_size
    if size > limits.MAX_BYTES:
        raise KnowledgeError(f"{path.name} is {size} bytes long, more than the {limits.MAX_BYTES} allowed for a knowledge file")
    read = {".tsv": _read_tsv, ".jsonl": _read_jsonl}.get(path.suffix.lower())
    if read is None:
        raise KnowledgeError(
            f"{path.name}: knowledge comes as .tsv (head, relation, tail) or .jsonl, not {path.suffix or 'without a suffix'!r}"
        )
    builder = GraphBuilder()
    number = 0
    for number, line in _lines(path):
        where = f"{path.name}, line {number}"
        read(line, builder, where)
        if number > 4 * limits.MAX_TRIPLES:
            raise KnowledgeError(f"{where}: more lines than {limits.MAX_TRIPLES} triples and their names need; remove the repeated ones")
    if not len(builder):
        raise KnowledgeError(f"{path.name} holds no statement; a line reads head<TAB>relation<TAB>tail")
    return builder.build(f"{path.name}, line {number}")


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """Yield (number, text) of every line that is neither empty nor a comment, without its end and without what stands unseen before it."""
    try:
        file = path.open("rb")
    except OSError as error:
        raise KnowledgeError(f"{path.name} cannot be read ({error.strerror}); check who may read it") from error
    with file:
        for number, raw in enumerate(iter(lambda: file.readline(MAX_LINE + 1), b""), 1):
            line = _decoded(raw, f"{path.name}, line {number}")
            if line.strip() and not line.startswith("#"):
                yield number, line


def _decoded(raw: bytes, where: str) -> str:
    if len(raw) > MAX_LINE:
        raise KnowledgeError(f"{where} is longer than the {MAX_LINE} bytes allowed")
    try:
        return raw.decode("utf-8").rstrip("\r\n").lstrip(_NOTHING)
    except UnicodeDecodeError as error:
        raise KnowledgeError(f"{where} is not UTF-8 text ({error.reason}); save the file as UTF-8") from error


def _read_tsv(line: str, builder: GraphBuilder, where: str) -> None:
    cells = line.split("\t")
    if len(cells) != 3:
        raise KnowledgeError(f"{where}: expected head<TAB>relation<TAB>tail, found {len(cells)} column(s)")
    head, relation, tail = cells
    _add(builder, head, relation, tail, where)


def _add(builder: GraphBuilder, head: Any, relation: Any, tail: Any, where: str) -> None:
    """Add a triple, or a name where the relation is `alias@en`, however it is written."""
    plain = isinstance(relation, str) and len(relation) <= limits.MAX_STRING
    alias = _ALIAS.fullmatch(plain_name(relation)) if plain else None
    if alias is None:
        builder.add(head, relation, tail, where)
    elif alias["language"] is None:
        raise KnowledgeError(f"{where}: {relation.strip()!r} does not say in which language the name is; write alias@en or alias@zh")
    else:
        builder.name(head, alias["language"], tail, where)


def _read_jsonl(line: str, builder: GraphBuilder, where: str) -> None:
    try:
        row = json.loads(line, object_pairs_hook=_without_repeats)
    except (ValueError, RecursionError) as error:
        raise KnowledgeError(f"{where}: not a JSON object ({error})") from error
    found = [key for key in _TRIPLE if key in row] if isinstance(row, dict) else []
    if not isinstance(row, dict) or not (found or "aliases" in row) or (found and len(found) < len(_TRIPLE)):
        expected = '{"head", "relation", "tail"} or {"id", "aliases": {"en": [..]}}, or both in one object'
        raise KnowledgeError(f"{where}: expected {expected}")
    if found:
        _add(builder, row["head"], row["relation"], row["tail"], where)
    if "aliases" in row:
        _read_names(row, builder, where)


def _read_names(row: dict[str, Any], builder: GraphBuilder, where: str) -> None:
    if "id" not in row or not isinstance(row["aliases"], dict):
        raise KnowledgeError(f'{where}: names are expected as {{"id": "fruit:1", "aliases": {{"en": ["red pear"]}}}}')
    for language, names in row["aliases"].items():
        if not isinstance(names, list):
            raise KnowledgeError(f"{where}: the names in {language!r} must be a list of strings")
        for name in names:
            builder.name(row["id"], language, name, where)


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    row = dict(pairs)
    if len(row) < len(pairs):
        raise ValueError("a key stands in it twice")
    return row
