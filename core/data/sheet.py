"""Contact sheets: pictures that a filter kept and left out, and pictures with their captions."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path

import numpy as np
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


def caption_sheet(captioned: Sequence[tuple[Path, str]], most: int = 24) -> Tensor:
    """Return an IMAGE (1, H, W, 3) in [0, 1]: up to `most` pictures, four in a row, each with its caption below it."""
    from PIL import Image, ImageDraw

    from ..image.mark import font_for

    side, text_height, columns = 2 * TILE, 64, 4
    chosen = list(captioned)[:most]
    rows = max(1, -(-len(chosen) // columns))
    sheet = Image.new("RGB", (columns * (side + 2 * GAP), rows * (side + text_height + 2 * GAP)), "white")
    draw = ImageDraw.Draw(sheet)
    for index, (path, text) in enumerate(chosen):
        left, top = index % columns * (side + 2 * GAP) + GAP, index // columns * (side + text_height + 2 * GAP) + GAP
        pixels = (_tile(path, side) * 255).byte().numpy()
        sheet.paste(Image.fromarray(pixels), (left, top))
        draw.multiline_text((left, top + side + 2), "\n".join(textwrap.wrap(text or "(kept)", 26)[:4]), fill="black", font=font_for(text, 13))
    return torch.from_numpy(np.asarray(sheet, dtype=np.float32) / 255)[None]


def _tile(path: Path, side: int = TILE) -> Tensor:
    """Return a picture (side, side, 3) in [0, 1]; a grey one where the file cannot be read."""
    try:
        return torch.from_numpy(load_pixels(path, side)).float() / 255
    except DataError:
        return torch.full((side, side, 3), 0.5)
