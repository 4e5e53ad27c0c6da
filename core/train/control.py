"""The local control adapter (ELR-Diffusion, section 2.4): a copy of a frozen U-Net's encoder learns to follow condition maps.

    L = E ||target - f(z_t, t, e; F'(z_t, t, e, c))||^2 * w(t)

f and its text encoder stay as they are; data, noise, timesteps and weights are the `unet` recipe's. What is trained of F' is `format`:

    dense      the whole copy
    inherit    the whole copy, in the low-rank format that the U-Net itself has (the paper's; of a dense U-Net it is dense)
    lowrank    the factors of the copy, by SVD to `ratio` of its parameters

Of the conditions all are kept in a tenth of the pictures, all dropped in another, and else each with probability one half, so that any of
them may be missing later; the text is dropped in half (Uni-ControlNet's scheme, which the paper follows).
"""

from __future__ import annotations

import logging
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import nn

from ..bundle import read_info
from ..control.adapter import copy_of_unet
from ..control.files import save_control
from ..control.hints import CHANNELS, CONDITIONS, fit_hint, map_hint
from ..control.layers import parameters_of
from ..errors import InputError
from ..lowrank.factorize import factorize
from .unet import UnetRecipe

logger = logging.getLogger("rapiddraw")
FORMATS = ("dense", "inherit", "lowrank")


@dataclass
class ControlRecipe(UnetRecipe):
    """`base` is the U-Net bundle to control, with its `vae`, `text` and `graph`; `data` an image folder with maps in `maps/<condition>/`.

    The prediction type is the U-Net's own; `widths`, `attention` and `heads` are not used.
    """

    name: ClassVar[str] = "control"
    default_steps: ClassVar[int] = 2000

    batch_size: int = 16
    lr: float = 5e-4
    text_lr: float = 0.0
    ema: float = 0.99
    caption_dropout: float = 0.5
    conditions: tuple[str, ...] = CONDITIONS
    features: tuple[int, ...] = (16, 24, 32)  # widths of the condition features, a level each
    format: str = "dense"
    ratio: float = 0.33  # of the copy's parameters that are left, for format "lowrank"
    keep_all: float = 0.1
    drop_all: float = 0.1
    drop_each: float = 0.5

    def setup(self, device: torch.device) -> None:
        base = read_info(self.base, "unet")
        self.prediction = base.schedule.prediction if base.schedule else self.prediction
        super().setup(device)
        self.base_info = base
        self.unet.eval().requires_grad_(False)
        self._check_maps()
        self.adapter, self.control_config = copy_of_unet(self.unet, self.latent_space.factor, self.conditions, self.features)
        if self.format == "lowrank":
            factorize(self.adapter.encoder, "param_ratio", self.ratio, split="symmetric")
        self.adapter.to(device)
        trained, every = parameters_of(self.adapter)
        logger.info("control adapter (%s): %d of %d parameters are trained", self.format, trained, every)

    def modules(self) -> dict[str, nn.Module]:
        return {"control": self.adapter}

    def optimizers(self) -> dict[str, torch.optim.Optimizer]:
        return {"main": self.adamw([p for p in self.adapter.parameters() if p.requires_grad])}

    def batch(self, index: int, generator: torch.Generator) -> dict[str, torch.Tensor]:
        taken = super().batch(index, generator)
        chosen = [self.used[i] for i in self.order.indices(index)]
        rng = random.Random(int(torch.randint(2**62, (1,), generator=generator)))
        kept = [kept_conditions(len(self.conditions), self.keep_all, self.drop_all, self.drop_each, rng) for _ in chosen]
        return {**taken, "hint": torch.stack([self._hint(i, keep) for i, keep in zip(chosen, kept, strict=True)])}

    def predict(self, batch: dict[str, torch.Tensor], network_input: torch.Tensor, t: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        skips, middle = self.adapter(network_input, t, tokens, batch["hint"])
        return self.unet(
            network_input,
            t,
            encoder_hidden_states=tokens,
            down_block_additional_residuals=tuple(skips),
            mid_block_additional_residual=middle,
            return_dict=False,
        )[0]

    def finish(self, out: Path, provenance: dict[str, Any]) -> list[Path]:
        provenance["metrics"]["trained_parameters"] = parameters_of(self.adapter)[0]
        return [save_control(out, self.adapter, self.control_config, self.base_info, provenance)]

    def check(self) -> None:
        super().check()
        if not self.base:
            raise InputError("base is empty: name the U-Net bundle that the adapter is to control")
        if self.text_lr or self.new_latents:
            raise InputError("text_lr and new_latents belong to the unet recipe: here the U-Net and its text encoder stay as they are")
        if self.format not in FORMATS:
            raise InputError(f"format={self.format!r}: expected {', '.join(FORMATS)}")
        if not self.features or not all(1 <= width <= 1024 for width in self.features):
            raise InputError(f"features={self.features!r}: expected widths from 1 to 1024")
        for key in ("keep_all", "drop_all", "drop_each"):
            if not 0 <= getattr(self, key) <= 1:
                raise InputError(f"{key}={getattr(self, key)!r}: expected a probability")
        if self.keep_all + self.drop_all > 1:
            raise InputError(f"keep_all={self.keep_all} and drop_all={self.drop_all} add up to more than 1")

    def _hint(self, index: int, keep: Sequence[bool]) -> torch.Tensor:
        """(3 n, size, size); maps are small PNGs, read when they are needed."""
        out = torch.zeros(CHANNELS * len(self.conditions), self.size, self.size)
        for i, (kind, is_kept) in enumerate(zip(self.conditions, keep, strict=True)):
            if is_kept:
                found = map_hint(kind, torch.from_numpy(self.images.map(index, kind).copy()))
                out[CHANNELS * i : CHANNELS * (i + 1)] = fit_hint(found[None], self.size, self.size)[0]
        return out

    def _check_maps(self) -> None:
        for kind in self.conditions:
            self.images.map(0, kind)  # names the folder, the kind and the file where it is missing


def kept_conditions(count: int, keep_all: float, drop_all: float, drop_each: float, rng: random.Random) -> list[bool]:
    """Which of `count` conditions a picture is trained with."""
    drawn = rng.random()
    if drawn < keep_all:
        return [True] * count
    if drawn < keep_all + drop_all:
        return [False] * count
    return [rng.random() >= drop_each for _ in range(count)]
