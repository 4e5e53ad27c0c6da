"""Recipe `few_step`: a student that draws in a few steps what its teacher draws in many.

    python -m rapiddraw train few_step --steps 500 --out runs/orchard-4-steps.safetensors --set teacher=weights/orchard-unet.safetensors \\
        --set text=weights/orchard-text.safetensors --set graph=weights/orchard-kg.safetensors --set few=4

The student is a LoRA on the teacher (or a whole network); the losses are in `core/fewstep/`, one file a method. Prompts come from a text
file, from the captions of `data`, or from the Orchard. With `data` and `vae` the latents are those of the pictures; else the teacher draws
them. The node Distill Few Steps runs the same recipe on any MODEL.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import nn

from ...checks import real_number, whole_number
from ...errors import InputError
from ...fewstep.about import MAX_SCALE, MAX_STEPS, METHODS, SAMPLERS, About
from ...fewstep.adversarial import LEAST_LEVELS, Features, Heads, discriminator_loss, generator_loss
from ...fewstep.cfg_aware import cfg_aware_loss, draw_scale
from ...fewstep.consistency import consistency_loss, skipping_grid
from ...fewstep.guidance_embedded import draw_scales, guidance_embedded_loss
from ...fewstep.progressive import progressive_loss
from ...fewstep.segment import Segment, subdivide
from ...fewstep.trajectory import trajectory_loss
from ...host.denoiser import Denoiser
from ...lowrank.lora import MAX_RANK
from ...lowrank.roles import DEFAULT_TARGETS
from ..inputs.few_step import first_state, joined, to_device
from ..recipe import EpochOrder, Losses, Recipe, python_random
from .few_step_files import FewStepFiles

NETWORKS = ("lora", "whole")
HELD_OUT = 0.1
"""Share of the latents that is not trained on."""
MAX_HELD_OUT = 32


@dataclass
class FewStepRecipe(FewStepFiles, Recipe):
    """Settings of the recipe `few_step`. `teacher`, `text`, `graph` and `vae` are bundles, `data` an image folder with captions."""

    name: ClassVar[str] = "few_step"
    default_steps: ClassVar[int] = 500
    bundles: ClassVar[dict[str, str]] = {"teacher": "unet", "text": "text", "graph": "kg", "vae": "vae"}

    lr: float = 1e-4
    batch_size: int = 8
    warmup: int = 10
    method: str = "trajectory"  # trajectory, progressive, cfg_aware, guidance_embedded, consistency or adversarial
    few: int = 4  # steps of the student
    teacher_steps: int = 32  # steps of the teacher; for progressive the first round's, which is few times a power of 2
    scheduler: str = "sgm_uniform"  # the schedule of the student's noise levels
    guidance: float = 4.0  # the teacher's guidance scale, which the student learns; 1 is none
    guidance_low: float = 2.0  # smallest scale of cfg_aware and guidance_embedded (SnapFusion: 2)
    guidance_high: float = 14.0  # largest scale of the same (SnapFusion: 14)
    guided_share: float = 0.5  # share of cfg_aware's batches with guidance
    network: str = "lora"  # what is trained: "lora", or "whole" for a network of its own
    rank: int = 16  # of the LoRA
    targets: tuple[str, ...] = DEFAULT_TARGETS  # the groups of layers with a LoRA, as in Factorize UNet
    drawn: int = 256  # latents that the teacher draws where there are no pictures
    size: int = 128  # side of a picture in pixels
    caption_dropout: float = 0.1  # share of empty prompts where the student is used with guidance
    average: float = 0.95  # decay of the averaged student that consistency compares with (LCM: 0.95)
    reconstruction: float = 1.0  # factor of adversarial's distance to the clean latents
    teacher: str = ""  # the U-Net bundle to learn from
    text: str = ""  # its text bundle
    graph: str = ""  # optional: a knowledge graph for the text encoder
    vae: str = ""  # optional: its VAE bundle, for the pictures of data and for samples
    prompts: str = ""  # optional: a text file with a prompt a line
    fingerprint: str = ""  # of what a node gave, so that a run is resumed on the same only

    def setup(self, device: torch.device) -> None:
        self.open(device)
        self.round, self.rounds = 0, self._rounds()
        self.table = self.learner.sigmas
        count = max(1, -(-LEAST_LEVELS // self.few)) if self.method == "adversarial" else 1
        self.starts = subdivide(self.levels, self.table, count)
        self.parts = 2 if self.method == "progressive" else max(1, -(-self.teacher_steps // self.few))
        items = len(self.material.latents)
        self.held_out = min(MAX_HELD_OUT, max(1, round(HELD_OUT * items))) if items > 1 else 0
        self.order = EpochOrder(items - self.held_out, self.batch_size, self.seed)
        self.heads: Heads | None = None
        if self.method == "adversarial":
            self.features = Features(self.networks.teacher, self.learner.network)
            first = self._batch([0], [self.material.rows[0][0]])
            with torch.no_grad():
                state, level = self.material.latents[:1].to(self.learner.device), self.table[:1].to(self.learner.device)
                maps = self.features(state, level, to_device(first["text"], self.learner.device))
            self.heads = Heads([one.shape[1] for one in maps]).to(self.learner.device)

    def modules(self) -> dict[str, nn.Module]:
        heads: dict[str, nn.Module] = {} if self.heads is None else {"heads": self.heads}
        return {**self.networks.modules(), **heads}

    def ema_names(self) -> list[str]:
        return ["student"]

    def optimizers(self) -> dict[str, torch.optim.Optimizer]:
        parts = self.networks.modules()
        made = {"main": self.adamw([p for part in parts.values() for p in part.parameters() if p.requires_grad])}
        if self.heads is not None:
            made["discriminator"] = self.adamw(self.heads.parameters(), betas=(0.0, 0.999))
        return made

    def phases(self) -> list[Any]:
        if self.heads is None:
            return []
        return [(["main"], self.loss), (["discriminator"], self._discriminator_loss)]

    def lr_factor(self, step: int, steps: int) -> float:
        """See :meth:`Recipe.lr_factor`. It is the first thing of a step, and knows its place in the run: rounds and averages begin here."""
        length = max(1, steps // self.rounds)
        self.round = min(step // length, self.rounds - 1)
        if self.networks.other is not None:
            if self.method == "consistency":
                self.networks.other.follow(self.average if step else 0.0, step)
            elif self.round and step == self.round * length:
                self.networks.other.follow(0.0, step)
        if self.rounds == 1:
            return super().lr_factor(step, steps)
        return super().lr_factor(step - self.round * length, steps - self.round * length if self.round == self.rounds - 1 else length)

    def batch(self, index: int, generator: torch.Generator) -> dict[str, Any]:
        rng = python_random(generator)
        chosen = [self.held_out + i for i in self.order.indices(index)]
        dropped = self.caption_dropout if self._guided_in_use() else 0.0
        return self._batch(chosen, [0 if rng.random() < dropped else rng.choice(self.material.rows[i]) for i in chosen])

    def _batch(self, chosen: list[int], rows: list[int]) -> dict[str, Any]:
        texts, found = self.material.texts, {"items": torch.tensor(chosen), "latents": self.material.latents[chosen].float()}
        if not self.learner.batches:
            return {**found, "rows": torch.tensor(rows)}
        return {**found, "text": joined(self.learner, [texts[row] for row in rows]), "empty": joined(self.learner, [texts[0]] * len(rows))}

    def loss(self, batch: dict[str, Any]) -> Losses:
        teacher = self.networks.teacher
        if self.method == "consistency":
            upper, lower = skipping_grid(self.table)
            n = torch.randint(len(upper), (len(batch["latents"]),))
            segment = self._segment(batch, upper[n], lower[n])
            return {"loss": consistency_loss(self.networks.student, self.networks.before, teacher, segment, self.table, self.guidance)}
        if self.method == "adversarial":
            return self._generator_loss(batch)
        levels = subdivide(self.starts, self.table, 2 ** (self.rounds - 1 - self.round))
        i = torch.randint(len(levels) - 1, (len(batch["latents"]),))
        if self.method == "trajectory" and self.material.states is not None:
            states, items = self.material.states, batch["items"].cpu()
            segment = self._segment(batch, levels[i], levels[i + 1], states[items, i])
            return {"loss": trajectory_loss(self.networks.student, segment, states[items, i + 1].to(segment.x.device), self.convention)}
        segment = self._segment(batch, levels[i], levels[i + 1])
        fine = subdivide(levels, self.table, self.parts)
        inside = torch.stack([fine[n * self.parts : (n + 1) * self.parts + 1] for n in i.tolist()]).to(segment.x.device)
        given = (segment, inside, self.convention)
        if self.method == "cfg_aware":
            scale = draw_scale(self.guidance_low, self.guidance_high, self.guided_share)
            return {"loss": cfg_aware_loss(self.networks.student, teacher, *given, scale)}
        if self.method == "guidance_embedded":
            scales = draw_scales(self.guidance_low, self.guidance_high, len(i)).to(segment.x.device)
            return {"loss": guidance_embedded_loss(self.networks.told(scales), teacher, *given, scales)}
        if self.round:
            return {"loss": progressive_loss(self.networks.student, self.networks.before, *given)}
        return {"loss": progressive_loss(self.networks.student, teacher, *given, self.guidance)}

    def _segment(self, batch: dict[str, Any], start: torch.Tensor, end: torch.Tensor, states: torch.Tensor | None = None) -> Segment:
        """Return the segment of a batch. Its states are the latents with noise; at the highest level, noise alone, as sampling begins."""
        latents, device = batch["latents"], batch["latents"].device
        start, end = start.to(device), end.to(device)
        if states is None:
            noise = torch.randn_like(latents)
            x, top = self.learner.noised(latents, start, noise), start >= self.table[-1] * (1 - 1e-5)
            if bool(top.any()):
                x = torch.where(top.reshape(-1, *[1] * (x.ndim - 1)), first_state(self.convention, self.table[-1].to(device), noise), x)
        else:
            x = states.to(device)
        if self.learner.batches:
            return Segment(x, start, end, batch["text"], batch["empty"])
        texts = self.material.texts
        rows = batch["rows"].tolist()
        return Segment(x, start, end, [texts[row] for row in rows], [texts[0]] * len(rows))

    def _generator_loss(self, batch: dict[str, Any]) -> Losses:
        i = torch.randint(len(self.starts) - 1, (len(batch["latents"]),))
        segment = self._segment(batch, self.starts[i], self.starts[i + 1].clamp(min=float(self.table[0])))
        made = self.networks.student(segment.x, segment.start, segment.text)
        batch["segment"], batch["made"] = segment, made.detach()
        weight = 1 / (1 + self.convention.level(segment.start).clamp(max=1e6).square())  # the share of the picture in the state
        return generator_loss(self._scores(segment), batch["latents"], made, self._renoised(segment), self.reconstruction, weight)

    def _discriminator_loss(self, batch: dict[str, Any]) -> Losses:
        segment = batch["segment"]
        loss = discriminator_loss(self._scores(segment), batch["latents"], batch["made"], self._renoised(segment))
        return {"loss": loss, "discriminator": loss}

    def _scores(self, segment: Segment) -> Any:
        heads = self.heads
        if heads is None:
            raise InputError("only the adversarial method has a discriminator")
        return lambda x: heads(self.features(x, segment.end, segment.text))

    def _renoised(self, segment: Segment) -> Any:
        return lambda x0: self.learner.noised(x0, segment.end, torch.randn_like(x0))

    def _guided_in_use(self) -> bool:
        """Whether the student will be used with guidance, so that it must know the empty prompt too."""
        return not self.about().guidance_free

    def _rounds(self) -> int:
        """Return how often progressive distillation halves the number of steps; 1 for the other methods."""
        if self.method != "progressive":
            return 1
        return (self.teacher_steps // self.few).bit_length() - 1

    def about(self) -> About:
        """Return the student's description, for its file."""
        ranged = self.method in ("cfg_aware", "guidance_embedded")
        plain = not ranged and self.guidance == 1  # learned without guidance, and used with any
        low = self.guidance_low if ranged else self.guidance
        high = self.guidance_high if ranged or plain else self.guidance
        learner: Denoiser | None = getattr(self, "learner", None)
        return About(
            self.method, self.few, self._sampler(), self.scheduler, self.guidance, low, high, self.guidance,
            learner.prediction if learner else "", self.material.latents.shape[1] if learner else 1,
        )  # fmt: skip

    def _sampler(self) -> str:
        return SAMPLERS.get(self.method, "euler") if self.few > 1 or self.method == "consistency" else "euler"

    def drawing_key(self) -> str:
        """Return a hash of all settings that change what the teacher draws, and of what a node gave."""
        told = (self.fingerprint, self.few, self.teacher_steps, self.scheduler, self.guidance, self.drawn, self.seed)
        return hashlib.sha256(repr(told).encode()).hexdigest()[:16]

    def check(self) -> None:
        super().check()
        if self.method not in METHODS or self.network not in NETWORKS:
            raise InputError(
                f"method={self.method!r}, network={self.network!r}: expected {', '.join(METHODS)}, and {' or '.join(NETWORKS)}"
            )
        whole_number("few", self.few, 1, MAX_STEPS)
        whole_number("teacher_steps", self.teacher_steps, self.few, 1000)
        whole_number("rank", self.rank, 1, MAX_RANK)
        whole_number("drawn", self.drawn, 2, 2**16)
        for key in ("guidance", "guidance_low", "guidance_high"):
            real_number(key, getattr(self, key), 0, MAX_SCALE)
        real_number("reconstruction", self.reconstruction, 0, 1e6)
        if self.guidance_low > self.guidance_high:
            raise InputError(f"guidance_low={self.guidance_low:g} is above guidance_high={self.guidance_high:g}")
        if self.method == "guidance_embedded" and not self.guidance_low <= self.guidance <= self.guidance_high:
            raise InputError(
                f"guidance={self.guidance:g}: a student of guidance_embedded learns the scales from {self.guidance_low:g} to "
                f"{self.guidance_high:g}; choose one of them to be used where no other is given"
            )
        self.check_shares("guided_share", "caption_dropout", "average")
        ratio = self.teacher_steps // self.few
        if self.method == "progressive" and (ratio * self.few != self.teacher_steps or ratio & (ratio - 1) or ratio < 2):
            raise InputError(
                f"teacher_steps={self.teacher_steps}: progressive halves the steps in every round, so it must be few times a power of 2, "
                f"such as {2 * self.few} or {4 * self.few}"
            )
        if self.method == "adversarial" and self.network != "lora":
            raise InputError(
                "network=whole: the adversarial method needs network=lora, because its discriminator reads the teacher inside it"
            )
        if self.fingerprint:
            return
        if not self.teacher or not self.text:
            raise InputError(
                "name the bundles to learn from: teacher=weights/orchard-unet.safetensors text=weights/orchard-text.safetensors"
            )
