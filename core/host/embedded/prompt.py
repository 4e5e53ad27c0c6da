r"""Prompt text to weighted token rows, as ComfyUI does it: `(a (b:1.3) c)`, escapes `\(`, long prompts in rows of the context length.

The rules are ComfyUI 0.18's, odd ends included (a stray bracket, a group that does not fit a row), so that a prompt gives the same
conditioning in both hosts. One case differs: a weight that is not a finite number is read as text, not as a weight.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

from ...errors import InputError

EMPHASIS = 1.1  # what one pair of brackets without a number multiplies by
WHOLE_GROUP = 8  # a segment of fewer tokens is not torn between two rows
MAX_DEPTH = 100
MAX_CHARACTERS = 100_000
_OPEN, _CLOSE = "\0\2", "\0\1"  # stand-ins for escaped brackets while weights are parsed

Token = tuple[Any, ...]  # (id, weight); knowledge or ComfyUI may add to it


def parse_weights(text: str) -> list[tuple[str, float]]:
    """Split a prompt into (segment, weight) in reading order, brackets of weights removed, escaped brackets restored.

    Raises :class:`InputError` for a text of more than 100,000 characters or brackets nested more than 100 deep.
    """
    if len(text) > MAX_CHARACTERS:
        raise InputError(f"the prompt has {len(text)} characters; at most {MAX_CHARACTERS} are read")
    hidden = text.replace("\\)", _CLOSE).replace("\\(", _OPEN)
    return [(part.replace(_CLOSE, ")").replace(_OPEN, "("), weight) for part, weight in _weigh(hidden, 1.0, 0)]


def _weigh(text: str, weight: float, depth: int) -> list[tuple[str, float]]:
    if depth > MAX_DEPTH:
        raise InputError(f"the prompt's brackets are nested more than {MAX_DEPTH} deep; escape literal ones as \\( and \\)")
    found: list[tuple[str, float]] = []
    for part in _top_level(text):
        if len(part) < 2 or part[0] != "(" or part[-1] != ")":
            found.append((part, weight))
            continue
        inside, inner_weight = part[1:-1], weight * EMPHASIS
        colon = inside.rfind(":")
        if colon > 0:
            try:
                given = float(inside[colon + 1 :])
            except ValueError:
                given = math.nan
            if math.isfinite(given):
                inside, inner_weight = inside[:colon], given
        found += _weigh(inside, inner_weight, depth + 1)
    return found


def _top_level(text: str) -> list[str]:
    """Cut into bracketed groups (brackets kept) and what lies between them. An unmatched bracket stays part of its text."""
    parts: list[str] = []
    start = depth = 0
    for position, character in enumerate(text):
        if character == "(":
            if depth == 0:
                parts.append(text[start:position])
                start = position
            depth += 1
        elif character == ")":
            depth -= 1
            if depth == 0:
                parts.append(text[start : position + 1])
                start = position + 1
    parts.append(text[start:])
    return [part for part in parts if part]


def token_rows(
    segments: Iterable[tuple[str, float]], token_ids: Callable[[str], list[int]], start: int, end: int, pad: int, length: int
) -> list[list[Token]]:
    """Return rows of `length` (id, weight) pairs: start, tokens, end, padding. `token_ids(text)` gives ids without start and end.

    A segment of fewer than 8 tokens moves to the next row whole; a longer one is cut where the row ends.
    """
    rows: list[list[Token]] = [[(start, 1.0)]]
    for text, weight in segments:
        rest: list[Token] = [(token, weight) for token in token_ids(text)] if text else []
        may_cut = len(rest) >= min(WHOLE_GROUP, length - 2)
        while rest:
            row = rows[-1]
            room = length - 1 - len(row)
            if len(rest) <= room:
                row += rest
                break
            if may_cut:
                row += rest[:room]
                rest = rest[room:]
            row += [(end, 1.0), *[(pad, 1.0)] * (length - 1 - len(row))]
            rows.append([(start, 1.0)])
    rows[-1] += [(end, 1.0), *[(pad, 1.0)] * (length - 1 - len(rows[-1]))]
    return rows
