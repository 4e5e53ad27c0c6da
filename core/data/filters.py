"""Filters that choose the pictures of a folder that are worth training on (PanGu-Draw, section 5, "Dataset Construction").

The paper filters "based on CLIP score, aesthetic score, watermark presence, resolution, and aspect ratio". Here each of these is a limit; a
limit that is not set costs no time. Nothing is deleted. The pictures that pass are linked, or copied across disks, into a new folder of the
same layout. All measures, and the reasons why pictures were left out, are written beside them.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..errors import DataError, InputError
from ..files import check_writable, make_folder, replacing
from ..scoring.aesthetics import appearance, confidence
from ..paths import safe_join
from ..progress import track
from .folder import ImageFolder, say_passed_over
from .listing import Listing
from .pictures import load_pixels
from ..orchard.claim import INDEX
from .rows import Item
from .watermark import MAX_PICTURES as MARKED
from .watermark import Watermark, find_watermark, thumbnail

if TYPE_CHECKING:
    from ..scoring.clip_score import ClipScorer
    from ..scoring.judge import Judge
    from ..scoring.vision import Vision

log = logging.getLogger("rapiddraw")
MEASURED = "filter.jsonl"
SUBSET = ".rapiddraw-subset"
"""The file that tells a folder of ours from a user's own."""
MAX_PICTURES = 200_000


@dataclass(frozen=True)
class Limits:
    """What a picture must have; 0 switches a limit off (for `clip`: -1).

    `min_side` is in pixels, `max_aspect` the ratio of the longer to the shorter side, `aesthetics` from 0 to 1, `clip` the cosine (-1 to 1)
    of the picture and its best caption. `watermark` is the largest correlation, from 0 to 1, with a mark that pictures of the folder share.
    `score` is the lowest score of an aesthetic head, in its own scale, and `likeness` the largest cosine (0 to 1) with a picture that was
    kept before.
    """

    min_side: int = 0
    max_aspect: float = 0.0
    aesthetics: float = 0.0
    clip: float = -1.0
    watermark: float = 0.0
    score: float = 0.0
    likeness: float = 0.0

    def check(self) -> None:
        """Raise :class:`InputError` for a limit that is out of range or no number."""
        ranges = {"min_side": (0, 65536), "aesthetics": (0, 1), "clip": (-1, 1), "watermark": (0, 1), "score": (0, 100), "likeness": (0, 1)}
        for name, (low, high) in ranges.items():
            if not low <= getattr(self, name) <= high:
                raise InputError(f"{name}={getattr(self, name)!r}: expected {low} to {high}")
        if not (self.max_aspect == 0 or 1 <= self.max_aspect <= 100):
            raise InputError(f"max_aspect={self.max_aspect!r}: expected 1 (square) to 100, or 0 for any")


@dataclass
class Measured:
    """One picture: its file, its measures, and the reasons why it was left out (none where it was kept)."""

    file_name: str
    width: int
    height: int
    values: dict[str, float] = field(default_factory=dict)
    reasons: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Filtered:
    """Which pictures were kept and which were left out, in the folder's order.

    `folder` is where the kept ones were written, `None` where nothing was written. `passed_over` names pictures of kinds that are not read
    here.
    """

    kept: tuple[Measured, ...]
    dropped: tuple[Measured, ...]
    folder: Path | None = None
    passed_over: tuple[str, ...] = ()

    @property
    def report(self) -> str:
        """One line for the whole, one for each reason, and the range of each measure."""
        whole = len(self.kept) + len(self.dropped)
        lines = [f"kept {len(self.kept)} of {whole} pictures" + (f" in {self.folder.name}/" if self.folder else "")]
        counts = Counter(reason for row in self.dropped for reason in row.reasons)
        lines += [f"left out for {reason}: {count}" for reason, count in counts.most_common()]
        for name in dict.fromkeys(name for row in (*self.kept, *self.dropped) for name in row.values):
            found = sorted(row.values[name] for row in (*self.kept, *self.dropped) if name in row.values)
            lines.append(f"{name}: {found[0]:.3f} to {found[-1]:.3f}, median {found[len(found) // 2]:.3f}")
        return "\n".join([*lines, *([say_passed_over(self.passed_over)] if self.passed_over else [])])


