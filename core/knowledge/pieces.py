"""Names in the tokens of T5, umT5, Qwen, Gemma, Llama and Mistral, whose tokenizers keep case and spaces.

Such a tokenizer writes one name with other tokens after a space, in capitals or after a bracket. So a name is found in the text that the
tokens spell, by its characters, and then carried back to the tokens. Two kinds are known: SentencePiece (a token that begins a word begins
with U+2581) and byte pairs as in GPT-2 (each byte of a token is one letter, a space is U+0120).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from .graph import KnowledgeGraph
from .linking import MAX_ALIAS_TOKENS, MAX_LINKS, MIN_CJK, MIN_LATIN, EntityLink, Row, is_chinese
from .names import NameFinder

SENTENCE, BYTES = "\u2581", "\u0120"
_SHARE = 20  # one token in so many begins with the mark
_BYTE, _SPECIAL = re.compile(r"<0x([0-9A-Fa-f]{2})>"), re.compile(r"<.+>", re.DOTALL)
_GAP = "\ufffd".encode()
"""What stands for a token that is no text: no name holds it, and no word goes on over it."""


def mark_of(vocabulary: Mapping[str, int]) -> str | None:
    """Return how the tokens of a vocabulary mark a space, `SENTENCE` or `BYTES`, or None where they are of another kind."""
    for mark in (SENTENCE, BYTES):
        if sum(token.startswith(mark) for token in vocabulary) * _SHARE > len(vocabulary):
            return mark
    return None


class PieceLinker:
    """Finds a graph's names in token rows of one tokenizer, in any case: whole words in Latin script, anywhere in Chinese."""

    def __init__(self, knowledge: KnowledgeGraph, tokenizer: Any, mark: str) -> None:
        vocabulary = tokenizer.get_vocab()
        self.tokenizer, self._names = tokenizer, NameFinder(knowledge)
        self._tokens = {number: token for token, number in vocabulary.items()}
        self._piece = _sentence_piece if mark == SENTENCE else _byte_piece
        self._unknown = vocabulary.get("<unk>")

    def spell(self, name: str) -> list[int] | None:
        """Return the ids of a name after a space; `None` for a name that is too short, too long or has a part unknown to the tokenizer."""
        if len(name) < (MIN_CJK if is_chinese(name) else MIN_LATIN):
            return None
        ids = list(self.tokenizer(f" {name}")["input_ids"])
        text = [number for number in ids if self._bytes(number) is not None]
        return text if 0 < len(text) <= MAX_ALIAS_TOKENS and self._unknown not in ids else None

    def link(self, rows: Sequence[Row]) -> list[EntityLink]:
        """Return the links of a prompt's rows, ten at most. A token that holds a part of a name belongs to the name."""
        links: list[EntityLink] = []
        for number, row in enumerate(rows):
            pieces = [self._bytes(token[0]) if isinstance(token[0], int) else None for token in row]
            ends, text = [0], bytearray()
            for piece in pieces:
                text += _GAP if piece is None else piece
                ends.append(len(text))
            # A byte that is no text becomes a lone surrogate, so that every character's length in bytes is known.
            characters = text.decode("utf-8", "surrogateescape")
            starts = [0]
            for character in characters:
                starts.append(starts[-1] + len(character.encode("utf-8", "surrogateescape")))
            readable = "".join("\ufffd" if "\udc80" <= character <= "\udcff" else character for character in characters)
            for match in self._names.find(readable):
                begin, end = starts[match.start], starts[match.end]
                touched = (place for place in range(len(row)) if ends[place] < end and ends[place + 1] > begin)
                covered = [place for place in touched if pieces[place] is not None]
                if covered:
                    links.append(EntityLink(match.entity, match.alias, covered[0], covered[-1] + 1, number))
        return links[:MAX_LINKS]

    def _bytes(self, number: int) -> bytes | None:
        """Return the bytes that a token adds to the text; None for one that is no text."""
        return self._piece(self._tokens.get(number, "<unk>"))


def without_frame(rows: Sequence[Row], empty: Sequence[Row]) -> list[Row]:
    """Return `rows` with the tokens blanked that they share with the rows of an empty text at both ends.

    These are the words that a tokenizer of a language model puts around every prompt: "Describe the image by ...".
    """
    return [_unframed(row, empty[0]) if number == 0 and empty else row for number, row in enumerate(rows)]


def _unframed(row: Row, empty: Row) -> Row:
    room = min(len(row), len(empty))
    before = _shared([(row[i], empty[i]) for i in range(room)])
    after = _shared([(row[-1 - i], empty[-1 - i]) for i in range(room - before)])
    blank = (None,)
    return [blank if place < before or place >= len(row) - after else token for place, token in enumerate(row)]


def _shared(pairs: Sequence[tuple[Any, Any]]) -> int:
    """Return how many pairs of tokens are equal before the first that is not; two embeddings count as equal."""
    count = 0
    for one, other in pairs:
        ids = [token[0] if isinstance(token[0], int) else None for token in (one, other)]
        if ids[0] != ids[1]:
            break
        count += 1
    return count


def _sentence_piece(token: str) -> bytes | None:
    if byte := _BYTE.fullmatch(token):
        return bytes([int(byte[1], 16)])
    return None if _SPECIAL.fullmatch(token) else token.replace(SENTENCE, " ").encode("utf-8", "replace")


def _byte_piece(token: str) -> bytes | None:
    if _SPECIAL.fullmatch(token):
        return None
    return bytes(_LETTERS[letter] for letter in token) if all(letter in _LETTERS for letter in token) else token.encode("utf-8", "replace")


def _byte_letters() -> dict[str, int]:
    """Return GPT-2's letters of bytes: a byte that can be printed is its own letter, the others follow from U+0100 on."""
    printed = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printed]
    return {chr(byte): byte for byte in printed} | {chr(0x100 + number): byte for number, byte in enumerate(others)}


_LETTERS: dict[str, int] = _byte_letters()
