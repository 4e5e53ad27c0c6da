"""Entity linking: which entities a prompt names, and on which tokens.

Names are matched as sequences of token ids, after the tokenizer and its prompt weights have done their work. So the same code serves every
tokenizer: WordPiece or byte pairs, ours or a user's. A Latin name matches whole words only, a Chinese one matches characters anywhere.
Where names overlap, the longest wins, then the leftmost. At most ten entities are linked in a prompt (as in ARTIST, Liu et
al. 2022).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..language import is_cjk
from .graph import KnowledgeGraph

if TYPE_CHECKING:
    from transformers import BertTokenizer

log = logging.getLogger("rapiddraw")
MAX_LINKS = 10
MAX_ALIAS_TOKENS = 24
MIN_LATIN, MIN_CJK = 3, 2
Row = Sequence[tuple[Any, ...]]
"""One row of a prompt as ComfyUI holds it: (token id or embedding, weight, ...) for each token."""


@dataclass(frozen=True)
class EntityLink:
    """Entity `entity`, named as `alias`, covers tokens `start` to `end` (exclusive) of row `row`.

    `cut` says that the name runs over the end of the row: the link covers the part that is in this row, and a second link (or nothing,
    where the tokenizer throws text away) covers the rest.
    """

    entity: str
    alias: str
    start: int
    end: int
    row: int = 0
    cut: bool = False


@dataclass(frozen=True)
class Match:
    """A name found at positions `start` to `end` (exclusive) of a sequence of ids."""

    entity: str
    alias: str
    start: int
    end: int


@dataclass(frozen=True)
class Spelling:
    """How a tokenizer spells names: what a :class:`Linker` must know of it.

    `tokenize(name)` gives the ids of a name without special tokens. `joins(left, right)` says whether two neighbouring ids belong to
    one word. `special` are the ids that are no text (start, end, padding). `unknown` are the ids that stand for anything and must not
    match. `fold` maps the last id of a name to what is compared, for tokenizers that spell the end of a word into the token. `end`, where
    given, ends a row's text: all that follows is padding, whatever its id (SDXL's second encoder pads with the id of an exclamation mark).
    """

    tokenize: Callable[[str], Sequence[int]]
    joins: Callable[[int, int], bool]
    special: frozenset[int] = frozenset()
    unknown: frozenset[int] = frozenset()
    fold: Callable[[int], Hashable] = lambda token: token
    end: int | None = None


class Linker:
    """Finds a graph's names in token rows.

    Names of more than `longest` ids are never linked, and no more than `most` are in one text (`None`: any number).
    """

    def __init__(
        self, knowledge: KnowledgeGraph, spelling: Spelling, longest: int = MAX_ALIAS_TOKENS, most: int | None = MAX_LINKS
    ) -> None:
        self.spelling, self.longest, self.most = spelling, longest, most
        self._names: dict[tuple[Hashable, ...], tuple[str, str, bool]] = {}
        self._longest: dict[Hashable, int] = {}
        for entity, by in knowledge.aliases.items():
            for alias in (name for names in by.values() for name in names):
                ids = self.spell(alias)
                if ids is None:
                    log.debug("name %r of %s is too short, too long or unknown to this tokenizer; not linked", alias, entity)
                    continue
                key = self._key(ids)
                first = self._names.setdefault(key, (entity, alias, is_chinese(alias)))
                if first[0] != entity:
                    log.warning("the name %r belongs to %s and to %s; the first is used", alias, first[0], entity)
                self._longest[key[0]] = max(len(key), self._longest.get(key[0], 0))

    def spell(self, name: str) -> list[int] | None:
        """Return the ids of a name; `None` for a name that is never linked.

        Such a name is too short to be told from common words, has too many tokens, or has a part that this tokenizer does not know.
        """
        if len(name) < (MIN_CJK if is_chinese(name) else MIN_LATIN):
            return None
        ids = list(self.spelling.tokenize(name))
        text = [i for i in ids if i not in self.spelling.special]
        return text if 0 < len(text) <= self.longest and not self.spelling.unknown & set(ids) else None

    def find(self, ids: Sequence[int | None]) -> list[Match]:
        """Return the matches in a sequence of ids, from left to right. `None` stands for something that is no id and never matches."""
        found: list[Match] = []
        for start, first in enumerate(ids):
            longest = 0 if first is None else max(self._longest.get(first, 0), self._longest.get(self.spelling.fold(first), 0))
            for length in range(min(longest, len(ids) - start), 0, -1):
                name = self._names.get(self._key(ids[start : start + length]))
                if name is not None and (name[2] or self._whole_word(ids, start, start + length)):
                    found.append(Match(name[0], name[1], start, start + length))
                    break
        found.sort(key=lambda m: (m.start - m.end, m.start))
        kept: list[Match] = []
        taken = bytearray(len(ids))
        for match in found:
            if not any(taken[match.start : match.end]):
                taken[match.start : match.end] = b"\1" * (match.end - match.start)
                kept.append(match)
        return sorted(kept, key=lambda m: m.start)[: self.most]

    def _key(self, ids: Sequence[int | None]) -> tuple[Hashable, ...]:
        last = ids[-1]
        return (*ids[:-1], None if last is None else self.spelling.fold(last))

    def _whole_word(self, ids: Sequence[int | None], start: int, end: int) -> bool:
        def joined(left: int) -> bool:
            a, b = ids[left], ids[left + 1]
            return a is not None and b is not None and self.spelling.joins(a, b)

        return not (start > 0 and joined(start - 1)) and not (end < len(ids) and joined(end - 1))

    def link(self, rows: Sequence[Row]) -> list[EntityLink]:
        """Return the links of a prompt's rows. A name that runs over the end of a row gives a link in each row, both with `cut`."""
        places = [(r, i) for r, row in enumerate(rows) for i in self._text(row)]
        ids = [_as_id(rows[r][i][0]) for r, i in places]
        links: list[EntityLink] = []
        for match in self.find(ids):
            span = places[match.start : match.end]
            for row in sorted({r for r, _ in span}):
                inside = [i for r, i in span if r == row]
                cut = len(inside) < len(span)
                links.append(EntityLink(match.entity, match.alias, inside[0], inside[-1] + 1, row, cut))
        return links

    def link_truncated(self, ids: Sequence[int], length: int) -> list[EntityLink]:
        """Return the links of one text whose `ids` (no special tokens) will be cut to `length - 2` and put between start and end tokens."""
        room = length - 2
        return [EntityLink(m.entity, m.alias, m.start + 1, min(m.end, room) + 1, 0, m.end > room) for m in self.find(ids) if m.start < room]

    def _text(self, row: Row) -> Iterator[int]:
        """Yield the positions of a row's text: neither special tokens nor padding."""
        for position, token in enumerate(row):
            number = _as_id(token[0])
            if number is None or number not in self.spelling.special:
                yield position
            if number is not None and number == self.spelling.end:
                return


