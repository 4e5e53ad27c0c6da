"""Images and captions on disk: the layout of the Orchard's datasets and of a user's own folder.

Either a file `captions.jsonl`, one JSON object a line,

    {"file_name": "images/000000.png", "captions": [{"text": "a red apple", "language": "en", "kind": ""}], "entity": "e12", "scene": {}}
    {"file_name": "holiday.jpg", "text": "a beach in the evening"}

where `file_name` is relative to the folder, "captions" may hold plain strings, and every other key is optional; or no such file, but
beside each image `name.jpg` a text file `name.txt` with one caption a line. Maps lie in `maps/<kind>/<the image's stem>.png`. Names are
found whatever their Unicode form and the case of their endings.

Such a folder may come from a stranger: names must stay inside it, and sizes are capped before anything is decoded.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps

from ..errors import DataError, InputError
from ..progress import track
from .listing import Listing
from .pictures import MIN_SIDE, ORIENTATION, SUFFIXES, load_grey, load_pixels, open_picture, to_tensor
from .rows import HOW, Item, Reports, read_rows

log = logging.getLogger("rapiddraw")
MOST_CACHED = 2**31


class ImageFolder(torch.utils.data.Dataset[dict[str, Any]]):
    """The images of `root`, in the index's order (or by name where there is no index).

    `size`: every image is scaled so that its shorter side is `size` pixels and cropped to the middle square; `None` keeps images as they
    are. `captions`: whether every image must have at least one. `cache` keeps decoded images in memory, as bytes, up to
    :data:`MOST_CACHED` of them. `passed_over` names the pictures of kinds that are not read here; a warning counts them. Hidden files and
    folders are not read.

    Raises :class:`DataError`, which names the file and the line, for everything that does not follow the layout above.
    """

    def __init__(self, root: str | os.PathLike[str], size: int | None = None, captions: bool = True, cache: bool = False) -> None:
        self.root, self.size = Path(root), _checked_size(size)
        passed: list[str] = []
        self.items = list(read_rows(self.root, captions, Reports(_refuse, passed.append)))
        self.passed_over = tuple(passed)
        if not self.items:
            raise DataError(_empty(self.root, passed))
        if passed:
            log.warning("%s: %s", self.root, say_passed_over(passed))
        self._listing = Listing(self.root)
        self._cache: dict[int, np.ndarray[Any, Any]] | None = {} if cache else None

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.get(index)

    def get(self, index: int, generator: torch.Generator | None = None) -> dict[str, Any]:
        """Return {"image": (3, H, W) float32 in [-1, 1], "caption": one of its captions, drawn with `generator`, "index": int}."""
        return {"image": self.image(index), "caption": self.caption(index, generator), "index": index}

    def batch(self, indices: Sequence[int], generator: torch.Generator | None = None) -> dict[str, Any]:
        """Return {"image": (B, 3, H, W), "caption": list of B strings, "index": (B,) int64}. Raises :class:`DataError` for images of
        different sizes.
        """
        rows = [self.get(index, generator) for index in indices]
        if len({row["image"].shape for row in rows}) > 1:
            raise DataError(f"{self.root}: the images have different sizes; give a size to bring them to")
        index = torch.tensor([row["index"] for row in rows])
        return {"image": torch.stack([row["image"] for row in rows]), "caption": [row["caption"] for row in rows], "index": index}

    def image(self, index: int) -> torch.Tensor:
        """Return image `index`, (3, H, W) float32 in [-1, 1]."""
        return to_tensor(self.pixels(index))

    def pixels(self, index: int) -> np.ndarray[Any, Any]:
        """Return image `index` as stored, (H, W, 3) uint8; scaled and cropped to `size`."""
        if self._cache is None:
            return load_pixels(self.items[index].path, self.size)
        pixels = self._cache.get(index)
        if pixels is None:
            pixels = load_pixels(self.items[index].path, self.size)
            if pixels.nbytes * len(self._cache) < MOST_CACHED:
                self._cache[index] = pixels
        return pixels

    def shape(self, index: int) -> tuple[int, int]:
        """Return (height, width) of image `index` as it is on disk, upright. Only its header is read."""
        with open_picture(self.items[index].path) as image:
            width, height = image.size
            return (width, height) if image.getexif().get(ORIENTATION, 1) >= 5 else (height, width)

    def fitted(self, index: int, height: int, width: int) -> torch.Tensor:
        """Return image `index` scaled to cover (height, width) and cropped to its middle, (3, height, width) float32 in [-1, 1]."""
        picture = Image.fromarray(load_pixels(self.items[index].path))
        if picture.size != (width, height):
            picture = ImageOps.fit(picture, (width, height), Image.Resampling.LANCZOS)
        return to_tensor(np.array(picture))

    def caption(self, index: int, generator: torch.Generator | None = None) -> str:
        """Return one of image `index`'s captions, each with equal chance; "" where it has none."""
        captions = self.items[index].captions
        if not captions:
            return ""
        return captions[int(torch.randint(len(captions), (), generator=generator))].text

    def map(self, index: int, kind: str) -> np.ndarray[Any, Any]:
        """Return the map `kind` ("segmentation", "edges", ...) of image `index`, (H, W) uint8, as it is on disk."""
        path = self._listing.find(f"maps/{kind}/{self.items[index].path.stem}.png")
        if path is None:
            name = self.items[index].path
            raise DataError(f"{self.root} has no {kind} map for {name.name} ({name.stem}.png is missing in maps/{kind})")
        return load_grey(path)

    def fitted_map(self, index: int, kind: str, height: int, width: int) -> np.ndarray[Any, Any]:
        """Return the map `kind` of image `index`, (height, width) uint8, scaled and cropped as :meth:`fitted` does the picture."""
        return np.asarray(ImageOps.fit(Image.fromarray(self.map(index, kind)), (width, height), Image.Resampling.NEAREST))


def check_folder(root: str | os.PathLike[str], captions: bool = True) -> tuple[int, list[str]]:
    """Read a whole folder, pictures included. Return the number of good images and one line for each problem."""
    problems: list[str] = []
    passed: list[str] = []
    items: list[Item] = []
    try:
        items += read_rows(Path(root), captions, Reports(problems.append, passed.append))
    except DataError as error:  # a folder in it that nobody may read
        problems.append(str(error))
    good = 0
    for item in track(items, len(items), "checking", "image"):
        try:
            load_pixels(item.path)
            good += 1
        except DataError as error:
            problems.append(str(error))
    if not items and not problems:
        problems.append(_empty(Path(root), passed))
    problems += [f"{name}: {_NOT_READ}" for name in passed]
    return good, problems


def say_passed_over(names: Sequence[str]) -> str:
    """Return one line that counts pictures of kinds that are not read here and names the first."""
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return f"passed over {len(names)} that are not read here: {', '.join(names[:5])}{more}; save them as PNG or JPEG"


_NOT_READ = f"not a picture that is read here ({', '.join(SUFFIXES)}), or a name that is not UTF-8; save it as PNG or JPEG"


def _refuse(problem: str) -> None:
    raise DataError(problem)


def _empty(root: Path, passed: Sequence[str]) -> str:
    also = f" {say_passed_over(passed)}." if passed else ""
    return f"{root} holds no images ({', '.join(SUFFIXES)}).{also} {HOW}"


def _checked_size(size: int | None) -> int | None:
    if size is not None and not MIN_SIDE <= size <= 8192:
        raise InputError(f"size={size!r}: expected {MIN_SIDE} to 8192 pixels, or None to keep images as they are")
    return size
