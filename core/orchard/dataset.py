"""Splits of the Orchard as image folders, in the layout that every trainer reads.

    OUT/captions.jsonl            one JSON object a line: {"file_name", "captions": [{"text", "language", "kind"}], "entity", "scene"}
    OUT/images/000000.png         the picture
    OUT/maps/edges/000000.png     exact maps, one folder a kind, where asked for

Splits differ in their random seeds. `train` never names an unseen fruit; a rare fruit is named in exactly three captions.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from ..errors import InputError
from ..files import replacing
from ..progress import Progress
from .captions import caption, draw_caption
from .claim import INDEX, claimed
from .entities import Entity, entities
from .render import check_size, render, render_maps, render_wide, segmentation_wide
from .world import Scene, random_scene

if TYPE_CHECKING:
    import numpy as np

SPLIT_SEEDS = {"train": 11, "validation": 22, "test": 33, "judge": 44}
"""The splits and the seeds of their scenes. `judge` is for the attribute classifier alone, so that it never saw a training picture."""
MAP_KINDS = ("segmentation", "edges", "sketch", "depth")
RARE_CAPTIONS = 3
_CHUNK = 32  # pictures that a process is given at a time
_NAMED_SHARE = 0.8


@dataclass(frozen=True)
class Sample:
    """One picture to draw, and its captions as `captions.jsonl` holds them."""

    scene: Scene
    entity: Entity | None
    captions: tuple[dict[str, str], ...]


def check_request(split: str, count: int, maps: Sequence[str] = (), shapes: Sequence[tuple[int, int]] = ()) -> None:
    """Raise :class:`InputError` for an unknown split or map, a count out of range, or maps that pictures of `shapes` do not have."""
    if split not in SPLIT_SEEDS:
        raise InputError(f"unknown split {split!r}; the splits are {', '.join(SPLIT_SEEDS)}")
    if not 1 <= count <= 1_000_000:
        raise InputError(f"count must be between 1 and 1,000,000 pictures, {count} was given")
    for kind in maps:
        if kind not in MAP_KINDS:
            raise InputError(f"unknown map {kind!r}; the maps are {', '.join(MAP_KINDS)}")
    if shapes and set(maps) - {"segmentation"}:
        raise InputError("of pictures that are not square the only map is segmentation: leave out the others or the shapes")


def samples(split: str, count: int, seed: int = 0) -> Iterator[Sample]:
    """Yield the first `count` samples of a split, always the same for the same `seed`.

    Four pictures in five show a fruit with a name, the others a fruit of random looks; a picture has three captions of mixed language
    and kind. Rare fruits come first, once for each of their three captions, so that every `train` of 240 or more has them all.
    """
    check_request(split, count)
    rng = random.Random(f"orchard/{SPLIT_SEEDS[split]}/{seed}")
    seen = [e for e in entities() if e.split == "seen"]
    rare = [e for e in entities() if e.split == "rare"] * RARE_CAPTIONS if split == "train" else []
    deck: list[Entity] = []  # dealt to the end before it is shuffled again: every seen fruit is shown equally often
    for index in range(count):
        if index < len(rare):
            entity = rare[index]
            scene = entity.scene(rng)
            language = ("en", "zh")[index % 2]
            named = {"text": caption(scene, entity, language, "name", rng), "language": language, "kind": "name"}
            yield Sample(scene, entity, (named,))
            continue
        found = None
        if rng.random() < _NAMED_SHARE:
            deck = deck or rng.sample(seen, len(seen))
            found = deck.pop()
        scene = found.scene(rng) if found else random_scene(rng)
        rows = tuple(dict(zip(("text", "language", "kind"), draw_caption(scene, found, rng), strict=True)) for _ in range(3))
        yield Sample(scene, found, rows)


def write_dataset(
    split: str,
    count: int,
    size: int,
    out: str | os.PathLike[str],
    seed: int = 0,
    maps: tuple[str, ...] = (),
    shapes: Sequence[tuple[int, int]] = (),
    processes: int = 1,
) -> Path:
    """Draw `count` pictures of `size` px into the folder `out` (made if missing) and return it. More `processes` draw the same pictures.

    `shapes` are (height, width) that the pictures have in turn, instead of being square; of those the only map is `segmentation`.

    `captions.jsonl` is written last and in one piece: a folder that has it is whole, and a run that was broken off can simply be started
    again. Raises :class:`InputError` for an unknown split or map, a count or size out of range, or a folder that holds something else (see
    :func:`~.claim.claimed`).
    """
    check_request(split, count, maps, shapes)
    for height, width in shapes or ((size, size),):
        check_size(height, width)
    root = Path(out)
    with claimed(root):
        write_index(root, draw_pictures(root, samples(split, count, seed), count, shapes or ((size, size),), maps, processes))
    return root


def draw_pictures(
    root: Path, drawn: Iterable[Sample], count: int, shapes: Sequence[tuple[int, int]], maps: Sequence[str] = (), processes: int = 1
) -> list[dict[str, Any]]:
    """Draw `count` samples, and their `maps`, into a folder that is :func:`~.claim.claimed`; `shapes` (height, width) come in turn.

    Returns the rows of `captions.jsonl`, which is not written yet. A link in a picture's place is replaced, never followed.
    """
    rows = []
    tasks = (_Task(root, f"{index:06d}.png", sample, shapes[index % len(shapes)], tuple(maps)) for index, sample in enumerate(drawn))
    with Progress(count, f"orchard, {count} pictures", "image") as bar, ExitStack() as stack:
        done: Iterator[dict[str, Any]] = map(_draw_one, tasks)
        if processes > 1:
            pool = ProcessPoolExecutor(processes, multiprocessing.get_context("spawn"))
            stack.callback(pool.shutdown, cancel_futures=True)
            done = pool.map(_draw_one, tasks, chunksize=_CHUNK)
        for row in done:
            rows.append(row)
            bar.update()
    return rows


class _Task(NamedTuple):
    """One picture to draw: where, its name, what it shows, its (height, width) and the maps that are wanted."""

    root: Path
    name: str
    sample: Sample
    shape: tuple[int, int]
    maps: tuple[str, ...]


def _draw_one(task: _Task) -> dict[str, Any]:
    """Write a picture and its maps; return its row of the index."""
    (height, width), scene = task.shape, task.sample.scene
    square = height == width
    write_picture(task.root / "images" / task.name, render(scene, width) if square else render_wide(scene, height, width))
    if task.maps:
        found = render_maps(scene, width) if square else {"segmentation": segmentation_wide(scene, height, width)}
        for kind in task.maps:
            write_picture(task.root / "maps" / kind / task.name, found[kind])
    return _row(f"images/{task.name}", task.sample)


def write_picture(path: Path, picture: np.ndarray) -> None:
    """Write pixels, uint8, as a PNG in one piece."""
    from PIL import Image

    with replacing(path) as temporary:
        Image.fromarray(picture).save(temporary, compress_level=1)


def write_index(root: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write the rows of `captions.jsonl` in one piece."""
    with replacing(root / INDEX) as temporary:
        temporary.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


def _row(file_name: str, sample: Sample) -> dict[str, Any]:
    return {
        "file_name": file_name,
        "captions": list(sample.captions),
        "entity": sample.entity.id if sample.entity else None,
        "scene": sample.scene.to_json(),
    }
