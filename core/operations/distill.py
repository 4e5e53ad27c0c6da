"""Distillation of a MODEL of either host, on an image folder, with the CLIP and the VAE of its graph (ELR-Diffusion, stage 1)."""

from __future__ import annotations

import hashlib
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import nn

from ..checks import whole_number
from ..errors import InputError
from ..host import current
from ..host.denoiser import Denoiser
from ..lowrank.distill import Distiller
from ..lowrank.savings import Report, network_size
from ..train.loop import Intervals, TrainResult, train
from ..train.plot import draw_losses
from ..train.recipe import EpochOrder, Losses
from ..train.recipes.distill import Distillation
from .distill_data import Encoded, encode_folder, together, training_folder
from .factorize import unet_path

MAX_STEPS, MAX_BATCH = 1_000_000, 1024
BYTES_A_WEIGHT = 16  # itself, its gradient and Adam's two moments, each in float32


@dataclass
class ModelDistillation(Distillation):
    """The recipe behind :func:`distill_model`, which fills in `teacher`, `student` and `encoded` before it is run."""

    name: ClassVar[str] = "distill_model"
    volatile: ClassVar[frozenset[str]] = frozenset({"prefetch"})

    batch_size: int = 4
    warmup: int = 10
    size: int = 512
    fingerprint: str = ""  # of the teacher and the pictures, so that a run is only ever resumed on the same

    def given(self, student: Any, teacher: Denoiser, encoded: Encoded) -> None:
        """What this is about: the student as a MODEL that nobody else has, the teacher, and the data."""
        self.student: Any = student
        self.teacher: Denoiser = teacher
        self.encoded: Encoded = encoded

    def setup(self, device: torch.device) -> None:
        self.learner: Denoiser = current().training.denoiser(self.student, train=True)
        self.order = EpochOrder(len(self.encoded.latents), self.batch_size, self.seed)
        networks = (self.teacher.network, self.learner.network)
        self.distiller = Distiller(self.teacher.denoise, self.learner.denoise, networks, self.teacher.prediction, self.terms)

    def modules(self) -> dict[str, nn.Module]:
        # By name and as they are: a host's own network may put other tensors in their place when it loads a state dict.
        weights = {name.replace(".", "/"): weight for name, weight in self.learner.network.named_parameters()}
        return {"unet": nn.ParameterDict(weights)}

    def batch(self, index: int, generator: torch.Generator) -> dict[str, torch.Tensor]:
        rng = random.Random(int(torch.randint(2**62, (1,), generator=generator)))
        chosen = self.order.indices(index)
        rows = [0 if rng.random() < self.caption_dropout else rng.choice(self.encoded.captions[i] or [0]) for i in chosen]
        return {"latents": self.encoded.latents[chosen], **together([self.encoded.texts[row] for row in rows])}

    def loss(self, batch: dict[str, torch.Tensor]) -> Losses:
        latents = batch["latents"]
        first, beyond = self.teacher.t_range
        t = torch.randint(first, beyond, (len(latents),))
        sigma = self.teacher.sigmas[t].to(latents.device)
        x = latents + sigma.reshape(-1, 1, 1, 1) * torch.randn_like(latents)
        return self.distiller.loss(x, sigma, {key: value for key, value in batch.items() if key != "latents"}, latents)

    def finish(self, out: Path, provenance: dict[str, Any]) -> list[Path]:
        self.learner.release()
        with torch.inference_mode():  # a host's own copies and moves expect it
            return [current().model.save(self.student, out, provenance)]

    def check(self) -> None:
        super().check()
        if self.batch_size > MAX_BATCH:
            raise InputError(f"batch_size={self.batch_size}: at most {MAX_BATCH}")


def distill_model(
    model: Any,
    clip: Any,
    vae: Any,
    folder: str,
    filename: str,
    steps: int,
    recipe: ModelDistillation,
    save_every: int = 500,
    resume: bool = True,
) -> tuple[Any, str, torch.Tensor]:
    """(the student as a MODEL, what was done, the loss as an IMAGE). `model` is as before; patches on it belong to what is taught.

    `folder` lies inside the input folder (see :func:`~.model_data.training_folder`). The student is written as the bundle `filename` where
    nodes write bundles; checkpoints lie beside it, and a run that was stopped goes on from the last one when all settings are the same.
    Raises :class:`InputError` for settings and names that cannot be, and whatever factoring and training raise.
    """
    whole_number("steps", steps, 1, MAX_STEPS)
    recipe.check()
    out = unet_path(filename)
    host, images = current(), training_folder(folder, recipe.size)
    size = network_size(host.speed.network_of("model", model))
    student = host.surgery.rebuild(model, recipe.factor)
    small = network_size(host.speed.network_of("model", student))
    recipe.fingerprint = _fingerprint(host.speed.network_of("model", student), images)
    found: list[Denoiser] = []

    def load_teacher() -> Denoiser:
        found.append(host.training.denoiser(model, room=BYTES_A_WEIGHT * small[0]))
        return found[0]

    encoded = encode_folder(host, load_teacher, clip, vae, images, recipe.batch_size)
    recipe.given(student, found[0], encoded)
    if found[0].device.type == "cuda":
        recipe.precision = "bf16"
    run_dir = out.with_name(f"{out.stem}-run")
    result = train(
        recipe, out, steps, run_dir=run_dir, resume=resume, every=Intervals(save_every, max(1, steps // 50)), device=found[0].device
    )  # fmt: skip
    report = Report(tuple(recipe.plan), (size[0], small[0]), (size[1], small[1]))
    return student, _report(report, result, len(images), out.name), _as_image(result)


def _fingerprint(network: nn.Module, images: Any) -> str:
    """Of the student's first weights and of the pictures' names and sizes. To five digits: sums differ in the last ones by thread."""
    weights = sum(float(weight.detach().double().abs().sum()) for weight in network.parameters())
    listed = "".join(f"{item.path.name}:{item.path.stat().st_size};{len(item.captions)}" for item in images.items)
    return hashlib.sha256(f"{weights:.5g};{listed}".encode()).hexdigest()[:16]


def _report(report: Report, result: TrainResult, pictures: int, name: str) -> str:
    lines = [report.table(layers=False), "", f"{result.steps} steps on {pictures} pictures"]
    if result.losses:
        share = max(1, len(result.losses) // 10)
        first, last = (sum(loss for _, loss in part) / len(part) for part in (result.losses[:share], result.losses[-share:]))
        lines.append(f"loss {first:.4g} in the first tenth, {last:.4g} in the last")
    lines += [f"{key} {value:.4g}" for key, value in result.metrics.items() if key in ("noise", "features", "task")]
    return "\n".join([*lines, f"saved as {name}, for Load Low-Rank UNet"])


def _as_image(result: TrainResult) -> torch.Tensor:
    import numpy as np

    drawn = draw_losses(result.losses, f"distillation: loss over {result.steps} steps")
    return torch.from_numpy(np.asarray(drawn, dtype=np.float32) / 255.0)[None]
