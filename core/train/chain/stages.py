"""The plan of a chain: its datasets and stages, read from a JSON file and checked before anything is trained.

    {"data":   {"train128": {"split": "train", "count": 12000, "size": 128, "maps": ["segmentation"]}},
     "stages": [{"makes": ["my-vae"], "recipe": "vae", "data": "train128", "steps": 8000, "share": 14, "set": {"lr": 1e-3}},
                {"makes": ["my-unet", "my-text"], "recipe": "unet", "files": {"vae": "my-vae"}, ...}]}

The first name of `makes` is the stage's own and the file that the recipe is asked to write; the others are what the recipe writes beside.
A file `shipped:NAME` is the one in `weights/`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ...errors import InputError
from .. import RECIPES, make_recipe

CHAINS = {name: Path(__file__).with_name(f"{name}.json") for name in ("orchard", "further")}
"""The chain that makes `weights/` from nothing, and the one that trains the files in it further."""
SHIPPED = "shipped:"


@dataclass(frozen=True)
class Dataset:
    """An Orchard dataset to draw: `count` pictures of `split`, square of `size` pixels or in the aspect ratios of `buckets`."""

    split: str
    count: int
    size: int
    maps: tuple[str, ...] = ()
    buckets: float = 0.0


@dataclass(frozen=True)
class Stage:
    """One training. `files` maps settings to names that other stages make (several with commas between them); `share` is the stage's part
    of a time budget. `keep` false leaves its files in the run folder; those named in `drop` stay there in any case."""

    makes: tuple[str, ...]
    recipe: str
    steps: int
    share: float
    data: str = ""
    files: Mapping[str, str] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    keep: bool = True
    drop: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """The name of the stage and of its bundle."""
        return self.makes[0]

    def needs(self) -> list[str]:
        """The names of the files that this stage reads and other stages make."""
        return [name for name in self.reads() if not name.startswith(SHIPPED)]

    def reads(self) -> list[str]:
        """The names of all files that this stage reads."""
        return [name for names in self.files.values() for name in names.split(",")]


@dataclass(frozen=True)
class Chain:
    """Datasets by name, and stages in an order in which each comes after those that it needs."""

    data: Mapping[str, Dataset]
    stages: tuple[Stage, ...]

    def with_pictures(self, most: int) -> Chain:
        """Return the same chain on datasets of at most `most` pictures."""
        return replace(self, data={name: replace(one, count=min(one.count, most)) for name, one in self.data.items()})

    def maker_of(self, name: str) -> Stage:
        """The stage that makes the file `name`. Raises :class:`InputError` where none does."""
        for stage in self.stages:
            if name in stage.makes:
                return stage
        raise InputError(f"no stage makes {name!r}; the stages are {', '.join(stage.name for stage in self.stages)}")

    def needed_for(self, names: Sequence[str]) -> list[Stage]:
        """The stages that make `names` and all that those need, in order; every stage where `names` is empty."""
        if not names:
            return list(self.stages)
        wanted: set[str] = set()
        todo = list(names)
        while todo:
            stage = self.maker_of(todo.pop())
            if stage.name not in wanted:
                wanted.add(stage.name)
                todo += stage.needs()
        return [stage for stage in self.stages if stage.name in wanted]


def read_chain(path: Path = CHAINS["orchard"]) -> Chain:
    """Read and check a chain.

    Raises :class:`InputError` naming the stage for an unknown recipe or setting, a dataset or file that nothing makes (or only a later
    stage), a name that is made twice, and steps or shares that are not positive.
    """
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
        data = {name: Dataset(**{**entry, "maps": tuple(entry.get("maps", ()))}) for name, entry in raw["data"].items()}
        stages = tuple(_stage(entry) for entry in raw["stages"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"{path.name} is no chain of trainings ({type(error).__name__}: {error}); see core/train/chain/stages.py"
        ) from error
    made: set[str] = set()
    for stage in stages:
        _check(stage, data, made)
        made.update(stage.makes)
    return Chain(data, stages)


def _stage(entry: dict[str, Any]) -> Stage:
    known = {"makes", "recipe", "steps", "share", "data", "files", "set", "keep", "drop"}
    if unknown := entry.keys() - known:
        raise ValueError(f"unknown keys {', '.join(sorted(unknown))} in a stage; the keys are {', '.join(sorted(known))}")
    settings = entry.get("set", {})
    return Stage(
        tuple(entry["makes"]), entry["recipe"], entry["steps"], entry["share"], entry.get("data", ""), entry.get("files", {}),
        settings, entry.get("keep", True), tuple(entry.get("drop", ())),
    )  # fmt: skip


def _check(stage: Stage, data: Mapping[str, Dataset], made: set[str]) -> None:
    where = f"stage {stage.name}"
    if stage.recipe not in RECIPES:
        raise InputError(f"{where}: no recipe named {stage.recipe!r}; the recipes are {', '.join(sorted(RECIPES))}")
    if stage.data and stage.data not in data:
        raise InputError(f"{where}: no dataset named {stage.data!r}; the datasets are {', '.join(sorted(data))}")
    if twice := made & set(stage.makes):
        raise InputError(f"{where}: {', '.join(sorted(twice))} is made by an earlier stage already")
    if missing := [name for name in stage.needs() if name not in made]:
        raise InputError(f"{where}: no earlier stage makes {', '.join(missing)}")
    if not isinstance(stage.steps, int) or stage.steps < 1 or not stage.share > 0:
        raise InputError(f"{where}: steps={stage.steps!r}, share={stage.share!r}: expected a whole number from 1 and a number above 0")
    try:
        make_recipe(stage.recipe, dict(settings_of(stage, {name: Path(f"{name}.safetensors") for name in stage.reads()}, Path("data"))))
    except InputError as error:
        raise InputError(f"{where}: {error}") from error


def settings_of(stage: Stage, files: Mapping[str, Path], data: Path | None) -> dict[str, Any]:
    """The settings of the stage's recipe, with the paths of `files` for the names that it needs and the folder of its dataset."""
    paths = {key: ",".join(str(files[name]) for name in names.split(",")) for key, names in stage.files.items()}
    settings = {key: tuple(value) if isinstance(value, list) else value for key, value in stage.settings.items()}
    return {**settings, **paths, **({"data": str(data)} if stage.data and data is not None else {})}
