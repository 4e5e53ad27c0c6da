"""A low-rank student from a U-Net bundle (ELR-Diffusion, stage 1): factored by SVD, then trained to put out what its teacher does.

The loss is in `core/lowrank/distill.py`. Data, latents and texts are those of the `unet` recipe; the text encoder stays as it is.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import nn

from ...bundles.format import BundleInfo, Schedule, read_info, save_bundle
from ...diffusion.schedule import NoiseSchedule
from ...errors import InputError
from ...lowrank.distill import Distiller, Terms
from ...lowrank.factorize import factorize
from ...lowrank.plan import TARGETS
from ..recipe import Losses, Recipe
from .unet import UnetRecipe

INITS = ("svd", "random")


@dataclass
class Distillation(Recipe):
    """The settings that every distillation has; what is distilled, and on what, is a subclass's to say."""

    lr: float = 5e-4
    mode: str = "param_ratio"  # how ranks are chosen: param_ratio, energy or rank
    value: float = 0.61  # the ratio (the paper's), the energy or the rank
    targets: tuple[str, ...] = tuple(TARGETS)
    split: str = "symmetric"  # where the singular values go: "symmetric" trains better, "paper" is the paper's
    noise: float = 1.0  # factor of the error to the teacher's output
    features: float = 0.0  # factor of the error to the teacher's feature maps
    task: float = 0.0  # factor of the plain diffusion loss
    weighting: str = "none"  # over noise levels: "none" or "min_snr"
    caption_dropout: float = 0.1

    @property
    def terms(self) -> Terms:
        """The factors of the loss."""
        return Terms(self.noise, self.features, self.task, self.weighting)

    def factor(self, network: nn.Module) -> None:
        """Factor `network` in place, by these settings."""
        self.plan = factorize(network, self.mode, self.value, self.targets, self.split)

    def check(self) -> None:
        super().check()
        self.terms.check()
        self.check_shares("caption_dropout")


@dataclass
class DistillRecipe(Distillation):
    """`data` is an image folder with captions; `teacher`, `vae`, `text` and `graph` are bundles."""

    name: ClassVar[str] = "distill"

    precision: str = "bf16"
    teacher: str = ""
    init: str = "svd"  # "random" starts from factors of random weights: what a student is without its teacher's
    vae: str = ""
    text: str = ""
    graph: str = ""  # optional: without it no knowledge is injected
    size: int = 128  # side of a picture in pixels
    timesteps: str = "uniform"  # or "logit_normal", see the recipe `unet`
    knowledge_dropout: float = 0.2

    def setup(self, device: torch.device) -> None:
        from diffusers import UNet2DConditionModel

        self.source = self._source()
        self.source.setup(device)
        schedule = read_info(self.teacher).schedule
        if schedule is not None:  # with the teacher's own betas
            self.source.schedule_info, self.source.noise_levels = schedule, NoiseSchedule(schedule)
        for encoder in self.source.readers.encoders:
            encoder.eval()
        teacher = self.source.unet.eval().requires_grad_(False)
        self.unet: Any = copy.deepcopy(teacher) if self.init == "svd" else UNet2DConditionModel(**self.source.config).to(device)
        self.factor(self.unet)
        self.unet.requires_grad_(True)
        sizes = [sum(p.numel() for p in network.parameters()) for network in (teacher, self.unet)]
        self.parameters = {"teacher": sizes[0], "student": sizes[1]}
        both = (self._denoise(teacher), self._denoise(self.unet))
        self.distiller = Distiller(*both, (teacher, self.unet), self.source.prediction, self.terms)

    def modules(self) -> dict[str, nn.Module]:
        return {"unet": self.unet}

    def batch(self, index: int, generator: torch.Generator) -> dict[str, torch.Tensor]:
        return self.source.batch(index, generator)

    def loss(self, batch: dict[str, torch.Tensor]) -> Losses:
        asked = self.source.noised(batch)
        return self.distiller.loss(asked.noisy, asked.sigma, (asked.t, asked.tokens), asked.latents)

    def finish(self, out: Path, provenance: dict[str, Any]) -> list[Path]:
        provenance["teacher"] = self.source.first_stage
        provenance["parameters"] = self.parameters
        info = BundleInfo("unet", self.source.config, self.source.latent_space, self.source.schedule_info, provenance=provenance)
        return [save_bundle(out, {key: tensor.half() for key, tensor in self.unet.state_dict().items()}, info)]

    def check(self) -> None:
        super().check()
        if not self.teacher:
            raise InputError("teacher is empty: name the U-Net bundle to learn from, such as weights/orchard-unet.safetensors")
        if self.init not in INITS:
            raise InputError(f"init={self.init!r}: expected {' or '.join(INITS)}")
        self._source().check()

    def check_files(self) -> None:
        self._source().check_files()

    def _source(self) -> UnetRecipe:
        """The recipe that gives the batches and the noise: the teacher's own, its text encoder frozen."""
        schedule = read_info(self.teacher, "unet").schedule or Schedule()
        return UnetRecipe(
            data=self.data, seed=self.seed, batch_size=self.batch_size, text_lr=0.0, vae=self.vae, text=self.text, graph=self.graph,
            base=self.teacher, size=self.size, prediction=schedule.prediction, t_min=schedule.t_min, t_max=schedule.t_max,
            timesteps=self.timesteps, caption_dropout=self.caption_dropout, knowledge_dropout=self.knowledge_dropout,
        )  # fmt: skip

    def _denoise(self, network: Any) -> Any:
        levels = self.source.noise_levels

        def denoise(x: torch.Tensor, sigma: torch.Tensor, asked: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
            t, tokens = asked
            output = network(levels.calculate_input(sigma, x), t, encoder_hidden_states=tokens, return_dict=False)[0]
            return levels.calculate_denoised(sigma, output.float(), x)

        return denoise