def filter_folder(
    root: str | os.PathLike[str],
    limits: Limits,
    out: str | os.PathLike[str] | None = None,
    scorer: ClipScorer | None = None,
    judge: Judge | None = None,
    vision: Vision | None = None,
) -> Filtered:
    """Measure every picture of the image folder `root`; link those within `limits` into the folder `out`, where one is given.

    `scorer` gives CLIP scores, or `vision` with a CLIP, which takes its place; a limit on them needs one of them. `aesthetics` is measured
    by :func:`~..scoring.aesthetics.appearance`, or with `judge` by how surely the judge reads an Orchard picture. `vision` gives the score of
    its head, and the likeness of pictures: of pictures that are alike, the first is kept. A file that cannot be read is left out as
    "unreadable". Raises :class:`InputError` or :class:`DataError`.
    """
    limits.check()
    reads = vision is not None and vision.texts is not None
    if limits.clip > -1 and scorer is None and not reads:
        raise InputError("a limit on the CLIP score needs a scorer: a text bundle with its image tower, or a CLIP and a CLIP_VISION")
    if limits.score and (vision is None or vision.head is None):
        raise InputError("a limit on the aesthetic score needs an aesthetic head and the CLIP_VISION that it was trained for")
    if limits.likeness and vision is None:
        raise InputError("a limit on the likeness of pictures needs a CLIP_VISION: link clip_vision")
    if out is not None:
        check_writable(Path(out))
    folder = ImageFolder(root, captions=limits.clip > -1)
    if out is not None:
        check_target(folder.root, out)
    if len(folder) > MAX_PICTURES:
        raise InputError(f"{folder.root} holds {len(folder)} pictures; split it into folders of at most {MAX_PICTURES}")
    mark = _common_mark(folder) if limits.watermark > 0 else None
    measure = _Measurer(folder.root, limits, scorer, judge, vision, mark)
    rows = [measure(item) for item in track(folder.items, len(folder), "filtering", "image")]
    kept = tuple(row for row in rows if not row.reasons)
    dropped = tuple(row for row in rows if row.reasons)
    if out is None:
        return Filtered(kept, dropped, None, folder.passed_over)
    names = {row.file_name for row in kept}
    chosen = [item for item in folder.items if _name(item, folder.root) in names]
    target = write_subset(folder.root, chosen, out)
    with replacing(target / MEASURED) as temporary:
        lines = [json.dumps(asdict(row), ensure_ascii=False) for row in rows]
        Path(temporary).write_text("\n".join(lines) + "\n", encoding="utf-8")
    return Filtered(kept, dropped, target, folder.passed_over)


def write_subset(
    root: Path, items: Sequence[Item], out: str | os.PathLike[str], captions: Callable[[Item], list[dict[str, str]]] | None = None
) -> Path:
    """Link (or copy) `items` of the image folder `root`, with their maps, into the folder `out`. Its `captions.jsonl` is written last.

    `captions(item)` gives other captions. A folder that this function wrote before is written again. Raises :class:`DataError` for a folder
    that holds anything else, and for one inside `root` or around it.
    """
    source, target = root.resolve(), check_target(root, out)
    make_folder(target)
    (target / SUBSET).touch()
    lines, taken = [], dict[str, str]()
    ignores_case = (target / SUBSET.upper()).exists()
    listing, kinds = Listing(source), _kinds_of_maps(source)
    for item in items:
        name = _name(item, source)
        other = taken.setdefault(name.casefold() if ignores_case else name, name)
        if other != name:
            raise DataError(f"{other} and {name} are one file in {target}, whose disk ignores case; rename one of them")
        _link(item.path, safe_join(target, name))
        for kind in kinds:
            drawn = listing.find(f"maps/{kind}/{item.path.stem}.png")
            if drawn is not None:
                _link(drawn, safe_join(target, f"maps/{kind}/{drawn.name}"))
        given = [asdict(caption) for caption in item.captions] if captions is None else captions(item)
        row: dict[str, Any] = {"file_name": name, "captions": given, "entity": item.entity, "scene": item.scene}
        lines.append(json.dumps({key: value for key, value in row.items() if value is not None}, ensure_ascii=False))
    with replacing(target / INDEX) as temporary:
        Path(temporary).write_text("\n".join(lines) + "\n" if lines else "", encoding="utf-8")
    return target


def check_target(root: Path, out: str | os.PathLike[str]) -> Path:
    """Return the resolved folder `out`, where a subset of the image folder `root` may be written into it. Makes nothing.

    Raises :class:`DataError` for a folder that holds anything else than a subset, and for one inside `root` or around it; raises
    :class:`WriteError` where no file could be written into it.
    """
    source, target = root.resolve(), Path(out).resolve()
    if source == target or source.is_relative_to(target) or target.is_relative_to(source):
        raise DataError(f"{target} lies in {source} or around it: choose a folder of its own, so that nothing is mixed up")
    check_writable(target)
    mark = target / SUBSET
    if target.exists() and any(target.iterdir()) and (mark.is_symlink() or not mark.is_file()):
        raise DataError(f"{target} already holds something else; choose another folder")
    return target


