"""The run of a chain: each stage is trained unless its files are up to date, within a budget of time.

A run folder holds, for each stage, the training's own run (checkpoints, log, loss plot) and `STAGE.json`, which says from what its files
were made. A stage is up to date while its recipe, settings, steps, dataset and the content of all files it reads are what they were. A
chain that was stopped goes on where it was: finished stages are skipped, the stage in the middle resumes from its checkpoint.
"""

from __future__ import annotations

import functools
import hashlib
import json
import logging
import os
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ...errors import InputError
from ...files import check_writable, make_folder, replacing
from ...paths import file_sha256, pack_root
from .. import make_recipe
from ..loop import Intervals, train
from ..processes import join_processes
from .stages import SHIPPED, Chain, Dataset, Stage, settings_of
from .together import run_together

logger = logging.getLogger("rapiddraw")
CLOSING_SHARE, MOST_CLOSING = 0.05, 10.0
"""Of a stage's time, and at most so many seconds, kept for measuring and writing at its end."""
SAVE_EVERY = {"cpu": 200, "other": 2000}
"""Steps between two checkpoints, by where the steps are made."""
ALONE = 500
"""Datasets of fewer pictures are drawn in one process."""


@dataclass(frozen=True)
class Places:
    """Folders of a chain: `out` for the bundles that are kept, `runs` for everything else, `data` for datasets."""

    out: Path
    runs: Path
    data: Path

    def read(self, chain: Chain, stage: Stage) -> dict[str, Path]:
        """The files that `stage` reads, by name: those in `weights/`, and those that other stages make."""
        shipped = {name: pack_root() / "weights" / f"{name.removeprefix(SHIPPED)}.safetensors" for name in stage.reads()}
        return shipped | {name: self.file(chain.maker_of(name), name) for name in stage.needs()}

    def file(self, stage: Stage, name: str) -> Path:
        """Where the file `name` that `stage` makes lies."""
        return (self.out if stage.keep and name not in stage.drop else self.runs) / f"{name}.safetensors"


@dataclass(frozen=True)
class Done:
    """What became of a stage: `trained`, or `kept` because its files were up to date. `steps` of `planned` steps, in `seconds`."""

    stage: str
    what: str
    steps: int
    planned: int
    seconds: float
    loss: float | None
    metrics: dict[str, float]
    files: tuple[str, ...]


def run_chain(
    chain: Chain, places: Places, only: Sequence[str] = (), budget: float | None = None, device: str | None = None, jobs: int = 1
) -> list[Done]:
    """Train what is needed for the stages `only` (all where empty) and return what became of each, in order.

    `budget` is in seconds: each stage gets its share of what is left, and as many of its steps as fit into it (at least one). Stages that
    are up to date take nothing of it. A stage's number of steps, once it has begun, stays when the chain is started again. With more than
    one of `jobs`, stages are trained at the same time (see `together.py`). Raises :class:`InputError` for a name that no stage makes, a
    budget that is not positive, and folders in the way that no chain has made.
    """
    if budget is not None and not budget > 0:
        raise InputError(f"a budget of {budget} seconds leaves no time to train; give one above 0, or none")
    stages = chain.needed_for(only)
    for folder in (places.out, places.runs, places.data):
        make_folder(folder)
        check_writable(folder)
    ends = None if budget is None else time.monotonic() + budget
    if jobs > 1:
        for name in sorted({stage.data for stage in stages if stage.data}):
            draw(chain.data[name], places.data / name)
        left_over = None if ends is None else max(0.0, ends - time.monotonic())
        return run_together(stages, functools.partial(_run_stage, chain, places, device), jobs, left_over)
    left = sum(stage.share for stage in stages)
    done = []
    for number, stage in enumerate(stages, 1):
        logger.info("stage %d of %d: %s", number, len(stages), stage.name)
        seconds = None if ends is None else max(0.0, ends - time.monotonic()) * stage.share / left
        left -= stage.share
        done.append(_run_stage(chain, places, device, stage, seconds))
    return done


