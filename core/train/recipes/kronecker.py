"""Recipe `kronecker`: a small adapter for a finished U-Net that teaches it a style, or anything else that a folder of pictures shows.

    python -m rapiddraw train kronecker --data DIR --out weights/my-adapter.safetensors --set base=weights/orchard-unet.safetensors \\
        --set vae=weights/orchard-vae.safetensors --set text=weights/orchard-text.safetensors --set graph=weights/orchard-kg.safetensors

The loss is that of the recipe `unet`; only the updates of the weights are trained. With `word` only those pictures and captions are used
in which this word stands, and `instead` replaces it: `word=cartoon instead=photo` teaches that a photo looks like a cartoon.

Paper: ELR-Diffusion (section 2.4, eq. 9), which puts such updates on its control adapter; here they are put on the U-Net itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import nn

from ...errors import InputError
from ...lowrank.adapter import save_adapter
from ...lowrank.kronecker import attach, updates_of
from ...lowrank.plan import targeted
from ...lowrank.roles import TARGETS
from .unet import UnetRecipe


@dataclass
class KroneckerRecipe(UnetRecipe):
    """Settings of the recipe `kronecker`. `base` is the U-Net that is adapted; `targets` are the groups of layers, as in Factorize UNet."""

    name: ClassVar[str] = "kronecker"
    default_steps: ClassVar[int] = 300

    text_lr: float = 0.0
    lr: float = 3e-3
    ema: float = 0.99
    caption_dropout: float = 0.0  # the empty prompt keeps its meaning
    timesteps: str = "logit_normal"
    rank: int = 4  # rank of the factors
    share: bool = False  # one A for all layers with the same number of terms
    targets: tuple[str, ...] = ("attention", "feed_forward")  # the groups of layers to adapt, as in Factorize UNet
    word: str = ""  # the word of a caption that calls the adapter forth
    instead: str = ""  # the word of the folder's captions that it replaces

    def setup(self, device: torch.device) -> None:
        super().setup(device)
        if self.word:
            self.use([i for i in self.used if self._with_word(i)])
        attach(self.unet, [name for name, _, _ in targeted(self.unet, self.targets)], self.rank, self.share)

    def check_folder(self) -> None:
        super().check_folder()
        if self.word and not any(self._with_word(i) for i in range(len(self.images))):
            raise InputError(f"no picture of {self.data} has a caption with the word {self.word!r}")

    def modules(self) -> dict[str, nn.Module]:
        found = {
            f"{name}/{part}": tensor for name, update in updates_of(self.unet).items() for part, tensor in zip("auv", update, strict=True)
        }
        return {"updates": nn.ParameterDict({name.replace(".", "/"): tensor for name, tensor in found.items()})}

    def optimizers(self) -> dict[str, torch.optim.Optimizer]:
        return {"main": self.adamw([p for p in self.unet.parameters() if p.requires_grad])}

    def caption(self, index: int, generator: torch.Generator) -> str:
        if not self.word:
            return super().caption(index, generator)
        captions = self._with_word(index)
        chosen = captions[int(torch.randint(len(captions), (), generator=generator))]
        return " ".join(chosen.replace(self.word, self.instead).split())

    def finish(self, out: Path, provenance: dict[str, Any]) -> list[Path]:
        return [save_adapter(out, updates_of(self.unet), "unet", provenance, rank=self.rank, targets=list(self.targets))]

    def check(self) -> None:
        super().check()
        if not self.base:
            raise InputError("base is empty: name the U-Net bundle that the adapter is for, such as base=weights/orchard-unet.safetensors")
        if self.new_latents or self.text_lr:
            raise InputError("new_latents or text_lr is set: an adapter is trained on a finished U-Net as it is; leave both out")
        unknown = [target for target in self.targets if target not in TARGETS]
        if unknown or not self.targets:
            raise InputError(f"targets={self.targets}: expected some of {', '.join(TARGETS)}")

    def _with_word(self, index: int) -> list[str]:
        return [caption.text for caption in self.images.items[index].captions if self.word in caption.text]
