"""New fruits: twelve that stand in no caption of the Orchard's splits and in no graph, to show what a training on a folder adds."""

from __future__ import annotations

import random
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

from .captions import name_caption
from .claim import claimed
from .dataset import Sample, draw_pictures, write_index
from .entities import Entity, entities, words
from .render import check_size
from .world import COLOURS, GROUNDS, PATTERN_COLOURS, PATTERNS, SHAPES, TOPPERS

COUNT = 12
_SEED = 20261


@lru_cache(maxsize=1)
def new_fruits() -> tuple[Entity, ...]:
    """Return the twelve: names of the Orchard's syllables, looks that no fruit of the Orchard has."""
    rng = random.Random(_SEED)
    names, looks = {one.name_en for one in entities()}, {tuple(one.looks().values()) for one in entities()}
    found: list[Entity] = []
    while len(found) < COUNT:
        name = "".join(rng.sample(words()["names"]["syllables"], 3))
        skin, pattern = rng.choice(COLOURS), rng.choice(PATTERNS[1:])
        colour = rng.choice([one for one in PATTERN_COLOURS if one != skin])
        look = (rng.choice(SHAPES), skin, pattern, colour, rng.choice(TOPPERS))
        if name not in names and look not in looks:
            names.add(name)
            looks.add(look)
            found.append(Entity(f"fruit:{name}", name, "", *look, rng.choice(GROUNDS), None, "new"))
    return tuple(found)


def samples_of(fruits: tuple[Entity, ...], count: int, seed: int = 0) -> Iterator[Sample]:
    """Yield `count` samples of `fruits` in turn, each with one caption that names it, always the same for the same `seed`."""
    rng = random.Random(f"new fruits/{seed}")
    for index in range(count):
        entity = fruits[index % len(fruits)]
        scene = entity.scene(rng, style="fine")
        yield Sample(scene, entity, ({"text": name_caption(scene, entity), "language": "en", "kind": "name"},))


def write_new_fruits(out: Path, count: int, size: int, fruits: int = COUNT, seed: int = 0) -> Path:
    """Draw `count` pictures of `size` px of the first `fruits` new fruits into the folder `out`, and return it. Raises
    :class:`InputError` for a size out of range, and for a folder that holds something else."""
    check_size(size, size)
    with claimed(out):
        write_index(out, draw_pictures(out, samples_of(new_fruits()[:fruits], count, seed), count, ((size, size),)))
    return out
