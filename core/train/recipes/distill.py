"""Recipe `distill`: a smaller and faster U-Net that predicts what its teacher predicts.

    python -m rapiddraw train distill --data DIR --out weights/my-small-unet.safetensors --set teacher=weights/orchard-unet.safetensors \\
        --set vae=weights/orchard-vae.safetensors --set text=weights/orchard-text.safetensors

The student's weights are the teacher's, factored by SVD into pairs of smaller matrices, then trained on the teacher's output; the loss is
in `core/lowrank/distill.py`. Data, latents and texts are those of the recipe `unet`; the text encoder stays as it is.

Paper: ELR-Diffusion, stage I (section 2.2: SVD in 2.2.1, the loss in eq. 3).
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import nn

from ...bundles.format import BundleInfo, Schedule, halved, read_info, save_bundle
from ...diffusion.flow import noise_schedule
from ...errors import InputError
from ...lowrank.distill import Distiller, Terms
from ...lowrank.factorize import factorize
from ...lowrank.roles import DEFAULT_TARGETS
from ...slim.changes import changes_of
from ..recipe import Losses, Recipe, check_bundle, located
from .unet import UnetRecipe

INITS = ("svd", "random")


@dataclass
class Distillation(Recipe):
    """Settings that every distillation has. A subclass says what is distilled, and on which data."""

    lr: float = 5e-4
    mode: str = "param_ratio"  # how ranks are chosen: param_ratio, energy or rank
    value: float = 0.61  # the ratio, the energy or the rank; 0.61 is 790M of 1290M parameters (ELR-Diffusion, Table 1)
    targets: tuple[str, ...] = DEFAULT_TARGETS  # the groups of layers to factorise, as in Factorize UNet
    split: str = "symmetric"  # singular values go into both factors, which trains better; "paper": into the first (section 2.2.1)
    noise: float = 1.0  # factor of the error against the teacher's output
    features: float = 0.0  # factor of the error against the teacher's feature maps
    task: float = 0.0  # factor of the plain diffusion loss
    weighting: str = "none"  # of noise levels: "none" or "min_snr"
    caption_dropout: float = 0.1  # share of captions replaced by the empty prompt

    @property
    def terms(self) -> Terms:
        """Return the factors of the loss."""
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
    """Settings of the recipe `distill`. `data` is an image folder with captions; `teacher`, `vae`, `text` and `graph` are bundles."""

    name: ClassVar[str] = "distill"

    precision: str = "bf16"
    teacher: str = ""  # the U-Net bundle to distil
    init: str = "svd"  # "svd" of the teacher's weights, or "random": factors of random weights, for a comparison
    vae: str = ""  # the VAE bundle of the teacher
    text: str = ""  # the text bundle of the teacher
    graph: str = ""  # optional: without it no knowledge is injected
    size: int = 128  # side of a picture in pixels
    timesteps: str = "uniform"  # or "logit_normal": see the recipe `unet`
    knowledge_dropout: float = 0.2  # share of captions read without the graph

    def setup(self, device: torch.device) -> None:
        from diffusers import UNet2DConditionModel

        self.source = self._source()
        self.source.setup(device)
        schedule = read_info(self.teacher).schedule
        if schedule is not None:  # with the teacher's own betas
            self.source.schedule_info, self.source.noise_levels = schedule, noise_schedule(schedule)
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
        source, slim = self.source, changes_of(self.unet).stored()
        info = BundleInfo("unet", source.config, source.latent_space, source.schedule_info, provenance=provenance, extra=slim)
        return [save_bundle(out, halved(self.unet.state_dict()), info)]

    def check(self) -> None:
        super().check()
        if not self.teacher:
            raise InputError("teacher is empty: name the U-Net bundle to learn from, such as weights/orchard-unet.safetensors")
        if self.init not in INITS:
            raise InputError(f"init={self.init!r}: expected {' or '.join(INITS)}")
        self.teacher = located("teacher", self.teacher, "unet")
        check_bundle("teacher", self.teacher, "unet")
        self._source().check()

    def check_files(self) -> None:
        source = self._source()
        source.check_files()
        self.vae, self.text, self.graph = source.vae, source.text, source.graph

    def _source(self) -> UnetRecipe:
        """Return the recipe that gives the batches and the noise: the teacher's own, with its text encoder frozen."""
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
