"""Small imitation of a web crawl: a folder of the Orchard with the flaws that the filters of datasets look for.

Of the spoiled pictures one in three is strongly blurred, one has a stock site's mark across a corner, and one has the captions of another
picture. `spoiled.json` says what was done to each, so a filter can be measured against the truth.
"""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import InputError
from ..files import replacing
from ..orchard.claim import INDEX, MARK, claimed
from ..orchard.dataset import check_request, draw_pictures, samples, write_index, write_picture

FLAWS = ("blur", "mark", "caption")
TRUTH = "spoiled.json"
_SETTINGS = "orchard.json"


def write_crawl(out: str | Path, count: int, size: int, seed: int = 0, spoiled: float = 0.0) -> Path:
    """Write `count` training pictures of `size` px into the folder `out`; a share `spoiled` of them has a flaw. Return the folder.

    A folder that was written with the same settings is left as it is. One that a broken run left is drawn again. Raises :class:`InputError`
    for numbers out of range and for a folder that holds something else.
    """
    if not 0 <= spoiled <= 1 or not 1 <= count <= 100_000 or not 64 <= size <= 512:
        raise InputError(f"count={count}, size={size}, spoiled={spoiled}: expected 1 to 100,000 of 64 to 512 px, spoiled 0 to 1")
    root = Path(out)
    settings = json.dumps({"count": count, "size": size, "seed": seed, "spoiled": spoiled})
    note = root / _SETTINGS
    if (root / INDEX).is_file() and not (root / MARK).exists() and _read(note) == settings:
        return root
    check_request("train", count)
    with claimed(root, (TRUTH, _SETTINGS)):
        rows = draw_pictures(root, samples("train", count, seed), count, ((size, size),))
        truth = _spoil(root, rows, random.Random(f"spoil/{seed}"), round(spoiled * count))
        for path, text in ((root / TRUTH, json.dumps(truth)), (note, settings)):
            with replacing(path) as temporary:
                temporary.write_text(text, encoding="utf-8")
        write_index(root, rows)
    return root


def _spoil(root: Path, rows: list[dict[str, Any]], rng: random.Random, share: int) -> dict[str, str]:
    """Spoil `share` of the pictures, their rows in place. Returns the flaw of each by its file name."""
    chosen = rng.sample(range(len(rows)), share)
    truth = {rows[index]["file_name"]: FLAWS[turn % len(FLAWS)] for turn, index in enumerate(chosen)}
    astray = [index for index in chosen if truth[rows[index]["file_name"]] == "caption"]
    captions = [rows[index]["captions"] for index in astray]
    for index, others in zip(astray, captions[1:] + captions[:1], strict=True):
        rows[index]["captions"] = others if len(astray) > 1 else [{"text": "buy two get one free", "language": "en", "kind": "web"}]
    for name, flaw in truth.items():
        if flaw != "caption":
            _redraw(root / name, flaw)
    return truth


def _read(note: Path) -> str:
    """Return the text of a small file; "" where there is none, or it is no text."""
    try:
        with note.open("rb") as file:
            return file.read(10_000).decode("utf-8")
    except (OSError, ValueError):
        return ""


def _redraw(path: Path, flaw: str) -> None:
    from PIL import Image, ImageFilter

    with Image.open(path) as opened:
        picture = opened.convert("RGB")
    blurred = picture.filter(ImageFilter.GaussianBlur(picture.width / 16))
    write_picture(path, np.asarray(blurred) if flaw == "blur" else _marked(picture))


def _marked(picture: Any) -> np.ndarray[Any, Any]:
    """Return the picture with half-transparent white bars and rings in its lower right corner, as a stock site's reduced mark looks."""
    pixels = np.asarray(picture).astype(np.float32)
    side = pixels.shape[0]
    y, x = np.mgrid[0:side, 0:side] / side
    inside = (x > 0.55) & (x < 0.97) & (y > 0.84) & (y < 0.96)
    strokes = inside & ((np.sin(x * 130) > 0.2) | (np.abs(y - 0.9) < 0.008))
    return np.where(strokes[..., None], 0.35 * pixels + 0.65 * 255, pixels).clip(0, 255).astype(np.uint8)
