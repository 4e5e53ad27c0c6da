"""Slimming of a MODEL's U-Net to a latency budget, of either host (SnapFusion, Algorithm 1; MobileDiffusion's changes).

In this order: changes by name, training with blocks left out at random, removal and copies of blocks, distillation. Both trainings are
those of :mod:`.distill`, and a run that was stopped in either goes on there.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import nn

from ..checks import real_number, whole_number
from ..errors import BundleError, InputError, TrainingError
from ..files import replacing
from ..host import current
from ..host.denoiser import Denoiser
from ..lowrank.distill import feature_layers
from ..lowrank.latency import layer_inputs, multiply_adds
from ..lowrank.savings import network_size
from ..slim.blocks import blocks_of
from ..slim.changes import KEY, Changes, apply_changes, changes_of, read_changes
from ..slim.evolve import Evolved, Goal, check_goal, evolve, removable
from ..slim.presets import snapfusion_changes
from ..slim.rating import WHOLE
from ..slim.stand_ins import without
from ..slim.switches import SWITCHES, switched
from ..train.loop import train
from ..train.plot import loss_image
from ..train.recipe import Losses
from ..train.writing import check_writable
from .distill import BYTES_A_WEIGHT, ModelDistillation, Run, distillation_report, fingerprint, gradients_explained
from .distill_data import encode_folder, training_folder
from .factorize import unet_path
from .slim import block_latencies, predictions

PRESETS, MEASURES = ("none", "snapfusion", "mobile"), ("time", "multiply-adds")
ROBUST, DECIDED = "robust", "architecture.json"
"""In the folder of a run: the run in which blocks are left out at random, and what was decided after it."""
_PROMPTS = 4
"""How many captions blocks are rated with."""


@dataclass(frozen=True)
class Slim:
    """What is done to a network before it is distilled.

    `preset`: `snapfusion` (the final table for SD 1.5), `mobile` (all eight changes of MobileDiffusion) or `none`; `switches`: names of
    :data:`~..slim.switches.SWITCHES`. Then `latency`, the share of the model's time that is left (1: no block is removed), measured as
    `measure` says; `copies`, the most blocks that are copied; `robust_steps` of training with each block left out with probability `skip`.
    """

    preset: str = "none"
    latency: float = 0.6
    measure: str = "time"
    copies: int = 1
    robust_steps: int = 200
    skip: float = 0.1
    switches: Sequence[str] = ()

    def check(self) -> None:
        """Raise :class:`InputError` for values out of range."""
        for name, value, known in (("preset", self.preset, PRESETS), ("measure", self.measure, MEASURES)):
            if value not in known:
                raise InputError(f"{name}={value!r}: expected {', '.join(known)}")
        if set(self.switches) - set(SWITCHES):
            raise InputError(f"switches={', '.join(self.switches)}: expected some of {', '.join(SWITCHES)}")
        real_number("latency", self.latency, 0.01, 1.0)
        real_number("skip", self.skip, 0.0, 0.9)
        whole_number("copies", self.copies, 0, 16)
        whole_number("robust_steps", self.robust_steps, 0, 1_000_000)

    def first_changes(self, network: Any) -> Changes:
        """Return the changes of the preset and the switches. Raises :class:`InputError` where they do not fit `network`."""
        if self.preset == "snapfusion":
            if self.switches:
                raise InputError("the preset snapfusion is a whole architecture: switch all changes off, or set the preset to none")
            return snapfusion_changes(network)
        return switched(network, list(SWITCHES) if self.preset == "mobile" else list(self.switches))


@dataclass
class SlimDistillation(ModelDistillation):
    """The recipe behind :func:`slim_model`: a distillation in which blocks may be left out at random, so that what is left learns to do
    without any of them (the paper's robust training)."""

    name: ClassVar[str] = "slim_model"

    skip: float = 0.0  # probability that a block is left out of a step

    def factor(self, network: nn.Module) -> None:
        self.plan = []

    def loss(self, batch: dict[str, torch.Tensor]) -> Losses:
        if not self.skip:
            return super().loss(batch)
        network = self.learner.network
        blocks = removable(network)
        with without(network, [block for block, out in zip(blocks, torch.rand(len(blocks)) < self.skip, strict=True) if out]):
            return super().loss(batch)


def slim_model(
    model: Any, clip: Any, vae: Any, folder: str, filename: str, slim: Slim, recipe: SlimDistillation, run: Run
) -> tuple[Any, str, torch.Tensor]:
    """Return (the slimmed student as a MODEL, a report, the loss of its distillation as an IMAGE). `model` is not changed.

    Everything but `slim` is as in :func:`~.distill.distill_model`. Raises :class:`InputError`, before any work, for settings out of range,
    for a model that is no U-Net and for a budget that cannot be met: the message says what could be."""
    slim.check()
    run.check()
    recipe.check()
    out = unet_path(filename)
    run_dir = run.dir(out.with_name(f"{out.stem}-run"))
    check_writable(out, run_dir)
    run.check_goes_on(run_dir, recipe, known=False)
    host, images = current(), training_folder(folder, recipe.size)
    network = host.speed.network_of("model", model)
    first = slim.first_changes(network)
    if recipe.features:
        feature_layers(network)
    empty = host.clip.encode(clip, "")
    host.training.check(model, empty, recipe.size)
    student = host.surgery.rebuild(model, lambda copy: apply_changes(copy, first))
    recipe.fingerprint = fingerprint(host.speed.network_of("model", student), images)
    whole = _costs(host, model, slim.measure, recipe.size)[WHOLE]
    costs, goal = _costs(host, student, slim.measure, recipe.size), Goal(slim.latency * whole, copies=slim.copies)
    check_goal(host.speed.network_of("model", student), costs, goal, whole)
    size, evolving = network_size(network), slim.latency < 1 and costs[WHOLE] > goal.budget
    if not evolving:
        recipe.fingerprint = _finished(recipe.fingerprint, host.speed.network_of("model", student))
        run.check_goes_on(run_dir, recipe)
    elif slim.robust_steps:
        replace(run, steps=slim.robust_steps).check_goes_on(run_dir / ROBUST, _robust(recipe, slim))
    elif run.begun(run_dir):
        _check_decided(run_dir / DECIDED, recipe.fingerprint)
    found: list[Denoiser] = []

    def load_teacher() -> Denoiser:
        found.append(host.training.denoiser(model, room=BYTES_A_WEIGHT * size[0]))
        return found[0]

    encoded = encode_folder(host, load_teacher, clip, vae, images, recipe.batch_size)
    recipe.precision = "bf16" if found[0].device.type == "cuda" else recipe.precision
    evolved = Evolved(costs[WHOLE], ())
    if evolving:
        if slim.robust_steps:
            robust, length = _robust(recipe, slim), replace(run, steps=slim.robust_steps)
            robust.given(student, found[0], encoded)
            place = run_dir / ROBUST
            train(robust, place / "robust.safetensors", length.steps, run_dir=place, resume=run.resume, every=length.every,
                  device=found[0].device)  # fmt: skip
        texts = [caption.text for item in images.items for caption in item.captions][:_PROMPTS] or [""]
        asked = [host.clip.encode(clip, text) for text in texts]
        student, evolved = _evolve(host, student, (costs, goal, asked), recipe, run_dir, run.resume)
        recipe.fingerprint = _finished(recipe.fingerprint, host.speed.network_of("model", student))
    small = host.speed.network_of("model", student)
    recipe.given(student, found[0], encoded)
    with gradients_explained():
        result = train(recipe, out, run.steps, run_dir=run_dir, resume=run.resume, every=run.every, device=found[0].device)
    sizes = network_size(small)
    said = f"{sizes[0]:,} of {size[0]:,} parameters ({sizes[0] / size[0]:.3f}), {sizes[1] / 2**20:.1f} of {size[1] / 2**20:.1f} MB"
    report = distillation_report(said, result, len(images), out)
    lines = [changes_of(small).summary(), f"{evolved.cost / whole:.2f} of the model's {slim.measure} by the table of blocks"]
    return student, "\n".join([*lines, *evolved.actions, report]), loss_image(result.losses, f"slim: loss over {result.steps} steps")


def _robust(recipe: SlimDistillation, slim: Slim) -> SlimDistillation:
    """Return the recipe of the training in which blocks are left out at random."""
    return replace(recipe, skip=slim.skip, features=0.0)


def _finished(mark: str, network: nn.Module) -> str:
    """Return the fingerprint of the last training: of what was given, `mark`, and of what became of the network."""
    return hashlib.sha256(f"{mark} {changes_of(network)}".encode()).hexdigest()[:16]


def _evolve(
    host: Any, student: Any, asked: tuple[dict[str, float], Goal, list[Any]], recipe: SlimDistillation, run_dir: Path, resume: bool
) -> tuple[Any, Evolved]:
    """Return the evolved student. What was decided is kept in `architecture.json`, so that a resumed run keeps it though times vary."""
    costs, goal, conditions = asked
    kept, settings = run_dir / DECIDED, f"{recipe.fingerprint} {goal}"
    read = _read(kept, settings) if resume else None
    if read is not None:
        changes, evolved = read
        made = host.surgery.rebuild(student, lambda copy: apply_changes(copy, _more(changes, changes_of(copy))))
        return made, evolved
    copy = host.surgery.rebuild(student, lambda _: None)
    latent = host.sampling.fit_latent(copy, _latent(recipe.size))["samples"]
    evolved = evolve(host.speed.network_of("model", copy), costs, predictions(host, copy, conditions, latent, 0), goal)
    stored = {"fingerprint": settings, "cost": evolved.cost, "actions": evolved.actions}
    stored |= changes_of(host.speed.network_of("model", copy)).stored()
    with replacing(kept) as temporary:
        Path(temporary).write_text(json.dumps(stored, indent=1), encoding="utf-8")
    return host.surgery.rebuild(copy, lambda _: None), evolved


def _read(path: Path, fingerprint: str) -> tuple[Changes, Evolved] | None:
    """Return what an earlier run of the same settings has decided, None where there is none."""
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
        changes = read_changes({KEY: stored.get(KEY, {})}, path.name)
        if stored["fingerprint"] != fingerprint or changes is None:
            return None
        return changes, Evolved(float(stored["cost"]), tuple(map(str, stored["actions"])))
    except (OSError, ValueError, KeyError, AttributeError, TypeError, BundleError):
        return None


def _check_decided(path: Path, mark: str) -> None:
    """Raise :class:`TrainingError` where an earlier run has decided on the architecture of another model, or with other pictures."""
    try:
        told = str(json.loads(path.read_text(encoding="utf-8"))["fingerprint"])
    except (OSError, ValueError, KeyError, TypeError):
        return
    if told.split(" ")[0] != mark:
        raise TrainingError(
            f"cannot resume from {path.parent}: the model, the pictures or the texts are others. Use the same ones, or start over with "
            "resume off"
        )


def _more(wanted: Changes, there: Changes) -> Changes:
    """Return the changes of `wanted` that `there` does not have yet, of the kinds that evolution makes."""
    copies = {name: count - there.copies.get(name, 0) for name, count in wanted.copies.items()}
    removed = tuple(name for name in wanted.removed if name not in there.removed)
    return Changes(copies={name: count for name, count in copies.items() if count > 0}, removed=removed)


def _costs(host: Any, model: Any, measure: str, size: int) -> dict[str, float]:
    """Return the cost of every block of a MODEL's network by name, and of the whole under :data:`WHOLE`: seconds, or multiply-adds of
    linear layers and convolutions."""
    network = host.speed.network_of("model", model)
    blocks, latent = blocks_of(network), host.sampling.fit_latent(model, _latent(size))
    if measure == "time":
        return block_latencies(host, model, [block for block in blocks if not block.is_removed], latent)
    inputs = layer_inputs(network, host.surgery.evaluate(model, latent))
    found = {WHOLE: float(multiply_adds(network, inputs))}
    for block in blocks:
        if not block.is_removed:
            inside = {name: value for name, value in inputs.items() if name == block.path or name.startswith(f"{block.path}.")}
            found[block.name] = float(multiply_adds(network, inside))
    return found


def _latent(size: int) -> dict[str, Any]:
    return {"samples": torch.zeros(1, 4, max(1, size // 8), max(1, size // 8)), "downscale_ratio_spacial": 8}
