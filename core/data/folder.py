"""Images and captions on disk: the layout the Orchard is written in, and a user's own folder.

Either a file `captions.jsonl`, one JSON object a line,

    {"file_name": "images/000000.png", "captions": [{"text": "a red apple", "language": "en", "kind": ""}], "entity": "e12", "scene": {}}
    {"file_name": "holiday.jpg", "text": "a beach in the evening"}

where `file_name` is relative to the folder, "captions" may hold plain strings, and every other key is optional; or no such file, and
then beside each image `name.jpg` a text file `name.txt` with one caption a line. Maps lie in `maps/<kind>/<the image's stem>.png`.

Such a folder may come from a stranger: names must stay inside it, and sizes are capped before anything is decoded.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps

from ..errors import DataError, InputError
from ..paths import safe_join
from ..progress import track

INDEX = "captions.jsonl"
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")
MIN_SIDE = 16
MAX_PIXELS = 64 * 2**20
MAX_INDEX_BYTES = 2**30
MAX_LINE = 2**20
MAX_CAPTION = 4000
MAX_IMAGES = 5_000_000


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


class ImageFolder(torch.utils.data.Dataset[dict[str, Any]]):
    """The images of `root`, in the index's order (or by name where there is none).

    `size`: every image is scaled so that its shorter side is `size` pixels and cropped to the middle square; `None` keeps it as it is.
    `captions`: whether every image must have at least one. `cache` keeps decoded images in memory, as bytes.

    Raises :class:`DataError` naming the file, and the line, for everything that does not follow the layout above.
    """

    def __init__(self, root: str | os.PathLike[str], size: int | None = None, captions: bool = True, cache: bool = False) -> None:
        self.root, self.size = Path(root), _checked_size(size)
        self.items = list(_read(self.root, captions, _refuse))
        if not self.items:
            raise DataError(f"{self.root} holds no images ({', '.join(SUFFIXES)}). {_HOW}")
        self._cache: dict[int, np.ndarray[Any, Any]] | None = {} if cache else None

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.get(index)

    def get(self, index: int, generator: torch.Generator | None = None) -> dict[str, Any]:
        """{"image": (3, H, W) float32 in [-1, 1], "caption": one of its captions, drawn with `generator`, "index": int}."""
        return {"image": self.image(index), "caption": self.caption(index, generator), "index": index}

    def batch(self, indices: Sequence[int], generator: torch.Generator | None = None) -> dict[str, Any]:
        """{"image": (B, 3, H, W), "caption": list of B strings, "index": (B,) int64}. Needs images of one size."""
        rows = [self.get(index, generator) for index in indices]
        if len({row["image"].shape for row in rows}) > 1:
            raise DataError(f"{self.root}: the images have different sizes; give a size to bring them to")
        index = torch.tensor([row["index"] for row in rows])
        return {"image": torch.stack([row["image"] for row in rows]), "caption": [row["caption"] for row in rows], "index": index}

    def image(self, index: int) -> torch.Tensor:
        """Image `index`, (3, H, W) float32 in [-1, 1]."""
        return torch.from_numpy(self.pixels(index)).permute(2, 0, 1).float().div_(127.5).sub_(1)

    def pixels(self, index: int) -> np.ndarray[Any, Any]:
        """Image `index` as stored, (H, W, 3) uint8; scaled and cropped to `size`."""
        if self._cache is None:
            return load_pixels(self.items[index].path, self.size)
        if index not in self._cache:
            self._cache[index] = load_pixels(self.items[index].path, self.size)
        return self._cache[index]

    def shape(self, index: int) -> tuple[int, int]:
        """(height, width) of image `index` as it is on disk, upright, from its header alone."""
        with _opened(self.items[index].path) as image:
            width, height = image.size
            return (width, height) if image.getexif().get(_ORIENTATION, 1) >= 5 else (height, width)

    def fitted(self, index: int, height: int, width: int) -> torch.Tensor:
        """Image `index` scaled to cover (height, width) and cropped to its middle, (3, height, width) float32 in [-1, 1]."""
        picture = Image.fromarray(load_pixels(self.items[index].path))
        if picture.size != (width, height):
            picture = ImageOps.fit(picture, (width, height), Image.Resampling.LANCZOS)
        return torch.from_numpy(np.array(picture)).permute(2, 0, 1).float().div_(127.5).sub_(1)

    def caption(self, index: int, generator: torch.Generator | None = None) -> str:
        """One of image `index`'s captions, each as likely; "" where it has none."""
        captions = self.items[index].captions
        if not captions:
            return ""
        return captions[int(torch.randint(len(captions), (), generator=generator))].text

    def map(self, index: int, kind: str) -> np.ndarray[Any, Any]:
        """The map `kind` ("segmentation", "edges", ...) of image `index`, (H, W) uint8, as it is on disk."""
        path = safe_join(self.root, f"maps/{kind}/{self.items[index].path.stem}.png")
        if not path.is_file():
            raise DataError(f"{self.root} has no {kind} map for {self.items[index].path.name} ({path.name} is missing in maps/{kind})")
        with _opened(path) as image:
            return np.asarray(image.convert("L"))

    def fitted_map(self, index: int, kind: str, height: int, width: int) -> np.ndarray[Any, Any]:
        """The map `kind` of image `index` scaled and cropped as :meth:`fitted` does the picture, (height, width) uint8."""
        return np.asarray(ImageOps.fit(Image.fromarray(self.map(index, kind)), (width, height), Image.Resampling.NEAREST))


