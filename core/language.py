"""Which script a character belongs to."""

from __future__ import annotations


def is_cjk(character: str) -> bool:
    """Whether BertTokenizer gives this character a token of its own as a Chinese character."""
    point = ord(character)
    return 0x4E00 <= point <= 0x9FFF or 0x3400 <= point <= 0x4DBF or 0xF900 <= point <= 0xFAFF or 0x20000 <= point <= 0x2CEAF