def _as_id(token: Any) -> int | None:
    return token if isinstance(token, int) else None


def is_chinese(name: str) -> bool:
    """Return whether a name holds a Chinese character."""
    return any(is_cjk(c) for c in name)


def make_linker(knowledge: KnowledgeGraph, tokenizer: Any) -> Linker:
    """Return the linker for one of transformers' tokenizers: byte pairs with end-of-word marks (CLIP's) or WordPiece (BERT's, ours)."""
    vocabulary = tokenizer.get_vocab()
    if not any(token.endswith("</w>") for token in vocabulary):
        return wordpiece_linker(knowledge, tokenizer)
    return byte_pair_linker(
        knowledge,
        _plain_ids(tokenizer),
        {i: token for token, i in vocabulary.items()},
        special=(tokenizer.bos_token_id, tokenizer.eos_token_id),
        unknown=(tokenizer.unk_token_id,),
        end=tokenizer.eos_token_id,
    )


def wordpiece_linker(knowledge: KnowledgeGraph, tokenizer: BertTokenizer) -> Linker:
    """Return a linker for a BertTokenizer: an id continues a word where its token begins with `##`."""
    continues = frozenset(i for token, i in tokenizer.get_vocab().items() if token.startswith("##"))
    special = frozenset((tokenizer.cls_token_id, tokenizer.sep_token_id, tokenizer.pad_token_id))
    unknown = frozenset((tokenizer.unk_token_id,))
    return Linker(knowledge, Spelling(_plain_ids(tokenizer), lambda left, right: right in continues, special, unknown))


def byte_pair_linker(
    knowledge: KnowledgeGraph,
    tokenize: Callable[[str], Sequence[int]],
    tokens: Mapping[int, str],
    special: Iterable[int],
    unknown: Iterable[int] = (),
    end: int | None = None,
) -> Linker:
    """Return a linker for CLIP's byte-pair tokenizers: a word ends with a token that ends in `</w>`. `tokens` maps an id to its text.

    Chinese has no spaces, so a name inside a sentence lacks the `</w>` that the name alone has: its last token is compared without it.
    """
    ends = frozenset(i for i, token in tokens.items() if token.endswith("</w>"))

    def without_end(token: int) -> Hashable:
        return tokens.get(token, "").removesuffix("</w>") or token

    spelling = Spelling(tokenize, lambda left, right: left not in ends, frozenset(special), frozenset(unknown), without_end, end)
    return Linker(knowledge, spelling)


def _plain_ids(tokenizer: Any) -> Callable[[str], Sequence[int]]:
    return lambda name: tokenizer(name, add_special_tokens=False)["input_ids"]


def describe(links: Sequence[EntityLink]) -> str:
    """Return a line for each link: what was linked, where, and whether it was cut."""
    if not links:
        return "no entity of the graph is named in this prompt"
    lines = []
    for link in links:
        cut = ", cut by the end of the row" if link.cut else ""
        lines.append(f"{link.alias} -> {link.entity} (row {link.row}, tokens {link.start} to {link.end - 1}{cut})")
    return "\n".join(lines)
