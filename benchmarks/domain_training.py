"""Trainings on pictures of the Orchard's new fruits, which no caption and no graph names, as `pair_lora` and `domain_lora` compare them."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..core.metrics.orchard import Floats, Parts
    from ..core.operations.domain import DomainTuning
    from ..core.orchard.entities import Entity
    from ..core.orchard.world import Scene

FOLDER = "new-fruits"
CFG, STEPS = 3.0, 20
SIDE = 128
SETTINGS: dict[str, Any] = {"batch_size": 4, "lr": 2e-3, "rank": 8, "alpha": 8.0, "layers": "attention and feed-forward", "size": SIDE}
"""Settings of every training that is compared."""


@contextmanager
def pictures_of_new_fruits(count: int) -> Iterator[None]:
    """Draw `count` pictures of the twelve new fruits into the folder :data:`FOLDER` of an input folder that ends with the block, as do all
    outputs."""
    from ..core.orchard.new_fruits import write_new_fruits
    from ..core.paths import using_dirs

    with TemporaryDirectory() as root, using_dirs(*(Path(root) / name for name in ("input", "output", "temp"))):
        write_new_fruits(Path(root) / "input" / FOLDER, count, SIDE)
        yield


def tuned(parts: Parts, recipe: DomainTuning, name: str, steps: int) -> Any:
    """Return what Train Domain Model or, for its recipe, Train Time-Decoupled Pair makes of `parts` in `steps` steps."""
    import torch

    from ..core.operations.distill import Run
    from ..core.operations.domain_pair import PairTuning
    from ..core.operations.domain_run import Job
    from ..core.operations.train_domain import train_domain
    from ..core.operations.train_pair import train_pair

    given = (parts.model, parts.clip, parts.vae), Job(FOLDER, name), Run(steps, save_every=steps, resume=False)
    with torch.inference_mode():
        if isinstance(recipe, PairTuning):
            return train_pair(given[0], given[1], recipe, given[2])
        return train_domain(given[0], given[1], recipe, given[2])


def new_scenes(count: int, seed: int) -> list[tuple[Entity, Scene]]:
    """Return `count` scenes of the new fruits in turn, other ones than those of the training; the same scenes for the same `seed`."""
    from ..core.orchard.new_fruits import new_fruits

    rng, fruits = random.Random(f"domain training/{seed}"), new_fruits()
    return [(fruits[i % len(fruits)], fruits[i % len(fruits)].scene(rng, style="fine")) for i in range(count)]


def facts_of_new_fruits() -> str:
    """Return the facts of the new fruits as lines that a user would type into Extend Knowledge Graph."""
    from ..core.orchard.new_fruits import new_fruits

    lines = []
    for one in new_fruits():
        told = {
            "has_shape": f"shape:{one.shape}", "skin_colour": f"skin:{one.skin}", "has_pattern": f"pattern:{one.pattern}",
            "pattern_colour": f"pattern_colour:{one.pattern_colour}", "has_topper": f"topper:{one.topper}", "alias@en": one.name_en,
        }  # fmt: skip
        lines += [f"{one.id}, {relation}, {value}" for relation, value in told.items()]
    return "\n".join(lines)


@dataclass(frozen=True)
class Reader:
    """Reads fruits from drawn pictures of `pairs`, always from the same noise."""

    pairs: Sequence[tuple[Entity, Scene]]
    judge: Any
    attributes: tuple[str, ...]
    seed: int = 0

    def accuracy(self, parts: Parts, texture: Any = None, t_struct: int = 500) -> Floats:
        """Return the share of attributes read right in each picture (N,), drawn by `parts`, whose model hands over to `texture`."""
        from ..core.metrics.orchard import accuracy_by_picture, sample_pictures
        from ..core.orchard.captions import name_caption
        from ..core.scoring.judge import judge_pictures

        prompts = [name_caption(scene, entity) for entity, scene in self.pairs]
        pictures = sample_pictures(parts, prompts, sampling(parts.host, texture, t_struct), SIDE, seed=self.seed)
        return accuracy_by_picture(judge_pictures(self.judge, pictures)[0], [scene for _, scene in self.pairs], self.attributes)


def sampling(host: Any, texture: Any, t_struct: int) -> Any:
    """Return the function that :func:`~..core.metrics.orchard.sample_pictures` samples with, by one model or by two."""
    from ..core.host import SamplingRun, Stage
    from .shipped import sampling as by_one

    if texture is None:
        return by_one(host, CFG, STEPS)

    def sample(model: Any, positive: Any, negative: Any, latent: Any, seed: int) -> Any:
        stages = (Stage(model, positive, negative, CFG, t_struct), Stage(texture, None, None, CFG))
        guider = host.time_decoupled.make_guider(stages)
        return host.time_decoupled.sample(guider, latent, SamplingRun(seed, STEPS, "dpmpp_2m", "karras"), "keep")["samples"]

    return sample
