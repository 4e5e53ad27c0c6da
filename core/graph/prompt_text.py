"""Text that the editor resolves before it sends a graph: choices and comments in prompts, tokens in file names.

A server is sent the resolved text, so a headless run has to resolve the same. Two kinds of widgets have such text: prompts (inputs that
declare `dynamicPrompts`), and `filename_prefix` of the stock nodes that save files.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterable
from datetime import datetime
from typing import Any

TOKENS_IN = (
    "SaveImage", "SaveImageAdvanced", "SaveSVGNode", "SaveVideo", "SaveAnimatedWEBP", "SaveWEBM", "SaveAudio", "SaveAudioMP3",
    "SaveAudioOpus", "SaveAudioAdvanced", "SaveGLB", "Save3DAdvanced", "SaveGaussianSplat", "SavePointCloud", "SaveAnimatedPNG", "CLIPSave",
    "VAESave", "ModelSave", "LoraSave", "SaveLatent",
)  # fmt: skip
"""Node classes whose `filename_prefix` may hold `%date:...%` and `%Node.widget%`."""
MAX_DEPTH = 100
_COMMENT = re.compile(r"/\*.*?\*/|//[^\n\r\u2028\u2029]*", re.DOTALL)
_ESCAPED = re.compile(r"\\([{}|])")
_TOKEN = re.compile(r"%([^%]+)%")
_DATE = re.compile(r"dd?|MM?|hh?|mm?|ss?|yyy?y?")
_FORBIDDEN = re.compile(r'[/?<>\\:*|"\x00-\x1f\x7f]')


def resolve_choices(text: str, seed: object) -> str:
    r"""Return `text` without comments (`/* */` and `//` to the end of the line), and with one choice for each `{a|b|c}`.

    The same `seed` always gives the same choices. Choices may hold further choices. `\{`, `\|` and `\}` stand for the characters
    themselves. A text whose braces are nested deeper than 100 is returned as it is.
    """
    if not any(mark in text for mark in ("{", "/", "\\")):
        return text
    chooser = random.Random(str(seed))
    return _resolve(text, chooser) if _depth(text) <= MAX_DEPTH else text


def _resolve(text: str, chooser: random.Random) -> str:
    text = _COMMENT.sub("", text)
    out: list[str] = []
    place = 0
    while place < len(text):
        letter = text[place]
        if letter == "\\":
            out.append(text[place : place + 2])
            place += 2
        elif letter == "{":
            options, place = _options(text, place + 1)
            out.append(_resolve(chooser.choice(options), chooser))
        else:
            out.append(letter)
            place += 1
    return _ESCAPED.sub(r"\1", "".join(out))


def _options(text: str, place: int) -> tuple[list[str], int]:
    """The choices of the braces that were opened before `place`, and the place behind them."""
    options, start, depth = [], place, 0
    while place < len(text):
        letter = text[place]
        if letter == "\\":
            place += 1
        elif letter == "{":
            depth += 1
        elif letter == "}" and depth:
            depth -= 1
        elif letter == "}":
            break
        elif letter == "|" and not depth:
            options.append(text[start:place])
            start = place + 1
        place += 1
    return [*options, text[start:place]], place + 1


def _depth(text: str) -> int:
    """How deep the braces of `text` are nested at most, closing braces without an opening one left aside."""
    deepest = depth = 0
    for letter in text:
        if letter == "{":
            depth += 1
            deepest = max(deepest, depth)
        elif letter == "}" and depth:
            depth -= 1
    return deepest


def resolve_tokens(text: str, value_of: Callable[[str, str], Any], now: datetime | None = None) -> str:
    """Return `text` with `%date:FORMAT%` and `%Node.widget%` replaced, as the editor replaces them.

    `value_of(node, widget)` gives a widget's value, or raises `KeyError` where there is no such node or widget; the token then stays. Every
    other token stays too: `%width%`, `%year%` and the like are for the node that saves. In a widget's value, characters that no file name
    may have become `_`.
    """
    moment = now or datetime.now()

    def replaced(match: re.Match[str]) -> str:
        parts = match[1].split(".")
        if len(parts) != 2:
            return format_date(parts[0].removeprefix("date:"), moment) if parts[0].startswith("date:") else match[0]
        try:
            value = value_of(parts[0], parts[1])
        except KeyError:
            return match[0]
        return _FORBIDDEN.sub("_", _as_editor_writes(value))

    return _TOKEN.sub(replaced, text)


def format_date(pattern: str, moment: datetime) -> str:
    """Return `moment` in the editor's notation: yyyy or yy, MM, dd, hh (0 to 23), mm, ss; a single letter gives the number without a
    zero."""
    numbers = {"d": moment.day, "M": moment.month, "h": moment.hour, "m": moment.minute, "s": moment.second}

    def part(match: re.Match[str]) -> str:
        text = match[0]
        if text[0] == "y":
            return {2: f"{moment.year % 100:02}", 4: str(moment.year)}.get(len(text), text)
        return str(numbers[text[0]]).zfill(len(text))

    return _DATE.sub(part, pattern)


def seed_of(values: Iterable[Any]) -> str:
    """Return one text for all the seeds of a graph, so that another seed makes other choices."""
    return ",".join(sorted(str(value) for value in values if isinstance(value, int)))


def _as_editor_writes(value: Any) -> str:
    """A widget's value as JavaScript turns it into text: `true`, `1` for 1.0, nothing for null."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e21:
        return str(int(value))
    return str(value)
