"""Rows of a dataset folder: its pictures, and what is known of each.

:mod:`.folder` documents the layout. Such a folder may come from a stranger: names must stay inside it, and sizes are capped.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import DataError, InputError
from ..language import is_text
from ..orchard.claim import INDEX
from ..paths import safe_join
from .listing import Listing, shown
from .pictures import SUFFIXES, UNREAD_SUFFIXES

MAX_INDEX_BYTES = 2**30
MAX_LINE = 2**20
MAX_CAPTION = 4000
MAX_IMAGES = 5_000_000
HOW = f"Expected: {INDEX} with one JSON object a line, or a name.txt beside each image; see core/data/folder.py"


@dataclass(frozen=True)
class Caption:
    """One caption; `language` is a code such as "en" or "zh" ("" where unknown), `kind` says how it was made ("" by hand)."""

    text: str
    language: str = ""
    kind: str = ""


@dataclass(frozen=True)
class Item:
    """One image of a folder and what is known of it."""

    path: Path
    captions: tuple[Caption, ...] = ()
    entity: str | None = None
    scene: dict[str, Any] | None = None


@dataclass(frozen=True)
class Reports:
    """Where a reader says what it leaves out.

    `problem(line)` is called for everything that does not follow the layout; the row is left out where `problem` returns. `passed(name)` is
    called for pictures, and files with a caption beside them, whose kind is not read here.
    """

    problem: Callable[[str], None]
    passed: Callable[[str], None]


def read_rows(root: Path, captions: bool, reports: Reports) -> Iterator[Item]:
    """Yield the items of a folder. `captions` says whether each must have a caption."""
    if not root.is_dir():
        reports.problem(f"no such folder: {shown(root)}. `python -m rapiddraw data orchard --help` makes one")
        return
    index = root / INDEX
    listing = Listing(root)
    rows = _from_index(listing, index, reports) if index.is_file() else _from_text_files(listing, reports)
    for count, (where, item) in enumerate(rows):
        if count >= MAX_IMAGES:
            reports.problem(f"{root} lists more than {MAX_IMAGES} images; split it")
            return
        if captions and not item.captions:
            reports.problem(f"{where}: {item.path.name} has no caption. {HOW}")
        else:
            yield item


def _from_index(listing: Listing, index: Path, reports: Reports) -> Iterator[tuple[str, Item]]:
    if index.stat().st_size > MAX_INDEX_BYTES:
        reports.problem(f"{index} is larger than {MAX_INDEX_BYTES >> 20} MB; split the folder")
        return
    try:
        opened = index.open("rb")
    except OSError as error:
        reports.problem(f"{index} cannot be read ({error.strerror}); check who may read it")
        return
    with opened as file:
        for number, raw in enumerate(iter(lambda: file.readline(MAX_LINE + 1), b""), start=1):
            where = f"{INDEX} line {number}"
            if len(raw) > MAX_LINE:
                reports.problem(f"{where} is longer than {MAX_LINE} bytes; the rest of the file is not read")
                return
            if not raw.strip():
                continue
            try:
                yield where, _parse(listing, _row(raw, number == 1))
            except RecursionError:
                reports.problem(f"{where}: nested too deeply")
            except (DataError, InputError) as error:
                reports.problem(f"{where}: {error}")
            except ValueError as error:  # bad UTF-8 or bad JSON
                reports.problem(f"{where} is not a JSON object ({error})")


def _row(raw: bytes, first: bool) -> Any:
    row = json.loads(raw.decode("utf-8-sig" if first else "utf-8"))
    if b"\\u" in raw and not is_text(json.dumps(row, ensure_ascii=False)):
        raise DataError("half of a surrogate pair stands in it (such as \\ud83c alone), which is no character; write the text as UTF-8")
    return row


def _parse(listing: Listing, row: Any) -> Item:
    if not isinstance(row, dict):
        raise DataError(f"a JSON object is expected, not a {type(row).__name__}")
    name = row.get("file_name")
    if not isinstance(name, str):
        raise DataError('"file_name" is missing or not text')
    path = listing.find(name)
    if Path(name).suffix.lower() not in SUFFIXES:
        raise DataError(f"{name!r} is not an image that is read here ({', '.join(SUFFIXES)})")
    if path is None:
        raise DataError(f"the image {name!r} is missing")
    given = row.get("captions", [row["text"]] if "text" in row else [])
    if not isinstance(given, list):
        raise DataError('"captions" must be a list')
    entity, scene = row.get("entity"), row.get("scene")
    if not (entity is None or isinstance(entity, str)) or not (scene is None or isinstance(scene, dict)):
        raise DataError('"entity" must be text and "scene" an object, where given')
    return Item(path, _captions(given), entity, scene)


def _captions(given: Iterable[Any]) -> tuple[Caption, ...]:
    captions = []
    for entry in given:
        row = {"text": entry} if isinstance(entry, str) else entry
        if not isinstance(row, dict) or not all(isinstance(row.get(key, ""), str) for key in ("text", "language", "kind")):
            raise DataError('a caption must be text, or {"text", "language", "kind"} with text in them')
        text = row.get("text", "").strip()
        if len(text) > MAX_CAPTION:
            raise DataError(f"a caption has {len(text)} characters; at most {MAX_CAPTION} are allowed")
        if text:
            captions.append(Caption(text, row.get("language", ""), row.get("kind", "")))
    return tuple(captions)


def _from_text_files(listing: Listing, reports: Reports) -> Iterator[tuple[str, Item]]:
    for found in listing.walk():
        suffix = found.suffix.lower()
        if found.parts[0] == "maps" or suffix in (".txt", ".jsonl", ".json"):
            continue
        name = shown(found)
        try:
            if not is_text(found.as_posix()):
                reports.passed(name)
            elif suffix in SUFFIXES:
                yield found.name, Item(safe_join(listing.root, found), _captions(_lines(listing, found)))
            elif suffix in UNREAD_SUFFIXES or listing.find(found.with_suffix(".txt").as_posix()) is not None:
                reports.passed(name)
        except (DataError, InputError) as error:
            reports.problem(f"{name}: {error}")


def _lines(listing: Listing, picture: Path) -> list[str]:
    """Return the lines of the text file beside a picture; none where there is no such file."""
    text = listing.find(picture.with_suffix(".txt").as_posix())
    if text is None:
        return []
    try:
        with text.open("rb") as file:
            raw = file.read(MAX_LINE + 1)
        if len(raw) > MAX_LINE:
            raise DataError(f"{text.name} is longer than {MAX_LINE} bytes")
        return raw.decode("utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise DataError(f"{text.name} is not UTF-8 text ({error.reason}); save it as UTF-8") from error
    except OSError as error:
        raise DataError(f"{text.name} cannot be read ({error.strerror}); check who may read it") from error
