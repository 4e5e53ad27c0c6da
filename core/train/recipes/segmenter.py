"""Recipe `segmenter`: a network that finds the objects of a picture, as a map for the control adapter.

    python -m rapiddraw train segmenter --data data/train128 --out weights/my-segmenter.safetensors

The network is in `core/control/segmenter.py`; it learns from pictures with exact maps. Without a folder, Orchard pictures are drawn.
A share of the pictures is blurred, brightened and made noisy, because the segmenter also has to read pictures that a decoder made.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import nn
from torch.nn import functional

from ...bundles.format import save_bundle
from ...control.segmenter import ORCHARD_CLASSES, Segmenter, segment, to_bundle
from ...data.folder import ImageFolder
from ...errors import InputError
from ...metrics.control import mean_iou
from ...metrics.orchard import render_batch
from ...orchard.dataset import samples
from ...orchard.render import render_maps
from ...orchard.world import Scene, random_scene
from ..recipe import EpochOrder, Losses, Recipe, python_random


@dataclass
class SegmenterRecipe(Recipe):
    """Settings of the recipe `segmenter`. `data` is an image folder with segmentation maps; `classes` are the names of the maps' values
    0, 1, 2 ..."""

    name: ClassVar[str] = "segmenter"
    default_steps: ClassVar[int] = 900

    batch_size: int = 8
    lr: float = 3e-3
    precision: str = "bf16"
    weight_decay: float = 1e-3
    ema: float = 0.99
    size: int = 128  # side of a picture in pixels
    widths: tuple[int, ...] = (16, 32, 48, 64)  # channels of each level
    classes: tuple[str, ...] = ORCHARD_CLASSES  # names of the maps' values 0, 1, 2 ...
    degrade: float = 0.6  # share of pictures that are blurred and made noisy
    held_out: int = 200  # pictures of the Orchard's test split that give the reported IoU; 0 for other classes

    def setup(self, device: torch.device) -> None:
        self.images = ImageFolder(self.data, size=self.size, captions=False) if self.data else None
        self.order = EpochOrder(len(self.images), self.batch_size, self.seed) if self.images else None
        self.segmenter = Segmenter(self.classes, self.size, self.widths).to(device)
        self.device = device

    def modules(self) -> dict[str, nn.Module]:
        return {"segmenter": self.segmenter}

    def batch(self, index: int, generator: torch.Generator) -> dict[str, torch.Tensor]:
        if self.images is None or self.order is None:
            rng = python_random(generator)
            return _drawn([random_scene(rng) for _ in range(self.batch_size)], self.size)
        chosen = self.order.indices(index)
        maps = [torch.from_numpy(self.images.map(i, "segmentation").copy())[None, None].float() for i in chosen]
        fitted = torch.cat([functional.interpolate(one, (self.size, self.size), mode="nearest-exact") for one in maps])
        return {"pictures": torch.stack([self.images.image(i) for i in chosen]), "classes": fitted[:, 0].long()}

    def loss(self, batch: dict[str, torch.Tensor]) -> Losses:
        classes = batch["classes"]
        if int(classes.max()) >= len(self.classes):
            raise InputError(
                f"a segmentation map holds class {int(classes.max())}, and `classes` names {len(self.classes)}: name every class"
            )
        logits = self.segmenter(self._degraded(batch["pictures"]))
        return {"loss": functional.cross_entropy(logits, classes), "accuracy": (logits.argmax(1) == classes).float().mean()}

    def finish(self, out: Path, provenance: dict[str, Any]) -> list[Path]:
        if self.held_out and self.classes == ORCHARD_CLASSES:
            drawn = _drawn([sample.scene for sample in samples("test", self.held_out)], self.size)
            found = segment(self.segmenter, drawn["pictures"].to(self.device)).cpu()
            provenance.setdefault("metrics", {})["test_iou"] = round(mean_iou(found, drawn["classes"], len(self.classes)), 4)
        return [save_bundle(out, *to_bundle(self.segmenter, provenance))]

    def _degraded(self, pictures: torch.Tensor) -> torch.Tensor:
        """Return `pictures` with a share of them blurred, changed in brightness and contrast, and made noisy."""
        count, side = len(pictures), int(torch.randint(self.size // 3, self.size, ()))
        soft = functional.interpolate(pictures, (side, side), mode="bilinear", antialias=True, align_corners=False)
        soft = functional.interpolate(soft, pictures.shape[-2:], mode="bicubic", align_corners=False)
        device = pictures.device
        soft = soft * (0.8 + 0.4 * torch.rand(count, 1, 1, 1, device=device)) + 0.2 * (torch.rand(count, 3, 1, 1, device=device) - 0.5)
        soft = soft + torch.randn_like(soft) * 0.08 * torch.rand(count, 1, 1, 1, device=device)
        return torch.where(torch.rand(count, 1, 1, 1, device=device) < self.degrade, soft, pictures)


def _drawn(scenes: list[Scene], size: int) -> dict[str, torch.Tensor]:
    maps = torch.stack([torch.from_numpy(render_maps(scene, size)["segmentation"]).long() for scene in scenes])
    return {"pictures": render_batch(scenes, size), "classes": maps}
