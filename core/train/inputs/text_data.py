"""Pictures for the recipe `text`: small, in memory, each with captions and perhaps a named entity."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import DataError
from ...paths import safe_join
from ...progress import track

BOTH = ("en", "zh")
TEMPLATE_SHARE = 0.2
"""Share of the captions that are newly written for a named picture that are a bare template ("the photo of X"), as prompts often are."""


@dataclass
class Item:
    """One picture (size, size, 3) uint8 with its captions.

    `scene` and `fruit` are the Orchard's own, where a new caption may be written each time, in `languages`. `shown` is the scene that the
    picture shows, also where no new captions may be written.
    """

    image: np.ndarray
    captions: tuple[str, ...]
    entity: str | None = None
    scene: Any = field(default=None, repr=False)
    fruit: Any = field(default=None, repr=False)
    scenery: tuple[str, ...] = ()
    shown: Any = field(default=None, repr=False)
    languages: Sequence[str] = BOTH

    def draw(self, rng: random.Random, names: bool = True) -> str:
        """Return a caption: a new one where the Orchard can make it, otherwise one of the given captions. Without `names` the caption
        describes and never names."""
        if not names:
            from ...orchard.captions import caption

            return caption(self.shown, None, rng.choice(self.languages), "attributes", rng)
        if self.scene is None:
            return rng.choice(self.captions)
        from ...orchard.captions import draw_caption
        from ...orchard.entities import words

        if self.fruit is not None and rng.random() < TEMPLATE_SHARE:
            language = rng.choice(self.languages)
            name = self.fruit.name_en if language == "en" else self.fruit.name_zh
            return rng.choice(words()[language]["templates"][self.scene.style]).format(object=name)
        return draw_caption(self.scene, self.fruit, rng, self.languages)[0]


def orchard_items(split: str, count: int, size: int, seed: int = 0, languages: Sequence[str] = BOTH) -> list[Item]:
    """Draw `count` pictures of the Orchard, with captions in `languages`; a picture without such captions is left out.

    Rare fruits keep their three captions, because no others exist of them.
    """
    from ...orchard.dataset import samples
    from ...orchard.render import render

    items = []
    for sample in track(samples(split, count, seed), count, "drawing the Orchard", "image"):
        fixed = sample.entity is not None and sample.entity.split != "seen"
        captions = tuple(caption["text"] for caption in sample.captions if caption["language"] in languages)
        if fixed and not captions:
            continue
        items.append(
            Item(
                render(sample.scene, size),
                captions,
                sample.entity.id if sample.entity else None,
                None if fixed else sample.scene,
                sample.entity,
                (sample.scene.ground, sample.scene.sky),
                sample.scene,
                languages,
            )
        )
    return items


def folder_items(root: str | Path, size: int, languages: Sequence[str] = BOTH) -> list[Item]:
    """Read the pictures of an image folder (`captions.jsonl` with `captions` or `text`), scaled to `size`. Raises :class:`DataError`.

    Where captions say their language, only those in `languages` count, and a picture that has none of them is left out.
    """
    from PIL import Image

    base = Path(root)
    index = base / "captions.jsonl"
    if not index.is_file():
        raise DataError(f"{base} has no captions.jsonl; `python -m rapiddraw data orchard --out DIR` writes the layout")
    items = []
    lines = index.read_text(encoding="utf-8").splitlines()
    for number, line in track(enumerate(lines, 1), len(lines), "reading pictures", "image"):
        try:
            row = json.loads(line)
            given = row["captions"] if "captions" in row else [{"text": row["text"]}]
            captions = tuple(c["text"] for c in given if c.get("language", languages[0]) in languages)
            if given and not captions:
                continue
            with Image.open(safe_join(base, row["file_name"])) as picture:
                small = picture.convert("RGB").resize((size, size), Image.Resampling.BOX)
        except (ValueError, KeyError, TypeError, OSError) as error:
            raise DataError(f"{index.name}, line {number}: expected file_name and text or captions, and a picture ({error})") from error
        items.append(Item(np.asarray(small), captions, row.get("entity"), scenery=_scenery(row)))
    return items


def _scenery(row: dict[str, Any]) -> tuple[str, ...]:
    scene = row.get("scene")
    return (str(scene.get("ground")), str(scene.get("sky"))) if isinstance(scene, dict) else ()
