"""Contact sheet of a filter: kept pictures and those left out, at a glance."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from ..errors import DataError
from .pictures import load_pixels

TILE, COLUMNS, GAP = 96, 8, 4
_FRAMES = {"kept": (0.25, 0.65, 0.3), "dropped": (0.8, 0.2, 0.2)}


def contact_sheet(kept: Sequence[Path], dropped: Sequence[Path], rows: int = 2) -> Tensor:
    """Return an IMAGE (1, H, W, 3) in [0, 1]: up to `rows` rows of kept pictures in green frames, then as many of dropped ones in red.

    A file that cannot be read is a grey tile.
    """
    tiles = [(path, "kept") for path in kept[: rows * COLUMNS]]
    tiles += [(path, "dropped") for path in dropped[: rows * COLUMNS]]
    cell = TILE + 2 * GAP
    places: list[tuple[int, int]] = []
    row = column = 0
    for index, (_, state) in enumerate(tiles):
        if column == COLUMNS or (index and state != tiles[index - 1][1]):
            row, column = row + 1, 0
        places.append((row, column))
        column += 1
    sheet = torch.ones(max(1, row + 1) * cell, COLUMNS * cell, 3)
    for (path, state), (down, right) in zip(tiles, places, strict=True):
        part = sheet[down * cell : (down + 1) * cell, right * cell : (right + 1) * cell]
        part[1:-1, 1:-1] = torch.tensor(_FRAMES[state])
        part[GAP:-GAP, GAP:-GAP] = _tile(path)
    return sheet[None]


def _tile(path: Path) -> Tensor:
    """Return a picture (TILE, TILE, 3) in [0, 1]; a grey one where the file cannot be read."""
    try:
        return torch.from_numpy(load_pixels(path, TILE)).float() / 255
    except DataError:
        return torch.full((TILE, TILE, 3), 0.5)
