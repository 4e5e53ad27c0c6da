"""Recipe `image_tokens`: a picture as a prompt, for variations of it.

    python -m rapiddraw train image_tokens --data DIR --out weights/my-image-tokens.safetensors \\
        --set base=weights/orchard-unet.safetensors --set vae=weights/orchard-vae.safetensors --set text=weights/orchard-text.safetensors \\
        --set graph=weights/orchard-kg.safetensors --set tower=weights/pretrained-orchard-image.safetensors

A small network (`core/text/image_tokens.py`) learns to turn a picture's embedding into tokens that a finished U-Net attends to. It learns
in two steps. First, `reading` steps of plain regression from a picture's embedding to the text encoder's states for its description: they
cost next to nothing, and afterwards the tokens say something that the U-Net understands. Then the loss of the recipe `unet`, with each
picture as its own prompt.

Its caption is dropped often (`caption_dropout`), and in a share of batches (`alone`) there is no text token at all, so that the tokens
learn to carry what the text would. For a share of pictures the tokens are zero (`image_dropout`), as at a strength of 0.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import nn

from ...bundles.format import save_bundle
from ...bundles.load import load_bundle
from ...errors import InputError
from ...orchard.captions import attribute_caption
from ...orchard.world import Scene
from ...paths import file_sha256
from ...progress import Progress
from ...text.image_tokens import ImageTokens, to_bundle
from ...text.image_tower import load_image_tower
from ..recipe import derived_seed
from .unet import UnetRecipe


@dataclass
class ImageTokensRecipe(UnetRecipe):
    """Settings of the recipe `image_tokens`. `base` is the U-Net that learns to be prompted, `tower` a bundle of kind `image`."""

    name: ClassVar[str] = "image_tokens"
    default_steps: ClassVar[int] = 300
    bundles: ClassVar[Mapping[str, str]] = {**UnetRecipe.bundles, "tower": "image"}

    text_lr: float = 0.0
    lr: float = 5e-4
    ema: float = 0.98
    caption_dropout: float = 0.5
    timesteps: str = "logit_normal"
    tower: str = ""  # the image bundle whose embeddings become tokens
    tokens: int = 32  # with `reading`, as many as a text has
    hidden: int = 256  # width of the projection between embedding and tokens
    reading: int = 400  # steps of regression before the training begins
    reading_lr: float = 3e-3  # learning rate of that regression
    pictures: int = 0  # use the first so many pictures only; 0 uses all
    alone: float = 0.4  # share of pictures that stand without a text
    image_dropout: float = 0.05  # share of pictures left out

    def setup(self, device: torch.device) -> None:
        super().setup(device)
        self.unet.requires_grad_(False)
        tower = load_image_tower(load_bundle(self.tower, "image")).to(device).requires_grad_(False)
        self.projection = ImageTokens(tower.projection_dim, self.hidden, self.tokens, sum(self.readers.widths)).to(device)
        if self.pictures and self.pictures < len(self.used):
            self.use(self.used[: self.pictures])
        self.embeddings = torch.zeros(len(self.images), tower.projection_dim)
        with Progress(len(self.used), "embedding", "image") as bar, torch.no_grad():
            for first in range(0, len(self.used), 64):
                part = self.used[first : first + 64]
                self.embeddings[part] = tower(torch.stack([self.images.image(i) for i in part]).to(device)).cpu()
                bar.update(len(part))
        if self.reading:
            self._learn_to_read(device)

    def check_networks(self) -> None:
        length = self.readers.encoders[0].length
        if self.reading and self.tokens != length:
            raise InputError(f"tokens={self.tokens}: with reading={self.reading} they must be as many as a text has, {length}")

    def _learn_to_read(self, device: torch.device) -> None:
        """Fit the projection to the text encoder's states for each picture's description."""
        states = []
        with torch.no_grad():
            for first in range(0, len(self.used), 128):
                texts = [self._description(i) for i in self.used[first : first + 128]]
                read = [self.readers.tokens(number, texts) for number in range(len(self.readers.encoders))]
                batch = {"ids": [ids.to(device) for ids, _ in read], "rows": [rows.to(device) for _, rows in read]}
                states.append(super().context(batch).half())
        optimizer = self.adamw(list(self.projection.parameters()), self.reading_lr)
        both = (self.embeddings[self.used].to(device), torch.cat(states))
        self.reading_error = learn_to_read(self.projection, both, optimizer, self.reading, self.seed)

    def _description(self, index: int) -> str:
        """Return what a picture shows in words: all looks of an Orchard scene, else the longest caption."""
        item = self.images.items[index]
        if item.scene is not None:
            return attribute_caption(Scene.from_json(item.scene))
        return max((caption.text for caption in item.captions), key=len, default="")

    def modules(self) -> dict[str, nn.Module]:
        return {"projection": self.projection}

    def optimizers(self) -> dict[str, torch.optim.Optimizer]:
        return {"main": self.adamw(list(self.projection.parameters()))}

    def batch(self, index: int, generator: torch.Generator) -> dict[str, Any]:
        taken = super().batch(index, generator)
        chosen = self.chosen(index)
        kept = torch.rand(len(chosen), 1, 1, generator=generator) >= self.image_dropout
        alone = torch.rand((), generator=generator) < self.alone
        return {**taken, "embeddings": self.embeddings[chosen], "kept": kept, "alone": alone}

    def context(self, batch: dict[str, Any]) -> torch.Tensor:
        tokens = self.projection(batch["embeddings"])
        if bool(batch["alone"]):
            return tokens
        return torch.cat([super().context(batch), tokens * batch["kept"]], dim=1)

    def finish(self, out: Path, provenance: dict[str, Any]) -> list[Path]:
        if self.reading:
            provenance.setdefault("metrics", {})["reading_error"] = round(self.reading_error, 4)
        tower = {"kind": "image", "sha256": file_sha256(Path(self.tower)), "name": Path(self.tower).name}
        return [save_bundle(out, *to_bundle(self.projection, tower, provenance))]

    def check(self) -> None:
        super().check()
        for key in ("base", "tower"):
            if not getattr(self, key):
                raise InputError(f"{key} is empty: tokens are trained for a finished U-Net (base) and a finished image tower (tower)")
        if self.text_lr:
            raise InputError(f"text_lr={self.text_lr!r}: the text encoder stays as it is; leave it out")
        if self.reading < 0 or self.pictures < 0:
            raise InputError(f"reading={self.reading}, pictures={self.pictures}: expected 0 or more")
        self.check_shares("alone", "image_dropout")


def learn_to_read(
    projection: ImageTokens, both: tuple[torch.Tensor, torch.Tensor], optimizer: torch.optim.Optimizer, steps: int, seed: int
) -> float:
    """Fit a projection by `steps` of regression from embeddings (N, features) to states (N, tokens, width), the two of `both`.

    Returns the last error as a share of the states' variance."""
    given, wanted = both
    decay = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    generator = torch.Generator().manual_seed(derived_seed(seed, "reading"))
    with Progress(steps, "reading", "step") as bar:
        for _ in range(steps):
            chosen = torch.randint(len(given), (min(256, len(given)),), generator=generator).to(given.device)
            error = (projection(given[chosen]) - wanted[chosen].float()).square().mean()
            optimizer.zero_grad()
            error.backward()
            optimizer.step()
            decay.step()
            bar.update(loss=f"{float(error.detach()):.4f}")
    optimizer.zero_grad()  # the training's first step, and a resumed run's, begins without a gradient
    return float(error.detach() / wanted.float().var())
