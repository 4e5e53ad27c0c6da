"""Names of a graph in a text, however they are written: in full-width letters, with typographic apostrophes, with zero-width spaces.

A :class:`~.linking.Linker` compares token ids, and every writing of a name has other ids. So a prompt is respelled before it is tokenized.
"""

from __future__ import annotations

from functools import cached_property

from ..language import is_cjk, plain_characters, plain_name
from .graph import KnowledgeGraph
from .linking import Linker, Match, Spelling

MAX_NAME = 256
"""The most characters of a name, as in a graph's file."""


class NameFinder:
    """Finds a graph's names in a text by their characters, whatever the case: whole words in Latin script, anywhere in Chinese."""

    def __init__(self, knowledge: KnowledgeGraph) -> None:
        self.knowledge = knowledge

    def find(self, text: str) -> list[Match]:
        """Return the names in `text` from left to right; `start` and `end` (exclusive) count characters of `text`."""
        characters = list(plain_characters(text))
        found = self._linker.find(_letters("".join(character for character, _, _ in characters)))
        return [Match(one.entity, one.alias, characters[one.start][1], characters[one.end - 1][2]) for one in found]

    def respell(self, text: str) -> str:
        """Return `text` with the names in it in plain form (see :func:`~..language.plain_name`); all else stays as it is."""
        if text.isascii() or plain_name(text) == text:
            return text
        for one in reversed(self.find(text)):
            text = text[: one.start] + plain_name(text[one.start : one.end]) + text[one.end :]
        return text

    @cached_property
    def _linker(self) -> Linker:
        return Linker(self.knowledge, Spelling(_letters, _joined), longest=MAX_NAME, most=None)


def _letters(text: str) -> list[int]:
    return [ord(character.lower()[0]) for character in text]


def _joined(left: int, right: int) -> bool:
    return all(chr(point).isalnum() and not is_cjk(chr(point)) for point in (left, right))