def load_pixels(path: Path, size: int | None = None) -> np.ndarray[Any, Any]:
    """An image file as (H, W, 3) uint8: turned upright by its EXIF, on white where it is transparent, cropped square to `size`."""
    with _opened(path) as opened:
        try:
            image = _rgb(ImageOps.exif_transpose(opened))
        except (OSError, ValueError, SyntaxError) as error:
            raise DataError(f"{path} cannot be decoded ({error}): damaged or cut short") from error
    if size is not None and image.size != (size, size):
        image = ImageOps.fit(image, (size, size), Image.Resampling.LANCZOS)
    return np.array(image)


def check_folder(root: str | os.PathLike[str], captions: bool = True) -> tuple[int, list[str]]:
    """Read a whole folder, pictures included: (number of good images, one line for each problem)."""
    problems: list[str] = []
    items = list(_read(Path(root), captions, problems.append))
    good = 0
    for item in track(items, len(items), "checking", "image"):
        try:
            load_pixels(item.path)
            good += 1
        except DataError as error:
            problems.append(str(error))
    if not items and not problems:
        problems.append(f"{root} holds no images ({', '.join(SUFFIXES)}). {_HOW}")
    return good, problems


_HOW = f"Expected: {INDEX} with one JSON object a line, or a name.txt beside each image; see core/data/folder.py"
_ORIENTATION = 0x0112  # EXIF: 5 to 8 mean that the sides are swapped
_Report = Callable[[str], None]


def _refuse(problem: str) -> None:
    raise DataError(problem)


def _checked_size(size: int | None) -> int | None:
    if size is not None and not MIN_SIDE <= size <= 8192:
        raise InputError(f"size={size!r}: expected {MIN_SIDE} to 8192 pixels, or None to keep images as they are")
    return size


def _read(root: Path, captions: bool, report: _Report) -> Iterator[Item]:
    """The items of a folder; each problem goes to `report`, and the item that has it is left out if `report` returns."""
    if not root.is_dir():
        report(f"no such folder: {root}. `python -m rapiddraw data orchard --help` makes one")
        return
    index = root / INDEX
    rows = _from_index(root, index, report) if index.is_file() else _from_text_files(root, report)
    for count, (where, item) in enumerate(rows):
        if count >= MAX_IMAGES:
            report(f"{root} lists more than {MAX_IMAGES} images; split it")
            return
        if captions and not item.captions:
            report(f"{where}: {item.path.name} has no caption. {_HOW}")
        else:
            yield item


def _from_index(root: Path, index: Path, report: _Report) -> Iterator[tuple[str, Item]]:
    if index.stat().st_size > MAX_INDEX_BYTES:
        report(f"{index} is larger than {MAX_INDEX_BYTES >> 20} MB; split the folder")
        return
    with index.open("rb") as file:
        for number, raw in enumerate(iter(lambda: file.readline(MAX_LINE + 1), b""), start=1):
            where = f"{INDEX} line {number}"
            if len(raw) > MAX_LINE:
                report(f"{where} is longer than {MAX_LINE} bytes; the rest of the file is not read")
                return
            if not raw.strip():
                continue
            try:
                yield where, _parse(root, json.loads(raw.decode("utf-8-sig" if number == 1 else "utf-8")))
            except RecursionError:
                report(f"{where}: nested too deeply")
            except (DataError, InputError) as error:
                report(f"{where}: {error}")
            except ValueError as error:  # bad UTF-8 or bad JSON
                report(f"{where} is not a JSON object ({error})")


def _parse(root: Path, row: Any) -> Item:
    if not isinstance(row, dict):
        raise DataError(f"a JSON object is expected, not a {type(row).__name__}")
    name = row.get("file_name")
    if not isinstance(name, str):
        raise DataError('"file_name" is missing or not text')
    path = safe_join(root, name)
    if path.suffix.lower() not in SUFFIXES:
        raise DataError(f"{name!r} is not an image ({', '.join(SUFFIXES)})")
    if not path.is_file():
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


def _from_text_files(root: Path, report: _Report) -> Iterator[tuple[str, Item]]:
    for found in sorted(p for p in root.rglob("*") if p.suffix.lower() in SUFFIXES and not p.name.startswith(".")):
        if "maps" in found.relative_to(root).parts[:1]:
            continue
        try:
            path = safe_join(root, found.relative_to(root))
            text = found.with_suffix(".txt")
            lines: list[str] = []
            if text.is_file():
                with safe_join(root, text.relative_to(root)).open("rb") as file:
                    lines = file.read(MAX_LINE).decode("utf-8-sig").splitlines()
            yield found.name, Item(path, _captions(lines))
        except (DataError, InputError) as error:
            report(f"{found.name}: {error}")
        except UnicodeDecodeError as error:
            report(f"{found.with_suffix('.txt').name} is not UTF-8 text ({error})")


def _opened(path: Path) -> Image.Image:
    """An image file, its header read and its size checked, nothing decoded yet."""
    try:
        image = Image.open(path)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise DataError(f"{path} is not a readable image ({error})") from error
    width, height = image.size
    if min(width, height) < MIN_SIDE or width * height > MAX_PIXELS:
        image.close()
        raise DataError(
            f"{path} has {width} x {height} pixels; at least {MIN_SIDE} a side and at most {MAX_PIXELS >> 20} million are expected"
        )
    return image


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):  # 16-bit grey; PIL's own conversion would clip it
        return Image.fromarray((np.asarray(image, dtype=np.int64).clip(0, 65535) // 257).astype(np.uint8)).convert("RGB")
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image.convert("RGBA")).convert("RGB")
    return image.convert("RGB")