def _run_stage(chain: Chain, places: Places, device: str | None, stage: Stage, seconds: float | None) -> Done:
    started = time.monotonic()
    files = places.read(chain, stage)
    origin = _origin(chain, stage, files)
    record = places.runs / f"{stage.name}.json"
    written = [places.file(stage, name) for name in stage.makes]
    before = _read(record)
    if before.get("origin") == origin and before.get("sha256") == _hashes(written):
        return Done(stage.name, "kept", before["steps"], stage.steps, 0.0, before["loss"], before["metrics"], _names(written))
    data = draw(chain.data[stage.data], places.data / stage.data) if stage.data else None
    recipe = make_recipe(stage.recipe, settings_of(stage, files, data))
    folder = places.runs / stage.name
    if before.get("began") != origin:
        _remove_own(folder, bool(before))  # checkpoints of other settings or other files
    _write(record, {"began": origin})
    taken = time.monotonic() - started
    room = None if seconds is None else max(1.0, seconds - taken - min(MOST_CLOSING, CLOSING_SHARE * seconds))
    every = Intervals(save=SAVE_EVERY["cpu" if join_processes(device).device.type == "cpu" else "other"])
    result = train(recipe, written[0], stage.steps, run_dir=folder, every=every, device=device, seconds=room)
    moved = _settle(stage, places, result.files)
    loss = result.losses[-1][1] if result.losses else None
    found = {"steps": result.steps, "loss": loss, "metrics": result.metrics}
    _write(record, {"began": origin, "origin": origin, "sha256": _hashes(written), **found})
    return Done(stage.name, "trained", result.steps, stage.steps, time.monotonic() - started, loss, result.metrics, _names(moved))


def draw(dataset: Dataset, folder: Path) -> Path:
    """Draw the dataset into `folder`, unless a folder with the same description is there; one of another description is drawn again.

    Raises :class:`InputError` for a folder that no chain has drawn: it may be a user's own.
    """
    from ...data.buckets import bucket_sizes
    from ...orchard.dataset import write_dataset

    record = folder.with_suffix(".json")
    description = json.loads(json.dumps(asdict(dataset)))
    before = _read(record)
    if folder.is_dir() and before == description:
        return folder
    _remove_own(folder, bool(before))
    _write(record, {"unfinished": description})  # so that a folder left by a crash is known for the chain's own
    shapes = bucket_sizes(scale=dataset.buckets) if dataset.buckets else ()
    processes = (os.cpu_count() or 1) if dataset.count >= ALONE else 1
    write_dataset(dataset.split, dataset.count, dataset.size, folder, maps=dataset.maps, shapes=shapes, processes=processes)
    _write(record, description)
    return folder


def _remove_own(folder: Path, own: bool) -> None:
    """Remove a folder that an earlier run of a chain made (`own`). Raises :class:`InputError` for any other that holds something."""
    if not folder.is_dir():
        return
    if not own and any(folder.iterdir()):
        raise InputError(
            f"{folder} was not made by this chain and would be replaced; move it, or choose other folders with --run and --data"
        )
    shutil.rmtree(folder)


def _settle(stage: Stage, places: Places, files: Sequence[Path]) -> list[Path]:
    """Move what the recipe wrote beside its bundle to where the plan wants it."""
    settled = []
    for path in files:
        wanted = places.file(stage, path.stem)
        if path.stem in stage.makes and wanted != path:
            path = path.replace(wanted)
        settled.append(path)
    if missing := [name for name in stage.makes if not places.file(stage, name).is_file()]:
        raise InputError(f"stage {stage.name}: its recipe did not write {', '.join(missing)}; correct `makes` in the chain's file")
    return settled


def _origin(chain: Chain, stage: Stage, files: Mapping[str, Path]) -> str:
    """A hash of everything that decides what the stage's files hold, but for the number of steps that a budget left."""
    read = {name: file_sha256(path) for name, path in sorted(files.items())}
    drawn = asdict(chain.data[stage.data]) if stage.data else None
    whole = [stage.recipe, stage.steps, dict(stage.files), dict(stage.settings), read, drawn]
    return hashlib.sha256(json.dumps(whole, sort_keys=True).encode()).hexdigest()


def _hashes(paths: Sequence[Path]) -> list[str]:
    return [file_sha256(path) if path.is_file() else "" for path in paths]


def _names(paths: Sequence[Path]) -> tuple[str, ...]:
    return tuple(path.name for path in paths)


def _read(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        return found if isinstance(found, dict) else {}
    except (OSError, ValueError):
        return {}


def _write(path: Path, found: Mapping[str, Any]) -> None:
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(found, indent=1, sort_keys=True) + "\n", encoding="utf-8")
