"""Recipe `control`: an adapter that makes a finished U-Net follow edges, sketches or segmentation maps.

    python -m rapiddraw train control --data DIR --out weights/my-control.safetensors --set base=weights/orchard-unet.safetensors \\
        --set vae=weights/orchard-vae.safetensors --set text=weights/orchard-text.safetensors

    L = E ||target - f(z_t, t, e; F'(z_t, t, e, c))||^2 * w(t)

The U-Net f and its text encoder stay as they are; the adapter F' is a copy of the U-Net's encoder that reads the condition maps c. Data,
noise, timesteps and weights w are those of the recipe `unet`. `format` says which part of F' is trained:

    dense      the whole copy
    inherit    the whole copy, in the low-rank format that the U-Net itself has (the paper's; of a dense U-Net it is dense)
    lowrank    the factors of the copy, by SVD to `ratio` of its parameters
    kronecker  updates of a copy that is frozen, sum_i A_i (x) (u_i v_i^T) of `rank` (eq. 9), merged into it at the end

In each format the condition's features, their feature denormalisation (eq. 8) and the output convolutions are trained too.

Any of the conditions may be missing later. Hence all of them are kept in a tenth of the pictures and all dropped in another tenth; in the
others each is kept with probability one half. The text is dropped in half of the pictures. A share `extracted` of the edges and sketches is
drawn from the picture itself, as a node would draw them, and not read from the folder's exact maps.

Paper: ELR-Diffusion, stage II (section 2.4), with the setup of Uni-ControlNet (Zhao et al. 2023; section 3.3).
"""

from __future__ import annotations

import copy
import logging
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import nn

from ...bundles.format import read_info
from ...control.adapter import ControlAdapter, copy_of_unet
from ...control.bundle import save_control
from ...control.hints import CHANNELS, CONDITIONS, fit_hint, map_hint
from ...control.layers import FDN, parameters_of
from ...control.maps import canny, sketch
from ...errors import InputError
from ...lowrank.factorize import factorize
from ...lowrank.kronecker import MAX_RANK, add_deltas, attach, detach, materialize
from ...lowrank.plan import targeted
from ...lowrank.roles import DEFAULT_TARGETS
from ..recipe import python_random
from .unet import UnetRecipe

logger = logging.getLogger("rapiddraw")
FORMATS = ("dense", "inherit", "lowrank", "kronecker")
EXTRACTORS = {"edges": canny, "sketch": sketch}