@dataclass
class _Measurer:
    """What the pictures of a folder are measured by."""

    root: Path
    limits: Limits
    scorer: ClipScorer | None
    judge: Judge | None
    vision: Vision | None
    mark: Watermark | None
    seen: _Seen = field(default_factory=lambda: _Seen())

    def __call__(self, item: Item) -> Measured:
        """Return the measures of one picture, and the reasons against it."""
        limits, pixels = self.limits, _pixels(item)
        if pixels is None:
            return Measured(_name(item, self.root), 0, 0, reasons=["unreadable"])
        height, width = pixels.shape[-2:]
        row = Measured(_name(item, self.root), int(width), int(height))
        if min(width, height) < limits.min_side:
            row.reasons.append("resolution")
        if limits.max_aspect and max(width, height) > limits.max_aspect * min(width, height):
            row.reasons.append("aspect ratio")
        if limits.aesthetics:
            found = appearance(pixels)["aesthetics"] if self.judge is None else float(confidence(self.judge, pixels[None] * 2 - 1)[0])
            row.values["aesthetics"] = round(found, 4)
            row.reasons += ["aesthetics"] if found < limits.aesthetics else []
        embedding = None if self.vision is None else self.vision.embedding(pixels)
        if item.captions and (cosine := self._cosine([caption.text for caption in item.captions], pixels, embedding)) is not None:
            row.values["clip"] = round(cosine, 4)
            row.reasons += ["CLIP score"] if row.values["clip"] < limits.clip else []
        if self.vision is not None and self.vision.head is not None and embedding is not None:
            row.values["score"] = round(float(self.vision.head(embedding[None])[0]), 4)
            row.reasons += ["aesthetic score"] if row.values["score"] < limits.score else []
        if self.mark is not None:
            row.values["watermark"] = round(self.mark.share(thumbnail(pixels)), 4)
            row.reasons += ["watermark"] if row.values["watermark"] > limits.watermark else []
        if limits.likeness and embedding is not None and not row.reasons:
            row.values["likeness"] = round(self.seen.likeness(embedding), 4)
            row.reasons += ["likeness to a kept picture"] if row.values["likeness"] > limits.likeness else []
            if not row.reasons:
                self.seen.add(embedding)
        return row

    def _cosine(self, texts: list[str], pixels: Tensor, embedding: Tensor | None) -> float | None:
        """Return the CLIP score of a picture's best caption; None where nothing reads both."""
        if self.vision is not None and self.vision.texts is not None and embedding is not None:
            return self.vision.similarity(texts, embedding)
        if self.scorer is None:
            return None
        return float((self.scorer.texts(texts) @ self.scorer.images(pixels[None] * 2 - 1)[0]).max())


class _Seen:
    """Unit vectors of the pictures that were kept, in a table that doubles when it is full."""

    def __init__(self) -> None:
        self.rows, self.count = torch.empty(0, 0), 0

    def likeness(self, embedding: Tensor) -> float:
        """Return the largest cosine with a vector of the table, 0 where there is none."""
        return float((self.rows[: self.count] @ embedding).max()) if self.count else 0.0

    def add(self, embedding: Tensor) -> None:
        """Add a unit vector (width,)."""
        if self.count == len(self.rows):
            self.rows = torch.cat([self.rows.reshape(-1, len(embedding)), torch.zeros(max(256, self.count), len(embedding))])
        self.rows[self.count] = embedding
        self.count += 1


def _pixels(item: Item) -> Tensor | None:
    """Return a picture (3, H, W) in [0, 1]; `None` where its file is damaged, cut short or of a size that is not read."""
    try:
        return torch.from_numpy(load_pixels(item.path)).permute(2, 0, 1).float() / 255
    except DataError as error:
        log.warning("left out: %s", error)
        return None


def _common_mark(folder: ImageFolder) -> Watermark | None:
    small = [thumbnail(pixels) for item in folder.items[:MARKED] if (pixels := _pixels(item)) is not None]
    return find_watermark(torch.stack(small)) if small else None


def _name(item: Item, root: Path) -> str:
    return item.path.resolve().relative_to(root.resolve()).as_posix()


def _kinds_of_maps(source: Path) -> list[str]:
    maps = source / "maps"
    return sorted(path.name for path in maps.iterdir() if path.is_dir() and not path.name.startswith(".")) if maps.is_dir() else []


def _link(source: Path, target: Path) -> None:
    """Make `target` the file `source`, by a hard link or, on another disk, as a copy. Another file of that name is replaced."""
    if target.exists() and target.samefile(source):
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    linked = target.with_name(f".{target.stem[:40]}.link{target.suffix}")
    try:
        linked.unlink(missing_ok=True)
        os.link(source, linked)
        linked.replace(target)
    except OSError:  # another disk, or a file system without links
        with replacing(target) as temporary:
            shutil.copyfile(source, temporary)
