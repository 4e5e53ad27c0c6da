"""Pruning of the decoder of a VAE of either host, and its distillation on latents (SnapFusion: an efficient image decoder).

The pruned decoder learns to draw what the whole one draws. The encoder is not touched, so that latents keep their meaning.
"""

from __future__ import annotations

import copy
import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import nn
from torch.nn import functional

from ..bundles.format import BundleInfo, halved, read_info, save_bundle
from ..errors import BundleError, InputError
from ..host import current
from ..host.denoiser import make_trainable
from ..lowrank.savings import network_size
from ..networks import network_of, weight_sum
from ..paths import made_bundle_path
from ..slim.decoder import KEY, prune_decoder, pruned_widths, widths_of
from ..train.inputs.latent_cache import picture_key
from ..train.loop import TrainResult, train
from ..train.plot import loss_image
from ..train.recipe import EpochOrder, Losses, Recipe
from ..train.writing import check_writable
from .distill import Run
from .distill_data import encode_pictures, training_folder

SOURCES = ("pictures", "drawn")
HELD_OUT, DRAWN = 8, 256
"""Latents that the report compares both decoders on, and how many latents are drawn."""


@dataclass(frozen=True)
class Prune:
    """What is left of a decoder (`share` of its channels), and the latents to distil on.

    `source` is `pictures` (of `folder`, cropped to `size` pixels) or `drawn` (normal noise with the spread of a picture's latents)."""

    share: float = 0.5
    source: str = "pictures"
    folder: str = ""
    size: int = 256

    def check(self) -> None:
        """Raise :class:`InputError` for values out of range."""
        pruned_widths([32], self.share, 32)
        if self.source not in SOURCES:
            raise InputError(f"latents_from={self.source!r}: expected {' or '.join(SOURCES)}")
        if not 32 <= self.size <= 4096:
            raise InputError(f"size={self.size}: expected 32 to 4096")


@dataclass
class DecoderDistillation(Recipe):
    """The recipe behind :func:`prune_vae`, which fills in the networks and the latents before it is run."""

    name: ClassVar[str] = "prune_vae"
    volatile: ClassVar[frozenset[str]] = frozenset({"prefetch"})

    lr: float = 1e-3
    batch_size: int = 4
    warmup: int = 10
    share: float = 0.5
    fingerprint: str = ""  # of the weights and the latents, so that a run is resumed on the same ones only

    def given(self, teacher: Any, student: Any, latents: torch.Tensor, info: BundleInfo) -> None:
        """Take the whole and the pruned network (diffusers' `AutoencoderKL`), the latents (N, C, h, w), and what the bundle is to say."""
        self.teacher, self.student, self.latents, self.info = teacher, student, latents, info

    def setup(self, device: torch.device) -> None:
        self.teacher.to(device)
        self.student.to(device)
        self.release = make_trainable(self.student.decoder, device)
        self.order = EpochOrder(len(self.latents), self.batch_size, self.seed)

    def modules(self) -> dict[str, nn.Module]:
        return {"decoder": self.student.decoder}

    def batch(self, index: int, generator: torch.Generator) -> dict[str, torch.Tensor]:
        return {"latents": self.latents[self.order.indices(index)]}

    def loss(self, batch: dict[str, torch.Tensor]) -> Losses:
        latents = batch["latents"].clone()
        with torch.no_grad():
            wanted = self.teacher.decode(latents).sample.clone()
        return {"loss": functional.mse_loss(self.student.decode(latents).sample.float(), wanted.float())}

    def finish(self, out: Path, provenance: dict[str, Any]) -> list[Path]:
        self.release()
        info = replace(self.info, provenance=provenance, extra={**self.info.extra, KEY: widths_of(self.student)})
        return [save_bundle(out, halved(self.student.state_dict()), info)]


