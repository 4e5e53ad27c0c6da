"""The commands that documents show: lines of indented or fenced blocks, and code inside a sentence.

A block that no test runs has `<!-- not run: why -->` above it.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from rapiddraw.core.paths import pack_root

ROOT = pack_root()
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), ROOT / "weights" / "README.md"])
PROGRAMS = ("python", "rapiddraw", "make", "pip", "curl", "git", "accelerate")
MARK = re.compile(r"<!-- not run: (.+?) -->", re.DOTALL)
_BLOCK = re.compile(r"((?:^(?: {4,}|\t)[^\n]*\n)+)|^```(?:sh|bash|console|powershell)\n(.*?)^```", re.MULTILINE | re.DOTALL)
_INLINE = re.compile(r"`((?:[A-Z_]+=\S+ )*python -m rapiddraw [^`]+)`")
_ASSIGNED = re.compile(r"^([A-Z]+)=\"([^\"]*)\"$")


@dataclass(frozen=True)
class Command:
    """A command of a document; `why_not` says why no test runs it (empty: one does). `is_inline`: named inside a sentence."""

    page: str
    text: str
    why_not: str = ""
    is_inline: bool = False

    @property
    def words(self) -> list[str]:
        """The words, without variables set before the program and without what a shell does after it."""
        words = shlex.split(self.text, comments=True)
        while words and re.match(r"[A-Z_]+=", words[0]):
            words.pop(0)
        return words[: words.index("&")] if "&" in words else words

    @property
    def arguments(self) -> list[str] | None:
        """What `rapiddraw` is given; None for another program."""
        words = self.words
        if words[:1] == ["rapiddraw"]:
            return words[1:]
        return words[words.index("-m") + 2 :] if "-m" in words and words[words.index("-m") + 1] == "rapiddraw" else None


def commands(path: Path) -> Iterator[Command]:
    """Yield the commands of a document."""
    page, text = path.relative_to(ROOT).as_posix(), path.read_text(encoding="utf-8")
    for block in _BLOCK.finditer(text):
        above = text[: block.start()].rstrip().rpartition("\n\n")[2]
        mark = MARK.search(above) if above.endswith("-->") else None
        variables: dict[str, str] = {}
        for line in re.sub(r" *\\\n *", " ", block[1] or block[2]).splitlines():
            if found := _ASSIGNED.match(line.strip()):
                variables[found[1]] = _filled(found[2], variables)
            elif _program(line) in PROGRAMS:
                yield Command(page, _filled(line.strip(), variables), mark[1] if mark else "")
    prose = _BLOCK.sub("", text)
    for found in _INLINE.finditer(prose):
        yield Command(page, " ".join(found[1].split()), is_inline=True)


def _program(line: str) -> str:
    words = line.split()
    while words and re.match(r"[A-Z_]+=", words[0]):
        words.pop(0)
    return words[0] if words else ""


def _filled(text: str, variables: dict[str, str]) -> str:
    return re.sub(r"\$([A-Z]+)", lambda match: variables.get(match[1], match[0]), text)


ALL = [command for path in DOCUMENTS for command in commands(path)]