@dataclass
class ControlRecipe(UnetRecipe):
    """Settings of the recipe `control`.

    `base` is the U-Net bundle to control, with its `vae`, `text` and `graph`; `data` is an image folder with maps in `maps/<condition>/`.
    The prediction type is the U-Net's own; `widths`, `attention` and `heads` are not used.
    """

    name: ClassVar[str] = "control"
    default_steps: ClassVar[int] = 2000

    batch_size: int = 16
    lr: float = 5e-4
    text_lr: float = 0.0
    ema: float = 0.99
    caption_dropout: float = 0.5
    conditions: tuple[str, ...] = CONDITIONS  # the kinds of maps, as folders of maps/ are named
    features: tuple[int, ...] = (16, 24, 32)  # widths of the condition features, one for each level
    format: str = "dense"  # of the copy: "dense", "lowrank" or "kronecker"
    ratio: float = 0.33  # format "lowrank": share of the copy's parameters that is left
    rank: int = 4  # format "kronecker": rank of u and v
    extracted: float = 0.5  # share of edges and sketches drawn from the picture itself; 1 where the folder has no such maps
    keep_all: float = 0.1  # share of pictures that are shown all their maps
    drop_all: float = 0.1  # share that are shown none
    drop_each: float = 0.5  # of the others, the chance that a map is left out

    def setup(self, device: torch.device) -> None:
        base = read_info(self.base, "unet")
        self.prediction = base.schedule.prediction if base.schedule else self.prediction
        super().setup(device)
        self.base_info = base
        self.unet.eval().requires_grad_(False)
        self.adapter, self.control_config = copy_of_unet(self.unet, self.latent_space.factor, self.conditions, self.features)
        if self.format == "lowrank":
            factorize(self.adapter.encoder, "param_ratio", self.ratio, split="symmetric")
        elif self.format == "kronecker":
            freeze_with_updates(self.adapter, self.rank)
        self.adapter.to(device)
        trained, every = parameters_of(self.adapter)
        logger.info("control adapter (%s): %d of %d parameters are trained", self.format, trained, every)

    def modules(self) -> dict[str, nn.Module]:
        return {"control": self.adapter}

    def optimizers(self) -> dict[str, torch.optim.Optimizer]:
        return {"main": self.adamw([p for p in self.adapter.parameters() if p.requires_grad])}

    def batch(self, index: int, generator: torch.Generator) -> dict[str, Any]:
        taken = super().batch(index, generator)
        chosen = self.chosen(index)
        rng = python_random(generator)
        kept = [kept_conditions(len(self.conditions), self.keep_all, self.drop_all, self.drop_each, rng) for _ in chosen]
        return {**taken, "hint": torch.stack([self._hint(i, keep, rng) for i, keep in zip(chosen, kept, strict=True)])}

    def predict(self, batch: dict[str, Any], network_input: torch.Tensor, t: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
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
        merged = with_updates_merged(self.adapter) if self.format == "kronecker" else self.adapter
        return [save_control(out, merged, self.control_config, self.base_info, provenance)]

    def check(self) -> None:
        super().check()
        if not self.base:
            raise InputError(
                "base is empty: name the U-Net bundle that the adapter controls, such as base=weights/orchard-unet.safetensors"
            )
        if self.text_lr or self.new_latents:
            raise InputError("text_lr and new_latents belong to the unet recipe: here the U-Net and its text encoder stay as they are")
        if self.format not in FORMATS:
            raise InputError(f"format={self.format!r}: expected {', '.join(FORMATS)}")
        if not self.features or not all(1 <= width <= 1024 for width in self.features):
            raise InputError(f"features={self.features!r}: expected widths from 1 to 1024")
        if not 1 <= self.rank <= MAX_RANK:
            raise InputError(f"rank={self.rank!r}: expected 1 to {MAX_RANK}")
        self.check_shares("keep_all", "drop_all", "drop_each", "extracted")
        if self.keep_all + self.drop_all > 1:
            raise InputError(f"keep_all={self.keep_all} and drop_all={self.drop_all} add up to more than 1")

    def _hint(self, index: int, keep: Sequence[bool], rng: random.Random) -> torch.Tensor:
        """Return the condition maps (3 n, size, size) of a picture. Maps are small PNGs, read when they are needed."""
        out = torch.zeros(CHANNELS * len(self.conditions), self.size, self.size)
        for i, (kind, is_kept) in enumerate(zip(self.conditions, keep, strict=True)):
            extract = kind in EXTRACTORS and rng.random() < self.extracted
            if is_kept:
                found = self._extracted(index, kind) if extract else map_hint(kind, torch.from_numpy(self.images.map(index, kind).copy()))
                out[CHANNELS * i : CHANNELS * (i + 1)] = fit_hint(found[None], self.size, self.size)[0]
        return out

    def _extracted(self, index: int, kind: str) -> torch.Tensor:
        return EXTRACTORS[kind](self.images.image(index)[None] / 2 + 0.5).expand(CHANNELS, -1, -1)

    def check_folder(self) -> None:
        super().check_folder()
        for kind in self.conditions:
            if not (kind in EXTRACTORS and self.extracted == 1):
                self.images.map(0, kind)  # names the folder, the kind and the file where it is missing


def kept_conditions(count: int, keep_all: float, drop_all: float, drop_each: float, rng: random.Random) -> list[bool]:
    """Draw which of `count` conditions a picture is trained with."""
    drawn = rng.random()
    if drawn < keep_all:
        return [True] * count
    if drawn < keep_all + drop_all:
        return [False] * count
    return [rng.random() >= drop_each for _ in range(count)]


def freeze_with_updates(adapter: ControlAdapter, rank: int) -> None:
    """Freeze the copied weights in place and put an update on each weight that factors would be put on. The layers that the copy does
    not have are trained."""
    attach(adapter.encoder, [name for name, _, _ in targeted(adapter.encoder, DEFAULT_TARGETS)], rank)
    for module in adapter.modules():
        if isinstance(module, FDN):
            module.requires_grad_(True)


def with_updates_merged(adapter: ControlAdapter) -> ControlAdapter:
    """Return a copy of `adapter` with weights that are the sum of copy and update."""
    merged = copy.deepcopy(adapter)
    add_deltas(merged.encoder, {name: materialize(*update) for name, update in detach(merged.encoder).items()})
    return merged
