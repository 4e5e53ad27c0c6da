"""docs/troubleshooting.md has an entry for every error that RapidDraw raises.

The errors are collected from the sources: each call of a class of `core/errors.py`, with its message; what varies in a message counts as
`...`. An entry is a row of a table on the page: parts of messages in code, in which `...` stands for anything, the rooms that they come
from, and what to do. Where one advice serves all messages of a file, `...` beside the file's name stands for them. A message that consists
of what varies alone is passed on from somewhere else, and needs no entry.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import pytest
from rapiddraw.core.paths import pack_root

ROOT = pack_root()
PAGE = ROOT / "docs" / "troubleshooting.md"
ROOMS = ("core", "nodes", "api", "serve", "cli")
CODE = re.compile("`([^`]+)`")
ROW = re.compile(r"^\| (`[^|]+`) \| (`[^|]+`) \| ([^|]+) \|$", re.MULTILINE)
MOST_OF_AN_ENTRY, MOST_PASSED_ON = 60, 30
"""An entry that would stand for more messages says too little. Messages that are passed on are few."""


@dataclass(frozen=True)
class Site:
    """A place in the sources that makes an error."""

    file: str
    line: int
    message: str

    @property
    def is_passed_on(self) -> bool:
        return not re.search("[a-zA-Z]{2}", self.message)


@dataclass(frozen=True)
class Entry:
    """A row of the page."""

    messages: tuple[str, ...]
    rooms: tuple[str, ...]
    advice: str

    def covers(self, site: Site) -> bool:
        return any(self.covered_by(message, site) for message in self.messages)

    def covered_by(self, message: str, site: Site) -> bool:
        pattern = ".*".join(re.escape(part.strip()) for part in message.split("..."))
        return site.file.startswith(self.rooms) and re.search(pattern, site.message, re.DOTALL) is not None


def template(node: ast.expr) -> str:
    """The text of a message, with `...` for what varies."""
    if isinstance(node, ast.Constant):
        return str(node.value)
    if isinstance(node, ast.JoinedStr):
        return "".join(str(part.value) if isinstance(part, ast.Constant) else "..." for part in node.values)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return template(node.left) + template(node.right)
    return "..."


def errors() -> set[str]:
    """The names of the errors that RapidDraw raises on purpose."""
    tree = ast.parse((ROOT / "core" / "errors.py").read_text(encoding="utf-8"))
    return {node.name for node in tree.body if isinstance(node, ast.ClassDef)} - {"Cancelled"}


def found(tree: ast.AST, file: str, known: set[str]) -> Iterator[Site]:
    for node in ast.walk(tree):
        name = getattr(node.func, "id", getattr(node.func, "attr", "")) if isinstance(node, ast.Call) else ""
        if name in known and node.args:  # type: ignore[attr-defined]
            yield Site(file, node.lineno, template(node.args[0]))  # type: ignore[attr-defined]


@lru_cache
def sites() -> tuple[Site, ...]:
    paths: list[Path] = [path for room in ROOMS for path in sorted((ROOT / room).rglob("*.py"))]
    files = [(path.relative_to(ROOT).as_posix(), ast.parse(path.read_text(encoding="utf-8"))) for path in paths]
    return tuple(site for file, tree in files for site in found(tree, file, errors()))


@lru_cache
def entries() -> tuple[Entry, ...]:
    rows = ROW.findall(PAGE.read_text(encoding="utf-8"))
    return tuple(Entry(tuple(CODE.findall(said)), tuple(CODE.findall(rooms)), advice) for said, rooms, advice in rows)


def test_every_error_of_the_pack_has_an_entry() -> None:
    missing = [site for site in sites() if not site.is_passed_on and not any(entry.covers(site) for entry in entries())]
    told = "\n".join(f"{site.file}:{site.line}: {site.message}" for site in missing)
    assert not missing, f"add a row to docs/troubleshooting.md, or widen one:\n{told}"


@pytest.mark.parametrize("entry", entries(), ids=lambda entry: f"{entry.rooms[0]} {entry.messages[0]}")
def test_an_entry_stands_for_errors_that_exist_and_for_few_enough(entry: Entry) -> None:
    for message in entry.messages:
        is_of_one_file = message == "..." and all(room.endswith(".py") for room in entry.rooms)
        assert re.search("[a-zA-Z]{3}", message) or is_of_one_file, f"{message}: an entry needs words to be found by, or names one file"
        assert any(entry.covered_by(message, site) for site in sites()), f"no error says {message!r} any more: follow the new words"
    for room in entry.rooms:
        assert any(site.file.startswith(room) and entry.covers(site) for site in sites()), f"no error of {room} has these words"
    covered = [site for site in sites() if entry.covers(site)]
    assert len(covered) <= MOST_OF_AN_ENTRY, "split the row by its rooms or its words"
    assert len(entry.advice.split()) >= 4, "say what to do"


def test_few_errors_are_passed_on() -> None:
    assert len(sites()) > 600 and len([site for site in sites() if site.is_passed_on]) <= MOST_PASSED_ON


def test_errors_are_found_and_entries_cover_by_words_and_rooms() -> None:
    tree = ast.parse('raise InputError(f"size={size}: expected " + "8 or more")\nraise ValueError("no")\nraise errors.DataError(text)')
    first, second = found(tree, "core/data/x.py", errors())
    assert (first.message, second.is_passed_on) == ("size=...: expected 8 or more", True)
    assert Entry(("width", "size=...: expected"), ("core/data",), "").covers(first)
    assert not Entry(("size=",), ("core/text",), "").covers(first) and not Entry(("width",), ("core",), "").covers(first)
