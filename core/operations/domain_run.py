"""One training on a folder of pictures: from MODEL, CLIP, VAE and a recipe to files, samples and what a report says of it."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from .. import files
from ..bundles.format import read_info
from ..bundles.lora_about import read_about
from ..checkpoint.loras import made_lora_path
from ..device import out_of_memory
from ..errors import BundleError, InputError
from ..graph.inputs import Registry
from ..host import current
from ..host.denoiser import Denoiser
from ..networks import weight_sum
from ..paths import made_bundle_path, made_weights_dir
from ..train.inputs.latent_cache import picture_key
from ..train.loop import TrainResult, train
from ..train.plot import loss_image
from ..train.writing import check_writable
from .distill import Run, gradients_explained
from .distill_data import encode_texts
from .domain import DomainTuning, check_room
from .domain_data import Framing, Pictures, Prepared, check_parts, encode_pictures, open_domain, prepare, to_device
from .domain_previews import MOST, Previews
from .domain_text import TextSide
from .ready_workflow import drawing_graph, workflow_path

KEPT = 3
"""Checkpoints on the disk at a time, of which one is being written."""
SAMPLED = 4096
"""Numbers of each weight by which one base is told from another."""
SHOWN = 4
"""Times in a run that samples are drawn and the held-out pictures are measured."""


@dataclass(frozen=True)
class Job:
    """What is trained and where it goes: a `folder`, the LoRA's `filename`, `prompts` (one a line) to draw, and the graph of the node
    `node_id`, in API format, whose loaders the ready workflow takes over (none: no workflow is written)."""

    folder: str
    filename: str
    prompts: str = ""
    graph: Mapping[str, Any] = field(default_factory=dict)
    node_id: str = ""
    classes: Registry = field(default_factory=dict)


@dataclass(frozen=True)
class Trained:
    """A finished training: what the loop gave, the pictures, the prompts that were drawn, and samples before (first row) and after."""

    result: TrainResult
    pictures: Pictures
    prompts: list[str]
    samples: torch.Tensor

    def plot(self) -> torch.Tensor:
        """Return the loss over the steps as an IMAGE."""
        return loss_image(self.result.losses, f"loss over {self.result.steps} steps")

    def drawing(self, recipe: DomainTuning, job: Job, loader: Mapping[str, Any] | None, **more: Any) -> dict[str, Any]:
        """Return a graph that draws the first prompt behind `loader`; see :func:`~.ready_workflow.drawing_graph`, also for `more`."""
        return drawing_graph(job.graph, job.node_id, loader, self.prompts[0], max(64, recipe.size // 8 * 8), **more)

    def report(self, recipe: DomainTuning, places: Sequence[Path]) -> list[str]:
        """Return the lines of a report. `places` are where the files should be."""
        parts, saved = self.pictures.parts, self.result.files[: len(places)]
        counts = ", ".join(f"{len(members)} for {part}" for part, members in sorted(parts.items()) if members)
        lines = [f"{self.result.steps} steps on {len(self.pictures)} pictures: {counts}", *self.pictures.notes, recipe.described()]
        lines += [
            f"loss on the pictures for {name}: {base:.4g} by the base, {by:.4g} by the {recipe.called}"
            for name, (base, by) in recipe.gains.items()
        ]
        if not recipe.gains:
            lines.append(f"too few pictures to hold some out: whether the {recipe.called} generalises was not measured")
        as_wished = list(saved) == list(places)
        where = recipe.place if as_wished else f"{saved[0].parent}, because its place could not be written"
        return [*lines, f"saved as {' and '.join(one.name for one in saved)} in {where}"]


def run_domain(parts: tuple[Any, Any, Any], job: Job, recipe: DomainTuning, run: Run, places: Sequence[Path]) -> Trained:
    """Train what `recipe` puts onto the layers of `parts` (MODEL, CLIP, VAE), none of which is changed, and write it to `places`.

    Patches on the MODEL are part of the base. Raises, before any work, :class:`InputError`, :class:`DataError`, :class:`BundleError` and
    :class:`WriteError`, in one line each, for settings out of range, a folder that cannot be trained on, parts that do not belong together,
    too little memory, and places that cannot be written; and whatever training raises.
    """
    (model, clip, vae), host = parts, current()
    run.check()
    recipe.check()
    run_dir = run.dir(run_folder(job.filename))
    for place in places:
        check_writable(place, run_dir)
    if job.graph:
        files.check_writable(workflow_path(job.filename).parent)
    framing = Framing(recipe.size, recipe.buckets, recipe.flip)
    pictures = open_domain(job.folder, framing, recipe.template, recipe.subject, recipe.seed)
    recipe.check_pictures(pictures)
    run.check_goes_on(run_dir, recipe, known=False)
    network = host.speed.network_of("model", model)
    side = TextSide(host, clip, recipe.learn_projection) if recipe.trains_text else None
    room = check_room(network, recipe, host.process.device(), side.weights() if side is not None else 0)
    check_disk(run_dir, room)
    recipe.placed(places, side)
    with memory_named(recipe):
        if run.begun(run_dir):
            recipe.fingerprint = fingerprint(host.speed.network_of("model", host.surgery.rebuild(model, _unchanged)), pictures, side)
            run.check_goes_on(run_dir, recipe)
        recipe.check_model(model, check_parts(host, model, clip, vae, pictures, recipe.size))
        latents = encode_pictures(host, vae, pictures, recipe.flip)
        prompts = [line.strip() for line in job.prompts.splitlines() if line.strip()][:MOST] or _some_captions(pictures)
        texts = encode_texts(host, clip, ["", *prompts, *(line for lines in pictures.captions for line in lines)])
        base = host.surgery.rebuild(model, _unchanged)  # a clone of the model may have left its patches on the weights until now
        recipe.fingerprint = fingerprint(host.speed.network_of("model", base), pictures, side)
        denoiser = host.training.denoiser(base, train=True, room=room, frozen=True)
        if denoiser.device.type == "cuda":
            recipe.precision = "bf16"
        prepared = prepare(denoiser, latents, texts, pictures.captions)
        shapes = [tuple(both[0].shape) for both in prepared.latents]
        shape = max(set(shapes), key=lambda one: (shapes.count(one), one))
        if side is not None:
            side.begin()
        previews = Previews(
            denoiser, texts if side is None else side, prompts, shape, lambda latent: host.vae.decode(vae, latent), recipe.seed
        )
        recipe.given(base, denoiser, prepared, pictures, previews)
        _try_once(denoiser, prepared)
        every = run.intervals(SHOWN)
        try:
            with gradients_explained():
                result = train(recipe, places[0], run.steps, run_dir=run_dir, resume=run.resume, every=every, device=denoiser.device)
            samples = previews.compared(recipe.off)
        finally:
            recipe.release()
    return Trained(result, pictures, prompts, samples)


def run_folder(filename: str) -> Path:
    """Return where checkpoints, log and plot of the training that writes `filename` lie by default."""
    return made_weights_dir() / f"{made_lora_path(filename).stem}-run"


def check_disk(folder: Path, room: int, advice: str = "free space, or lower rank") -> None:
    """Raise :class:`InputError`, which ends with an advice, where the disk of `folder` has no space for a run's checkpoints and files.

    `room` are the bytes that what is trained takes in memory, with its gradient and its moments."""
    try:
        free = shutil.disk_usage(folder).free
    except OSError:  # a file system that does not say
        return
    needed = KEPT * room
    if needed > free:
        raise InputError(
            f"the files of this run need {needed / 2**20:.0f} MB and {free / 2**20:.0f} MB are free on the disk of {folder}: {advice}"
        )


def lora_path(filename: str) -> Path:
    """Return where the LoRA `filename` is written. Raises :class:`InputError` for a name that leaves its folder, :class:`BundleError` where
    a file that no trainer of this pack has written would be replaced."""
    path = made_lora_path(filename)
    if path.exists() and not read_about(path):
        raise BundleError(f"{path.name} is a LoRA of another program; give this one another filename")
    return path


def bundle_path(filename: str, kind: str) -> Path:
    """Return where a trainer writes the bundle `filename` of `kind`. Raises :class:`InputError` for a name that leaves its folder,
    :class:`BundleError` where anything else would be replaced."""
    path = made_bundle_path(filename)
    if path.exists() and read_info(path).kind != kind:
        raise BundleError(f"{path.name} is a bundle of another kind; give this one another filename")
    return path


def bundle_name(path: Path) -> str:
    """Return the name by which loaders know a bundle of :func:`bundle_path`."""
    return path.relative_to(made_weights_dir().resolve()).as_posix()


def lora_name(path: Path) -> str:
    """Return the name by which loaders know a LoRA of :func:`lora_path`."""
    return path.relative_to(made_lora_path("x").parent.resolve()).as_posix()


@contextmanager
def memory_named(recipe: DomainTuning) -> Iterator[None]:
    """Turn the end of memory into one line that says what to lower."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not out_of_memory(error):
            raise
        raise InputError(
            f"memory ran out at batch_size={recipe.batch_size}, size={recipe.size}, rank={recipe.rank}: lower one of them, or set "
            "checkpointing to on; a run that had begun goes on from its last checkpoint only with equal settings"
        ) from error


