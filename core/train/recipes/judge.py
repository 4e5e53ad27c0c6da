"""Recipe `judge`: a classifier that reads shape, colours, style and scenery off an Orchard picture, to measure other models with.

    python -m rapiddraw train judge --out weights/my-judge.safetensors

The network is in `core/scoring/judge.py`. It learns on renders of random scenes, drawn anew for every batch, so that no model that is
judged has seen them. A share of the pictures is blurred and made noisy, because the judge has to read pictures that a decoder made.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import nn
from torch.nn import functional

from ...bundles.format import BundleInfo, save_bundle
from ...checks import whole_number
from ...data.folder import ImageFolder
from ...errors import DataError
from ...metrics.orchard import render_batch
from ...orchard.dataset import samples
from ...orchard.entities import entities
from ...orchard.world import Scene, random_scene
from ...scoring.judge import IGNORE, SIDE, Judge, attribute_accuracy, judge_pictures, labels
from ..recipe import EpochOrder, Losses, Recipe, python_random

_RENDER_SIDE = 128


@dataclass
class JudgeRecipe(Recipe):
    """Settings of the recipe `judge`. `held_out` scenes of the `test` split give the reported accuracy.

    Without `data` every batch is drawn anew. With `data`, a folder of the Orchard, its pictures are taken instead: ten times quicker, and
    good enough for a classifier that gives a reward (see the recipe `raft`) and judges no results.
    """

    name: ClassVar[str] = "judge"

    batch_size: int = 64
    lr: float = 2e-3
    weight_decay: float = 1e-3
    width: int = 32  # channels of the first convolution
    degrade: float = 0.6  # share of pictures that are blurred or made noisy
    held_out: int = 2000  # scenes of the test split that give the reported accuracy

    def check(self) -> None:
        super().check()
        whole_number("width", self.width, 1, 1024)
        whole_number("held_out", self.held_out, 1, 100_000)
        self.check_shares("degrade")

    def setup(self, device: torch.device) -> None:
        self.judge = Judge(self.width).to(device)
        self.device = device
        self.folder = ImageFolder(self.data, size=SIDE, cache=True) if self.data else None
        if self.folder is not None:
            self.order = EpochOrder(len(self.folder), self.batch_size, self.seed)
            if any(item.scene is None for item in self.folder.items):
                raise DataError(f"{self.data}: every picture needs its scene, as `python -m rapiddraw data orchard` writes it")

    def modules(self) -> dict[str, nn.Module]:
        return {"judge": self.judge}

    def batch(self, index: int, generator: torch.Generator) -> dict[str, Any]:
        if self.folder is not None:
            taken = self.order.indices(index)
            known = [Scene.from_json(scene) for i in taken if (scene := self.folder.items[i].scene) is not None]
            return {"pictures": torch.stack([self.folder.image(i) for i in taken]), "labels": labels(known)}
        rng = python_random(generator)
        named = entities()
        scenes = [rng.choice(named).scene(rng) if rng.random() < 0.5 else random_scene(rng) for _ in range(self.batch_size)]
        return {"pictures": draw(scenes), "labels": labels(scenes)}

    def loss(self, batch: dict[str, Any]) -> Losses:
        logits = self.judge(self._degraded(batch["pictures"]))
        parts = {name: functional.cross_entropy(logits[name], batch["labels"][name], ignore_index=IGNORE) for name in logits}
        return {"loss": torch.stack(list(parts.values())).sum(), **parts}

    def evaluate(self, step: int, run_dir: Path) -> dict[str, float]:
        return self._accuracy(500)

    def finish(self, out: Path, provenance: dict[str, Any]) -> list[Path]:
        accuracy = self._accuracy(self.held_out)
        provenance.setdefault("metrics", {}).update({name: round(value, 4) for name, value in accuracy.items()})
        tensors = {name: t for name, t in self.judge.state_dict().items() if not name.endswith("num_batches_tracked")}
        return [save_bundle(out, tensors, BundleInfo("judge", {"width": self.width}, provenance=provenance))]

    def _accuracy(self, count: int) -> dict[str, float]:
        scenes = [sample.scene for sample in samples("test", count)]
        predicted, _ = judge_pictures(self.judge, draw(scenes).to(self.device))
        return attribute_accuracy({name: p.cpu() for name, p in predicted.items()}, scenes)

    def _degraded(self, pictures: torch.Tensor) -> torch.Tensor:
        side = int(torch.randint(28, 56, ()))
        soft = functional.interpolate(pictures, (side, side), mode="bilinear", antialias=True, align_corners=False)
        soft = functional.interpolate(soft, pictures.shape[-2:], mode="bicubic", align_corners=False)
        soft = soft + torch.randn_like(soft) * 0.06 * torch.rand(len(soft), 1, 1, 1, device=soft.device)
        chosen = torch.rand(len(pictures), 1, 1, 1, device=pictures.device) < self.degrade
        return torch.where(chosen, soft, pictures)


def draw(scenes: list[Scene]) -> torch.Tensor:
    """Return renders of `scenes`, (B, 3, 64, 64) in [-1, 1], drawn at 128 px and reduced in the way in which the judge reduces its
    pictures."""
    return functional.interpolate(render_batch(scenes, _RENDER_SIDE), (SIDE, SIDE), mode="bilinear", antialias=True, align_corners=False)
