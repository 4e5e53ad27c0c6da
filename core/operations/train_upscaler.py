"""Training of an UPSCALE_MODEL of either host on an image folder (Rapid Diffusion, section 4.5 and appendix C)."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from ..bundles.find import resolve_bundle
from ..bundles.format import read_info
from ..checks import real_number
from ..data.card import Card, data_card
from ..data.pictures import load_pixels
from ..data.places import resolve_folder
from ..device import free_memory
from ..errors import BundleError, DataError, InputError
from ..host import current
from ..metrics.psnr import psnr
from ..metrics.ssim import ssim
from ..networks import weight_sum
from ..paths import made_bundle_path
from ..progress import track
from ..scoring.find import resolve_network
from ..scoring.perceptual import Perceptual, load_perceptual
from ..train.inputs.latent_cache import picture_key
from ..train.loop import TrainResult, train
from ..train.plot import loss_image
from ..train.recipes.esrgan import EsrganRecipe, enlarge_with
from ..train.writing import check_writable
from ..upscale import degrade
from ..upscale.rrdb import Upscaler, from_state
from .distill import BYTES_A_WEIGHT, Run
from .domain_run import check_disk

DEGRADATIONS = ("bicubic", "vae", "jpeg", "blur")
HELD_OUT, SHOWN = 8, 4
BORDER = 4
CRITIC_WEIGHTS = 4_380_000
"""Of a critic of 64 features, about."""
_DRAWN = {"train": 24, "validation": HELD_OUT}
"""Orchard scenes that are drawn where no folder is named."""


@dataclass
class UpscalerTraining(EsrganRecipe):
    """The recipe `esrgan` as :func:`train_upscaler` runs it, which gives it the upscaler, the pictures and the VAE before."""

    name: ClassVar[str] = "train_upscaler"

    fingerprint: str = ""  # of the upscaler and the pictures, so that a run is resumed on the same ones only

    def given(self, upscaler: Upscaler, card: Card | None, vae: Any) -> None:
        """Take the upscaler to start from, the folder's card (`None`: Orchard scenes are drawn) and the VAE of round trips (or `None`)."""
        self.upscaler, self.card, self.through = upscaler, card, vae
        files = "" if card is None else ";".join(picture_key(item.path, "").hex() for item in card.usable)
        marks = f"{weight_sum(upscaler.model.parameters()):.6g};{files};{vae is not None}"
        self.fingerprint = hashlib.sha256(marks.encode()).hexdigest()[:16]

    def started(self) -> Upscaler:
        """See :meth:`EsrganRecipe.started`. The upscaler that was given stays as it is."""
        return from_state({key: value.clone() for key, value in self.upscaler.model.state_dict().items()})

    def round_trips(self) -> Any:
        """See :meth:`EsrganRecipe.round_trips`."""
        return HostRoundTrips(self.through) if self.through is not None else None

    def held_out_pairs(self, count: int) -> list[tuple[Any, Any]]:
        """See :meth:`EsrganRecipe.held_out_pairs`. The small pictures go through the degradation of the training."""
        if not self.held_out:
            generator = torch.Generator().manual_seed(0)
            pairs = super().held_out_pairs(count)
            self.held_out = [(self._degraded(low, generator), high) for low, high in pairs]
        return self.held_out

    def _degraded(self, low: Any, generator: torch.Generator) -> Any:
        planes = _planes(low)
        if self.soft and self.through is None:
            planes = degrade.soften(planes, generator)
        if self.jpeg:
            planes = degrade.compress(planes, generator)
        return (planes[0] * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()

    def _pictures(self, split: str, count: int) -> Iterable[Any]:
        if self.card is None:
            return super()._pictures(split, _DRAWN[split])
        items = self.card.usable
        held = set(range(16, len(items), 17)) or {len(items) - 1}
        chosen = [item for place, item in enumerate(items) if (place in held) == (split != "train")][:count]
        return track((load_pixels(item.path) for item in chosen), len(chosen), f"reading {split} pictures", "picture")


class HostRoundTrips:
    """A VAE of the host, as :class:`~..metrics.reconstruction.RoundTrips`."""

    def __init__(self, vae: Any) -> None:
        self.vae = vae
        ratio = getattr(vae, "spacial_compression_encode", None)
        self.factor = int(ratio()) if ratio else 8

    def of(self, pictures: Tensor) -> Tensor:
        """Return `pictures` (N, 3, H, W) in [-1, 1], encoded and decoded again."""
        host = current()
        with torch.no_grad():
            images = (pictures + 1).movedim(1, -1) / 2
            made = host.vae.decode(self.vae, host.vae.encode(self.vae, images))
        return made.detach().float().cpu().movedim(-1, 1) * 2 - 1


def train_upscaler(
    upscale_model: Any, folder: str, filename: str, recipe: UpscalerTraining, run: Run, vae: Any = None
) -> tuple[Any, str, Tensor, Tensor]:
    """Return (the trained UPSCALE_MODEL, a report, the loss as an IMAGE, held-out pictures before and after as an IMAGE).

    `upscale_model` is not changed. `folder` lies in the input or output folder; for "" Orchard scenes are drawn. The result is written
    as the bundle `filename` where nodes write bundles, the critic beside it. Checkpoints lie in a folder beside them, and a stopped run
    goes on from the last one where all settings are equal.

    Raises, before any training, :class:`InputError` for settings out of range and for an upscaler that is no RRDB network,
    :class:`DataError` for a folder with fewer than two usable pictures, :class:`BundleError` where `filename` would replace another kind.
    """
    run.check()
    host, upscaler = current(), rrdb_of(upscale_model)
    recipe.scale = upscaler.scale
    recipe.check()
    out = made_bundle_path(filename)
    if out.exists() and read_info(out).kind != "esrgan":
        raise BundleError(f"{out.name} is a bundle of another kind; give the upscaler another name")
    run_dir = run.dir(out.with_name(f"{out.stem}-run"))
    check_writable(out, run_dir)
    run.check_goes_on(run_dir, recipe, known=False)
    card = _card(folder, recipe.patch) if folder.strip() else None
    recipe.given(upscaler, card, vae)
    run.check_goes_on(run_dir, recipe)
    device = host.upscale.device_for(upscale_model, recipe.patch)
    check_room(upscaler, recipe, run_dir, device)
    perceptual = load_perceptual(recipe.features)
    recipe.precision = "bf16" if device.type == "cuda" else "no"
    result = train(recipe, out, run.steps, run_dir=run_dir, resume=run.resume, every=run.every, device=device)
    trained = host.upscale.load(result.files[0])
    methods = {"before": upscaler.to("cpu"), "trained": from_state(trained.model.state_dict())}
    with torch.no_grad():
        rows, shown = compare(recipe.held_out_pairs(HELD_OUT), upscaler.scale, methods, perceptual)
    plot = loss_image(result.losses, f"upscaler: loss over {result.steps} steps")
    return trained, _report(card, rows, result, out, perceptual.name), plot, shown


def check_room(upscaler: Upscaler, recipe: UpscalerTraining, run_dir: Path, device: torch.device) -> None:
    """Raise :class:`InputError` where the weights in training, without a batch, do not fit into free memory, or not onto the disk."""
    weights = sum(one.numel() for one in upscaler.model.parameters()) + (CRITIC_WEIGHTS if recipe.gan_weight else 0)
    room = BYTES_A_WEIGHT * weights
    current().process.make_room(room)  # what else the host keeps on the device goes first
    free = free_memory(device)
    if free is not None and room > free:
        raise InputError(
            f"training needs {room / 2**30:.1f} GB for the weights alone and {free / 2**30:.1f} GB are free on {device}: close other "
            "programs, take a smaller upscaler, or set gan_weight to 0"
        )
    check_disk(run_dir, room, "free space, or set gan_weight to 0")


def settings_of(how: Mapping[str, Any], critic: str, has_vae: bool) -> UpscalerTraining:
    """Return the recipe of Rapid Diffusion's appendix C: a critic of 64 features, a learning rate that is halved on the way, an average.

    `how` has `degradation` (`bicubic`, `vae`, `jpeg`, `blur`), the share `degraded` (0 to 1) of small pictures that go through it, and
    `perceptual`, the name of a network's file in a weights folder ("": the included one). `critic` names an earlier run's, "" for none.
    Raises :class:`InputError` for another degradation and for `vae` without a VAE, :class:`BundleError` for unknown names.
    """
    kind = how["degradation"]
    if kind not in DEGRADATIONS:
        raise InputError(f"degradation={kind!r}: expected {', '.join(DEGRADATIONS)}")
    if kind == "vae" and not has_vae:
        raise InputError("degradation=vae needs a VAE at the input vae; link one, or choose another degradation")
    share = real_number("degraded", how["degraded"], 0.0, 1.0)
    return UpscalerTraining(
        soft=share if kind in ("vae", "blur") else 0.0,
        jpeg=share if kind == "jpeg" else 0.0,
        gradient_weight=0.0,
        critic_feat=64,
        milestones=True,
        warmup=0,
        ema=0.999,
        features=str(resolve_network(how["perceptual"])) if how["perceptual"] else "",
        start_critic=str(resolve_bundle(critic, "critic")) if critic else "",
    )


def rrdb_of(upscale_model: Any) -> Upscaler:
    """Return a copy of an UPSCALE_MODEL as an :class:`Upscaler` on the CPU. Raises :class:`InputError` for what is no RRDB network of 3
    channels."""
    network = getattr(upscale_model, "model", None)
    if not isinstance(network, torch.nn.Module):
        raise InputError(f"an UPSCALE_MODEL is needed, not a {type(upscale_model).__name__}; use Load ESRGAN Upscaler")
    try:
        upscaler = from_state({key: value.detach().cpu().clone() for key, value in network.state_dict().items()})
    except BundleError as error:
        raise InputError(
            f"Train Upscaler takes ESRGAN networks (RRDB), and this one is a {type(network).__name__}: {error}. "
            "Load an ESRGAN file, such as 4x_NMKD, RealESRGAN_x4plus or the included one"
        ) from error
    if (upscaler.input_channels, upscaler.output_channels) != (3, 3) or upscaler.scale not in (1, 2, 4):
        raise InputError(
            f"this upscaler takes {upscaler.input_channels} channels and enlarges by {upscaler.scale}; 3 channels and 1, 2 or 4 are needed"
        )
    return upscaler


def compare(
    pairs: list[tuple[Any, Any]], scale: int, methods: Mapping[str, Callable[[Tensor], Tensor]], perceptual: Perceptual
) -> tuple[list[dict[str, Any]], Tensor]:
    """Return (rows of PSNR, SSIM and perceptual distance, bicubic interpolation first, and an IMAGE of up to four pictures in rows).

    A row of the IMAGE is bicubic interpolation, each of `methods`, and the true picture. A border of 4 px is left out of PSNR and SSIM.
    """
    made = {"bicubic": [degrade.enlarge(low, scale) for low, _ in pairs]}
    for name, model in methods.items():
        made[name] = [enlarge_with(model, low) for low, _ in pairs]
    rows = []
    for name, pictures in made.items():
        both = list(zip(pictures, (high for _, high in pairs), strict=True))
        distances = [float(perceptual.distance(_planes(one), _planes(real))) for one, real in both]
        rows.append(
            {
                "method": name,
                "psnr": float(np.mean([psnr(one, real, BORDER) for one, real in both])),
                "ssim": float(np.mean([ssim(one, real, BORDER) for one, real in both])),
                "distance": float(np.mean(distances)),
            }
        )
    side = min(min(high.shape[:2]) for _, high in pairs)
    lines = [
        np.concatenate([picture[:side, :side] for picture in (*(made[name][i] for name in made), pairs[i][1])], axis=1)
        for i in range(min(SHOWN, len(pairs)))
    ]
    return rows, torch.from_numpy(np.concatenate(lines).astype(np.float32) / 255)[None]


def _planes(picture: Any) -> Tensor:
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1)[None].float() / 255


def _card(folder: str, patch: int) -> Card:
    card = data_card(resolve_folder(folder), patch)
    if len(card.usable) < 2:
        raise DataError(
            f"{len(card.usable)} usable picture in {folder.strip()}: at least 2 are needed, of {patch} px or more, one to measure on. "
            + card.text().replace("\n", "; ")
        )
    return card


def _report(card: Card | None, rows: list[dict[str, Any]], result: TrainResult, out: Path, features: str) -> str:
    lines = [card.text() if card else "pictures: scenes of the Orchard, drawn", "", f"{result.steps} steps; held-out pictures:"]
    lines.append(f"{'':<10}{'PSNR dB':>9}{'SSIM':>8}{'distance':>10}")
    lines += [f"{row['method']:<10}{row['psnr']:>9.2f}{row['ssim']:>8.4f}{row['distance']:>10.4f}" for row in rows]
    lines.append(f"distance: between feature maps of the {features}; smaller is more alike")
    saved = [path.name for path in result.files]
    where = f"saved as {', '.join(saved)}" if result.files[0] == out else f"{out.name} could not be written; it is in {result.files[0]}"
    return "\n".join([*lines, where])
