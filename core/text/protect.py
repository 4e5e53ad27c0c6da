"""Protected parts of a prompt, which an enhancement must keep as they are: names of entities, quoted terms, prompt syntax.

A language model may leave a name out or misspell it, and then the picture shows something else. So the spans found here are checked in
every text that a model wrote. Our own model never sees them: it copies a slot.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..knowledge.graph import KnowledgeGraph

# Quoted terms, weights as (word:1.2), embeddings, and tags as <lora:name:0.8>; nothing nested, so that no pattern runs away.
_SYNTAX = re.compile(
    '"[^"\\n]{1,200}"|\u201c[^\u201c\u201d\\n]{1,200}\u201d|\u300c[^\u300c\u300d\\n]{1,200}\u300d|\u300e[^\u300e\u300f\\n]{1,200}\u300f'
    "|\u300a[^\u300a\u300b\\n]{1,200}\u300b|\\([^()\\n]{1,200}:\\d{1,3}(?:\\.\\d{1,6})?\\)|<[^<>\\n]{1,200}>|embedding:[^\\s,()]{1,200}"
)


@dataclass(frozen=True)
class Span:
    """Characters `start` to `end` (exclusive) of a text."""

    start: int
    end: int


def protected_spans(text: str, knowledge: KnowledgeGraph | None = None) -> list[Span]:
    """Return the spans of `text` that an enhancement must keep, from left to right, without overlaps.

    They are every name of `knowledge` in the text, and everything that is quoted or that prompt syntax binds together. Spans that overlap
    become one.
    """
    found = [Span(*match.span()) for match in _SYNTAX.finditer(text)]
    if knowledge is not None:
        found += name_spans(text, knowledge)
    merged: list[Span] = []
    for span in sorted(found, key=lambda span: (span.start, span.end)):
        if merged and span.start < merged[-1].end:
            merged[-1] = Span(merged[-1].start, max(merged[-1].end, span.end))
        else:
            merged.append(span)
    return merged


def name_spans(text: str, knowledge: KnowledgeGraph) -> list[Span]:
    """Return where `text` names entities of `knowledge`, whatever the case or the writing (see :class:`~..knowledge.names.NameFinder`)."""
    from ..knowledge.names import NameFinder

    return [Span(match.start, match.end) for match in NameFinder(knowledge).find(text)]


def lost(text: str, terms: Sequence[str]) -> list[str]:
    """Return those of `terms` that `text` does not hold verbatim, each once."""
    return [term for term in dict.fromkeys(terms) if term not in text]
