"""Scripts of characters, and the one form in which two writings of a name are equal."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator

_PLAIN = str.maketrans(
    dict.fromkeys("\u00b4\u02b9\u02bb\u02bc\u2018\u2019\u201b\u2032", "'")  # apostrophes and primes
    | dict.fromkeys("\u201c\u201d\u201e\u201f\u2033", '"')
    | dict.fromkeys("\u2010\u2011\u2012\u2013\u2014\u2015\u2212", "-")  # hyphens, dashes and the minus sign
    | dict.fromkeys("\u2022\u2027\u30fb", "\u00b7")  # the dot between the parts of a name in Chinese
)
# Characters that draw nothing and are not of the category "format": joiners of graphemes, fillers, variation selectors.
_FILLERS = re.compile("[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180d\u3164\ufe00-\ufe0f\uffa0\U000e0100-\U000e01ef]")
_SURROGATE = re.compile("[\ud800-\udfff]")


def is_cjk(character: str) -> bool:
    """Return whether BertTokenizer gives this character a token of its own as a Chinese character."""
    point = ord(character)
    return 0x4E00 <= point <= 0x9FFF or 0x3400 <= point <= 0x4DBF or 0xF900 <= point <= 0xFAFF or 0x20000 <= point <= 0x2CEAF


def is_text(value: str) -> bool:
    """Return whether `value` can be written as UTF-8. A lone surrogate, such as JSON's `"\\ud800"`, cannot."""
    return _SURROGATE.search(value) is None


def plain_name(name: str) -> str:
    """Return `name` in the form that all its writings share.

    The form is NFKC (full-width letters and ligatures become plain letters), without characters that draw nothing (byte order marks,
    zero-width spaces, soft hyphens, variation selectors), with ASCII apostrophes, quotes and hyphens, and with one space for each run of
    white space. Case is kept. `plain_name(plain_name(x)) == plain_name(x)`.
    """
    while not name.isascii():
        visible = "".join(c for c in _FILLERS.sub("", name) if c.isascii() or unicodedata.category(c) != "Cf")
        plain = unicodedata.normalize("NFKC", visible.translate(_PLAIN))
        if plain == name:
            break
        name = plain
    return " ".join(name.split())


def folded_name(name: str) -> str:
    """Return :func:`plain_name` without case: what two names are compared by."""
    return plain_name(plain_name(name).casefold())


def plain_characters(text: str) -> Iterator[tuple[str, int, int]]:
    """Yield the characters of `text` in the form of :func:`plain_name`, each with the range (start, end) of `text` that it stands for.

    The characters of one ligature share a range. A run of white space is one space. What draws nothing belongs to the character before.
    """
    start = 0
    while start < len(text):
        end, space = start + 1, text[start].isspace()
        while end < len(text) and (text[end].isspace() if space else _belongs_to_the_one_before(text[end])):
            end += 1
        for character in " " if space else plain_name(text[start:end]):
            yield character, start, end
        start = end


def _belongs_to_the_one_before(character: str) -> bool:
    """Return whether a character combines with its predecessor (accents, vowels of Hangul) or draws nothing."""
    if character.isascii():
        return False
    combines = unicodedata.combining(character) != 0 or "\u1161" <= character <= "\u11ff"
    return combines or unicodedata.category(character) == "Cf" or _FILLERS.match(character) is not None
