"""Distillation of a MODEL of either host, on an image folder, with the CLIP and the VAE of its graph (ELR-Diffusion, section 2.2)."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import nn

from ..checks import whole_number
from ..errors import InputError
from ..host import current
from ..host.denoiser import Denoiser, together
from ..lowrank.distill import Distiller, feature_layers
from ..lowrank.savings import Report, network_size
from ..networks import weight_sum
from ..train.checkpoint import check_resumable, checkpoints
from ..train.inputs.latent_cache import picture_key
from ..train.loop import Intervals, TrainResult, train
from ..train.plot import loss_image
from ..train.recipe import EpochOrder, Losses, Recipe, python_random
from ..train.recipes.distill import Distillation
from ..train.writing import check_writable
from .distill_data import Encoded, encode_folder, training_folder
from .factorize import unet_path

MAX_STEPS, MAX_BATCH = 1_000_000, 1024
FINGERPRINT = "fingerprint"
FOUND = frozenset({FINGERPRINT, "precision"})
"""Settings that are known only when a run is about to begin."""
BYTES_A_WEIGHT = 16  # itself, its gradient and Adam's two moments, each in float32


@dataclass
class ModelDistillation(Distillation):
    """The recipe behind :func:`distill_model`, which fills in `teacher`, `student` and `encoded` before it is run."""

    name: ClassVar[str] = "distill_model"
    volatile: ClassVar[frozenset[str]] = frozenset({"prefetch"})

    lr: float = 1e-5  # for a model of the size of SD 1.5 (section 3.3 prints 10^5, which can only mean 10^-5); small models bear more
    batch_size: int = 4
    warmup: int = 10
    size: int = 512
    fingerprint: str = ""  # of the teacher and the pictures, so that a run is resumed on the same ones only

    def given(self, student: Any, teacher: Denoiser, encoded: Encoded) -> None:
        """Take the student (a MODEL that nobody else holds), the teacher and the data."""
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
        rng = python_random(generator)
        chosen = self.order.indices(index)
        rows = [0 if rng.random() < self.caption_dropout else rng.choice(self.encoded.captions[i] or [0]) for i in chosen]
        if not self.teacher.batches:
            return {"latents": self.encoded.latents[chosen], "rows": torch.tensor(rows)}
        return {"latents": self.encoded.latents[chosen], **together([self.encoded.texts[row] for row in rows])}

    def loss(self, batch: dict[str, torch.Tensor]) -> Losses:
        latents = batch["latents"]
        first, beyond = self.teacher.t_range
        t = torch.randint(first, beyond, (len(latents),))
        sigma = self.teacher.sigmas[t].to(latents.device)
        x = self.teacher.noised(latents, sigma, torch.randn_like(latents))
        given: Any = {key: value for key, value in batch.items() if key != "latents"}
        if not self.teacher.batches:
            given = [self.encoded.texts[row] for row in batch["rows"].tolist()]
        return self.distiller.loss(x, sigma, given, latents)

    def finish(self, out: Path, provenance: dict[str, Any]) -> list[Path]:
        self.learner.release()
        with torch.inference_mode():  # a host's own copies and moves expect it
            return [current().model.save(self.student, out, provenance)]

    def check(self) -> None:
        super().check()
        if self.batch_size > MAX_BATCH:
            raise InputError(f"batch_size={self.batch_size}: at most {MAX_BATCH}")


@dataclass(frozen=True)
class Run:
    """How long to train (`steps`, 1 to 1,000,000), how many steps lie between two checkpoints, and whether to go on from the last one.

    `log_every` and `eval_every` (0: never) are steps between two lines of the log and two evaluations; None leaves them to the training.
    `folder` holds checkpoints, log and plot; None is a folder beside the result.
    """

    steps: int
    save_every: int = 500
    resume: bool = True
    log_every: int | None = None
    eval_every: int | None = None
    folder: Path | None = None

    @property
    def every(self) -> Intervals:
        """The intervals of the training loop: by default the loss is logged 50 times in a run, and nothing is evaluated."""
        return self.intervals(0)

    def intervals(self, evaluations: int) -> Intervals:
        """Return the intervals of the training loop, with so many evaluations in a run where `eval_every` is None."""
        log = max(1, self.steps // 50) if self.log_every is None else self.log_every
        own = max(1, self.steps // evaluations) if evaluations else 0
        return Intervals(self.save_every, log, own if self.eval_every is None else self.eval_every)

    def dir(self, beside: Path) -> Path:
        """Return the folder of checkpoints, log and plot; `beside` is the one that a training has by itself."""
        return beside if self.folder is None else self.folder

    def begun(self, folder: Path) -> bool:
        """Return whether this run goes on from a checkpoint in `folder`."""
        return self.resume and bool(checkpoints(folder))

    def check_goes_on(self, folder: Path, recipe: Recipe, known: bool = True) -> None:
        """Raise :class:`TrainingError`, before any work, where this run would go on from a checkpoint of other settings in `folder`.

        `known`: whether `recipe.fingerprint` is that of what the training was given; else the fingerprint is not compared."""
        if self.resume:
            check_resumable(folder, recipe, self.steps, FOUND - {FINGERPRINT} if known else FOUND)

    def check(self) -> None:
        """Raise :class:`InputError` for numbers out of range."""
        whole_number("steps", self.steps, 1, MAX_STEPS)
        self.every.check()


def distill_model(
    model: Any, clip: Any, vae: Any, folder: str, filename: str, recipe: ModelDistillation, run: Run
) -> tuple[Any, str, torch.Tensor]:
    """Return (the student as a MODEL, a report, the loss as an IMAGE). `model` is not changed; patches on it are taught as well.

    `folder` lies in the input or output folder (see :func:`~.distill_data.training_folder`). The student is written as the bundle
    `filename` where nodes write bundles. Checkpoints lie in a folder beside it, and a stopped run goes on from the last one where all
    settings are equal. Raises :class:`InputError`, before any work, for settings out of range and for places that cannot be written,
    and whatever factoring and training raise.
    """
    run.check()
    recipe.check()
    out = unet_path(filename)
    run_dir = run.dir(out.with_name(f"{out.stem}-run"))
    check_writable(out, run_dir)
    run.check_goes_on(run_dir, recipe, known=False)
    host, images = current(), training_folder(folder, recipe.size)
    if run.begun(run_dir):
        recipe.fingerprint = fingerprint(host.speed.network_of("model", host.surgery.rebuild(model, lambda _: None)), images)
        run.check_goes_on(run_dir, recipe)
    if recipe.features:
        feature_layers(host.speed.network_of("model", model))
    host.training.check(model, host.clip.encode(clip, ""), recipe.size)
    size = network_size(host.speed.network_of("model", model))

    def factor(network: nn.Module) -> None:
        recipe.fingerprint = fingerprint(network, images)  # of the teacher, with its patches
        recipe.factor(network)

    student = host.surgery.rebuild(model, factor)
    small = network_size(host.speed.network_of("model", student))
    found: list[Denoiser] = []

    def load_teacher() -> Denoiser:
        found.append(host.training.denoiser(model, room=BYTES_A_WEIGHT * small[0]))
        return found[0]

    encoded = encode_folder(host, load_teacher, clip, vae, images, recipe.batch_size)
    recipe.given(student, found[0], encoded)
    if found[0].device.type == "cuda":
        recipe.precision = "bf16"
    with gradients_explained():
        result = train(recipe, out, run.steps, run_dir=run_dir, resume=run.resume, every=run.every, device=found[0].device)
    report = Report(tuple(recipe.plan), (size[0], small[0]), (size[1], small[1]))
    plot = loss_image(result.losses, f"distillation: loss over {result.steps} steps")
    return student, distillation_report(report.table(layers=False), result, len(images), out), plot


@contextmanager
def gradients_explained() -> Iterator[None]:
    """Raise :class:`InputError` for a kernel without gradients, which some networks use in newer versions of ComfyUI."""
    try:
        yield
    except RuntimeError as error:
        if "no autograd formula" not in str(error):
            raise
        raise InputError("this ComfyUI computes the model with a kernel that has no gradients, so that it cannot be trained") from error


def fingerprint(network: nn.Module, images: Any) -> str:
    """Return a hash of a network's weights (to five digits: with other threads the last ones differ) and of the pictures and their
    captions."""
    listed = "".join(f"{picture_key(item.path, '').hex()}:{[caption.text for caption in item.captions]};" for item in images.items)
    return hashlib.sha256(f"{weight_sum(network.parameters()):.5g};{listed}".encode()).hexdigest()[:16]


def distillation_report(sizes: str, result: TrainResult, pictures: int, out: Path) -> str:
    """Return the text of a finished training: `sizes`, steps, losses, and where the student is."""
    lines = [sizes, "", f"{result.steps} steps on {pictures} pictures"]
    lines += result.tenths()
    lines += [f"{key} {value:.4g}" for key, value in result.metrics.items() if key in ("noise", "features", "task")]
    (saved,) = result.files
    where = (
        f"saved as {out.name}, for Load Low-Rank UNet" if saved == out else f"{out.name} could not be written; the student is in {saved}"
    )
    return "\n".join([*lines, where])