def prune_vae(
    vae: Any, prune: Prune, filename: str, recipe: DecoderDistillation, run: Run, latent: Mapping[str, Any] | None = None
) -> tuple[Any, str, torch.Tensor]:
    """Return (a VAE with a pruned decoder, a report, the loss as an IMAGE). `vae` is not changed.

    It is distilled on `latent` (a LATENT, such as a model's own) where there is one. The result is written as the bundle `filename` where
    nodes write bundles; a stopped run goes on from its last checkpoint. Raises :class:`InputError` before any work for settings out of
    range, for a VAE that is no `AutoencoderKL`, and for places that cannot be written."""
    prune.check()
    run.check()
    recipe.check()
    out = vae_path(filename)
    run_dir = run.dir(out.with_name(f"{out.stem}-run"))
    check_writable(out, run_dir)
    recipe.share = prune.share
    run.check_goes_on(run_dir, recipe, known=False)
    host = current()
    given = None if latent is None else _given(vae, latent)
    images = training_folder(prune.folder, prune.size) if given is None else None
    exported = host.vae.export(vae)
    from diffusers import AutoencoderKL

    teacher: Any = network_of(AutoencoderKL, exported)
    recipe.fingerprint = _fingerprint(teacher, prune, images, given)
    run.check_goes_on(run_dir, recipe)
    student = copy.deepcopy(teacher)
    prune_decoder(student, prune.share)
    sizes = [network_size(network.decoder) for network in (teacher, student)]
    latents = _encoded(host, vae, prune, images, recipe) if given is None else given
    apart = min(HELD_OUT, len(latents) // 4)
    seen, held = latents[: len(latents) - apart], latents[len(latents) - apart :]
    recipe.given(teacher, student, seen, exported.info)
    result = train(recipe, out, run.steps, run_dir=run_dir, resume=run.resume, every=run.every, device=host.process.device())
    made = host.vae.load(result.files[0])
    measured = f"{_psnr(teacher, student, held if apart else seen):.1f} dB on {'latents apart' if apart else 'the same latents'}"
    report = _report(sizes, measured, result, len(seen), out)
    return made, report, loss_image(result.losses, f"decoder: loss over {result.steps} steps")


def vae_path(filename: str) -> Path:
    """Return the path where a node writes the VAE `filename`. Raises :class:`InputError` for a name that leaves the folder nodes write
    bundles to, :class:`BundleError` where anything but a VAE would be replaced."""
    path = made_bundle_path(filename)
    if path.exists() and read_info(path).kind != "vae":
        raise BundleError(f"{path.name} is a bundle of another kind; give the VAE another name")
    return path


def _given(vae: Any, latent: Mapping[str, Any]) -> torch.Tensor:
    """Return the unscaled latents (N, C, h, w) of a LATENT, on the CPU. Raises :class:`InputError` where they do not fit the VAE."""
    given: torch.Tensor = latent["samples"].float().cpu()
    if given.dim() != 4 or given.shape[1] != vae.latent_channels:
        raise InputError(f"a latent of shape {tuple(given.shape)} was given to a VAE of {vae.latent_channels} channels; link its model's")
    return given


def _encoded(host: Any, vae: Any, prune: Prune, images: Any, recipe: DecoderDistillation) -> torch.Tensor:
    """Return the unscaled latents (N, C, h, w) of pictures, or normal noise with their spread, on the CPU."""
    if prune.source == "pictures":
        return encode_pictures(host, vae, images, recipe.batch_size)
    shown = host.vae.encode(vae, (torch.stack([images.image(i) for i in range(min(4, len(images)))]).movedim(1, -1) + 1) / 2)
    shown = shown.float().cpu()
    noise = torch.randn(DRAWN, *shown.shape[1:], generator=torch.Generator().manual_seed(recipe.seed))
    return noise * shown.std((0, 2, 3), keepdim=True) + shown.mean((0, 2, 3), keepdim=True)


@torch.no_grad()
def _psnr(teacher: Any, student: Any, latents: torch.Tensor) -> float:
    """Return the mean PSNR in dB of the student's pictures to the teacher's, in [0, 1]."""
    device, found = next(teacher.parameters()).device, []
    for one in latents.split(1):
        a, b = (network.decode(one.to(device)).sample.clamp(-1, 1) / 2 for network in (student, teacher))
        error = float((a - b).square().mean())
        found.append(math.inf if error == 0 else -10 * math.log10(error))
    return sum(found) / len(found)


def _fingerprint(teacher: nn.Module, prune: Prune, images: Any, given: torch.Tensor | None) -> str:
    """Return a hash of the VAE's weights to a few digits, and of the pictures' files or the latents that were given."""
    told = f"{weight_sum(teacher.parameters()):.5g} "
    if given is not None:
        told += f"{tuple(given.shape)} {float(given.double().abs().sum()):.4g}"
    else:
        told += f"{prune.source} {prune.size} " + " ".join(picture_key(item.path, "").hex() for item in images.items)
    return hashlib.sha256(told.encode()).hexdigest()[:16]


def _report(sizes: list[tuple[int, int]], measured: str, result: TrainResult, count: int, out: Path) -> str:
    (before, room), (after, small) = sizes
    lines = [
        f"decoder: {after:,} of {before:,} parameters ({after / before:.3f}), {small / 2**20:.1f} of {room / 2**20:.1f} MB",
        f"{result.steps} steps on {count} latents; PSNR to the whole decoder's pictures {measured}",
    ]
    if result.losses:
        lines.append(f"loss {result.losses[0][1]:.4g} at the start, {result.losses[-1][1]:.4g} at the end")
    (saved,) = result.files
    lines.append(f"saved as {saved.name}, for Load Bundles" if saved == out else f"{out.name} could not be written; the VAE is in {saved}")
    return "\n".join(lines)
