"""Train the projection of image embeddings to tokens (`core/text/image_tokens.py`) on a frozen U-Net, in pictures and captions.

    python -m rapiddraw train image_tokens --data DIR --out weights/my-image-tokens.safetensors \\
        --set base=weights/orchard-unet.safetensors --set vae=weights/orchard-vae.safetensors --set text=weights/orchard-text.safetensors \\
        --set graph=weights/orchard-kg.safetensors --set tower=weights/pretrained-orchard-image.safetensors

The loss is the U-Net's own. Each picture is its own prompt; its caption is dropped often (`caption_dropout`), and in a share of batches
(`alone`) no text token is there at all, so that the tokens learn to say what the text would. A share has its tokens set to zero
(`image_dropout`), which is what a strength of 0 is.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import nn

from ..bundle import load_bundle, save_bundle
from ..errors import InputError
from ..paths import file_sha256
from ..progress import Progress
from ..text.image_tokens import ImageTokens, to_bundle
from ..text.image_tower import load_image_tower
from .unet import UnetRecipe


@dataclass
class ImageTokensRecipe(UnetRecipe):
    """`base` is the U-Net that learns to be prompted, `tower` a bundle of kind `image`."""

    name: ClassVar[str] = "image_tokens"
    default_steps: ClassVar[int] = 700

    text_lr: float = 0.0
    lr: float = 2e-3
    ema: float = 0.995
    caption_dropout: float = 0.5
    timesteps: str = "logit_normal"
    tower: str = ""
    tokens: int = 8
    hidden: int = 256
    alone: float = 0.4
    image_dropout: float = 0.05

    def setup(self, device: torch.device) -> None:
        super().setup(device)
        self.unet.requires_grad_(False)
        tower = load_image_tower(load_bundle(self.tower, "image")).to(device).requires_grad_(False)
        self.projection = ImageTokens(tower.projection_dim, self.hidden, self.tokens, self.encoder.width).to(device)
        parts = []
        with Progress(len(self.images), "embedding", "image") as bar, torch.no_grad():
            for first in range(0, len(self.images), 64):
                pictures = [self.images.image(i) for i in range(first, min(first + 64, len(self.images)))]
                parts.append(tower(torch.stack(pictures).to(device)).cpu())
                bar.update(len(pictures))
        self.embeddings = torch.cat(parts)

    def modules(self) -> dict[str, nn.Module]:
        return {"projection": self.projection}

    def optimizers(self) -> dict[str, torch.optim.Optimizer]:
        return {"main": self.adamw(list(self.projection.parameters()))}

    def batch(self, index: int, generator: torch.Generator) -> dict[str, torch.Tensor]:
        taken = super().batch(index, generator)
        chosen = [self.used[i] for i in self.order.indices(index)]
        kept = torch.rand(len(chosen), 1, 1, generator=generator) >= self.image_dropout
        alone = torch.rand((), generator=generator) < self.alone
        return {**taken, "embeddings": self.embeddings[chosen], "kept": kept, "alone": alone}

    def context(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        tokens = self.projection(batch["embeddings"])
        if bool(batch["alone"]):
            return tokens
        return torch.cat([super().context(batch), tokens * batch["kept"]], dim=1)

    def finish(self, out: Path, provenance: dict[str, Any]) -> list[Path]:
        tower = {"kind": "image", "sha256": file_sha256(Path(self.tower)), "name": Path(self.tower).name}
        return [save_bundle(out, *to_bundle(self.projection, tower, provenance))]

    def check(self) -> None:
        super().check()
        if not self.base or not self.tower or self.text_lr:
            raise InputError(
                "base or tower is empty, or text_lr is set: tokens are trained for a finished U-Net and a finished image tower"
            )
        for key in ("alone", "image_dropout"):
            if not 0 <= getattr(self, key) <= 1:
                raise InputError(f"{key}={getattr(self, key)!r}: expected a share from 0 to 1")