def fingerprint(network: nn.Module, pictures: Pictures, side: TextSide | None = None) -> str:
    """Return a hash of the weights of the base and of a text side (some of each, to four digits: with other threads the last ones differ),
    and of the pictures and their captions."""
    marks = f"{weight_sum(network.parameters(), SAMPLED):.4g}"
    if side is not None:
        marks += f" {side.weight_sum():.4g}"
    both = zip(pictures.images.items, pictures.captions, strict=True)
    listed = "".join(f"{picture_key(item.path, '').hex()}:{lines};" for item, lines in both)
    return hashlib.sha256(f"{marks};{listed}".encode()).hexdigest()[:16]


@torch.no_grad()
def _try_once(denoiser: Denoiser, prepared: Prepared) -> None:
    """Raise :class:`InputError` where the model cannot read one picture and its text, before anything is trained."""
    try:
        latents = prepared.latents[0][0][None].to(denoiser.device)
        given = to_device([prepared.texts["", tuple(latents.shape[1:])]], denoiser.device)
        denoiser.denoise(latents, denoiser.sigmas[:1].to(denoiser.device), given[0] if denoiser.batches else given)
    except RuntimeError as error:
        if out_of_memory(error) or "no autograd formula" in str(error):
            raise
        raise InputError(
            f"the model cannot read this CLIP's texts or this VAE's latents ({str(error)[:200]}); link the CLIP and the VAE of the model"
        ) from error


def _some_captions(pictures: Pictures) -> list[str]:
    chosen = [*pictures.parts["validation"], *pictures.parts["train"]]
    return list(dict.fromkeys(pictures.captions[i][0] for i in chosen))[:2]


def _unchanged(_: Any) -> None:
    return None
