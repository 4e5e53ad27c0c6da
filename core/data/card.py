"""A data card: what a folder holds before anything is trained on it, and what would be left out, with the reason."""

from __future__ import annotations

import statistics
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from ..errors import DataError
from ..progress import track
from .pictures import load_pixels
from .rows import Item, Reports, read_rows

_SHOWN = 5
_APART, _SHADE = 12, 8.0  # of 256 bits and of 255 shades: what another size or JPEG changes in a picture
_COMPARED = 20_000  # pictures that each new one is compared with; in larger folders copies are not looked for beyond these


@dataclass(frozen=True)
class Card:
    """A folder's data card. `usable` are the pictures that can be trained on, `left_out` are (file, reason), `duplicates` are groups of
    files of one picture; the first of a group stays usable."""

    root: Path
    usable: tuple[Item, ...]
    sizes: tuple[tuple[int, int], ...]
    left_out: tuple[tuple[str, str], ...]
    duplicates: tuple[tuple[str, ...], ...]

    def text(self) -> str:
        """Return the card as lines of text."""
        lines = [f"{self.root.name}: {len(self.usable)} usable pictures"]
        if self.sizes:
            sides = sorted(min(size) for size in self.sizes)
            shapes = Counter("square" if h == w else "tall" if h > w else "wide" for h, w in self.sizes)
            shaped = ", ".join(f"{count} {kind}" for kind, count in shapes.most_common())
            lines.append(f"shorter side {sides[0]} to {sides[-1]} px, half are below {int(statistics.median(sides))}; {shaped}")
        captions = [len(item.captions) for item in self.usable]
        words = [len(caption.text.split()) for item in self.usable for caption in item.captions]
        if words:
            without = captions.count(0)
            lines.append(
                f"{len(words)} captions of {min(words)} to {max(words)} words" + (f"; {without} pictures have none" if without else "")
            )
        else:
            lines.append("no captions")
        same = sum(len(group) - 1 for group in self.duplicates)
        if same:
            lines.append(f"{same} copies of other pictures: {_some([' = '.join(group) for group in self.duplicates])}")
        reasons: dict[str, list[str]] = {}
        for name, reason in self.left_out:
            reasons.setdefault(reason, []).append(name)
        lines += [f"left out, {reason}: {len(names)} ({_some(names)})" for reason, names in reasons.items()]
        return "\n".join(lines)


def data_card(root: Path, least: int = 0, captions: bool = False, copies: bool = True) -> Card:
    """Return the card of the folder `root`. Every picture is decoded once, so that nothing is damaged when the training reads it.

    Pictures whose shorter side is below `least` pixels are left out, with `captions` also those without one, and with `copies` all but the
    first of equal pictures. Raises :class:`DataError` for a folder without pictures.
    """
    problems: list[str] = []
    passed: list[str] = []
    items = list(read_rows(root, False, Reports(problems.append, passed.append)))
    usable: list[Item] = []
    sizes: list[tuple[int, int]] = []
    left_out = [(problem[:160], "not as the layout of a folder asks") for problem in problems]
    left_out += [(name, "not a kind of picture that is read here") for name in passed]
    looks = _Looks()
    for item in track(items, len(items), "data card", "picture"):
        name = item.path.name
        try:
            pixels = load_pixels(item.path)
        except DataError as error:
            left_out.append((name, _reason(str(error), item.path)))
            continue
        copy = looks.add(name, pixels)
        height, width = pixels.shape[:2]
        if min(height, width) < least:
            left_out.append((name, f"smaller than {least} px"))
        elif captions and not item.captions:
            left_out.append((name, "without a caption"))
        elif copies and copy:
            left_out.append((name, "a copy of another picture"))
        else:
            usable.append(item)
            sizes.append((height, width))
    if not items:
        raise DataError(f"{root} holds no pictures that can be read" + (f": {_some(problems or passed)}" if problems or passed else ""))
    return Card(root, tuple(usable), tuple(sizes), tuple(left_out), tuple(tuple(group) for group in looks.names if len(group) > 1))


class _Looks:
    """Pictures by how they look, so that a copy is found in another size or file."""

    def __init__(self) -> None:
        self._bits: list[npt.NDArray[np.uint8]] = []
        self._colours: list[npt.NDArray[np.float64]] = []
        self.names: list[list[str]] = []

    def add(self, name: str, pixels: npt.NDArray[np.uint8]) -> bool:
        """Keep a picture (H, W, 3). Return whether one that was kept before looks the same."""
        bits, colour = look_of(pixels)
        if self._bits and len(self._bits) <= _COMPARED:
            apart = np.unpackbits(np.bitwise_xor(np.stack(self._bits), bits), axis=1).sum(1)
            shade = np.abs(np.stack(self._colours) - colour).max(1)
            alike = np.flatnonzero((apart <= _APART) & (shade <= _SHADE))
            if len(alike):
                self.names[int(alike[0])].append(name)
                return True
        self._bits.append(bits)
        self._colours.append(colour)
        self.names.append([name])
        return False


def look_of(pixels: npt.NDArray[np.uint8]) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.float64]]:
    """Return where a picture (H, W, 3) becomes brighter to the right, in 256 bits (32,) of its reduction to 17 x 16, and its mean colour
    (3,)."""
    small = np.asarray(Image.fromarray(pixels).convert("L").resize((17, 16), Image.Resampling.BOX), dtype=np.int16)
    return np.packbits(np.diff(small, axis=1) > 2), pixels.reshape(-1, 3).mean(0)


def _reason(problem: str, path: Path) -> str:
    return problem.replace(str(path), "").strip().split(" (")[0][:120] or "cannot be read"


def _some(names: list[str]) -> str:
    return ", ".join(names[:_SHOWN]) + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")
