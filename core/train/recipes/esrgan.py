"""Recipe `esrgan`: a network that enlarges pictures four times (or two, or one), sharper than bicubic interpolation.

    python -m rapiddraw train esrgan --out weights/my-esrgan.safetensors

It is trained for PSNR and, with `gan_weight`, against a critic. After Wang et al. 2018 (ESRGAN), which Rapid Diffusion (sections 3.1.3 and
4.5) puts behind its decoder. What differs: the network is small (32 features and 2 blocks; growth stays 32, because spandrel, and so
ComfyUI's stock loader, knows no other); it starts as bilinear interpolation instead of noise, which saves most of a short training; there
is no VGG network here, so that L1 on image gradients stands for the perceptual term; the adversarial term is off by default, because it
costs PSNR. With `vae` it learns from small pictures that a VAE has decoded, which is what it enlarges in use.

`start` with `perceptual_weight`, `gan_weight`, `critic_feat` = 64 and `milestones` is the fine-tuning of Rapid Diffusion's appendix C: from
a trained network, with Adam's betas (0.9, 0.999), batches of 16, and a learning rate of 1e-4 that is halved on the way.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from ...bundles.format import BundleInfo, save_bundle
from ...bundles.load import load_bundle
from ...data.folder import ImageFolder
from ...errors import DataError, InputError
from ...metrics.psnr import psnr
from ...metrics.reconstruction import RoundTrips, to_bytes
from ...progress import track
from ...scoring.perceptual import load_perceptual
from ...upscale import degrade
from ...upscale.layouts import RRDBConfig, to_basicsr
from ...upscale.rrdb import Upscaler, build, load_upscaler
from ..recipe import Losses, Recipe

if TYPE_CHECKING:
    from collections.abc import Iterable

    from torch.optim import Optimizer


MILESTONES = (1 / 8, 1 / 4, 1 / 2, 3 / 4)
"""Shares of a run at which the learning rate is halved: 50k, 100k, 200k and 300k (Rapid Diffusion, appendix C) of BasicSR's 400k steps."""
ADDED = {
    "pixel_weight": 1.0, "perceptual_weight": 0.0, "features": "", "critic_feat": 32, "start_critic": "", "milestones": False, "jpeg": 0.0,
}  # fmt: skip
"""Settings that were added, with what they were before: at these values they are not recorded, so that older runs are resumed."""


@dataclass
class EsrganRecipe(Recipe):
    """Settings of the recipe `esrgan`. `data` is a folder of pictures (an Orchard dataset or any other); without it, scenes are drawn at
    `size` px."""

    name: ClassVar[str] = "esrgan"
    bundles: ClassVar[Mapping[str, str]] = {"vae": "vae", "start_critic": "critic"}

    batch_size: int = 8
    lr: float = 1e-3
    lr_final: float = 0.01
    warmup: int = 50
    ema: float = 0.995
    precision: str = "bf16"
    images: int = 400  # pictures held in memory: of `data`, or drawn
    size: int = 512  # side of the drawn pictures
    patch: int = 96  # side of a high-resolution patch
    scale: int = 4  # how many times larger: 4, 2 or 1
    num_feat: int = 32  # features of the network
    num_block: int = 2  # RRDB blocks of the network
    num_grow: int = 32  # features that each dense layer adds
    soft: float = 0.3  # share of patches softened like a decoder's output, or decoded where `vae` is set
    vae: str = ""  # a VAE bundle: that share of the small pictures goes through it and back, so that what it leaves out is mended
    gradient_weight: float = 0.5  # weight of the L1 on pixel gradients
    gan_weight: float = 0.0  # weight of the adversarial term; ESRGAN has 5e-3 beside a pixel weight of 1e-2; 0 trains for PSNR alone
    start: str = ""  # an upscaler's file to continue from, for fine-tuning
    pixel_weight: float = 1.0  # weight of the L1 on pixels; ESRGAN has 1e-2
    perceptual_weight: float = 0.0  # weight of the L1 between feature maps; ESRGAN has 1
    features: str = ""  # whose maps: VGG19 weights or an image bundle; empty is the included image tower
    critic_feat: int = 32  # features of the critic; 64 in Rapid Diffusion's appendix C
    start_critic: str = ""  # the critic's file of an earlier run, to continue from
    milestones: bool = False  # halve lr at 1/8, 1/4, 1/2 and 3/4 of the run, in place of the schedule
    jpeg: float = 0.0  # share of patches whose small picture is compressed as JPEG

    def check(self) -> None:
        """See :meth:`Recipe.check`."""
        super().check()
        if self.scale not in (1, 2, 4):
            raise InputError(f"scale={self.scale}: an RRDBNet enlarges by 1, 2 or 4")
        if not 1 <= self.num_feat <= 512 or not 1 <= self.num_block <= 64 or not 1 <= self.num_grow <= 256:
            given = f"num_feat={self.num_feat}, num_block={self.num_block}, num_grow={self.num_grow}"
            raise InputError(f"{given}: expected 1 to 512, 1 to 64 and 1 to 256")
        if self.patch % 8 or not 32 <= self.patch <= self.size or self.size % 8 or self.size > 4096:
            raise InputError(f"patch={self.patch}, size={self.size}: expected multiples of 8, 32 <= patch <= size <= 4096")
        self.check_shares("soft", "jpeg")
        if not 1 <= self.critic_feat <= 512:
            raise InputError(f"critic_feat={self.critic_feat}: expected 1 to 512")
        for key, low in (("images", 1), *((f"{term}_weight", 0) for term in ("gradient", "gan", "pixel", "perceptual"))):
            if not getattr(self, key) >= low:
                raise InputError(f"{key}={getattr(self, key)!r}: expected a number of at least {low}")

    def setup(self, device: torch.device) -> None:
        """See :meth:`Recipe.setup`."""
        self.device = device
        began = self.started()
        if began is not None:
            self.config, self.generator = began.config, began.model.requires_grad_(True)
        else:
            shuffle = 4 // self.scale
            self.config = RRDBConfig(3, 3, self.num_feat, self.num_block, self.num_grow, 2, shuffle)
            self.generator = build(self.config)
            start_as_bilinear(self.generator, self.config)
        if self.config.scale != self.scale:
            raise InputError(
                f"{self.start} enlarges by {self.config.scale}: expected scale={self.scale}; set scale to the file's, or name another file"
            )
        # Channels last: a quarter faster on a CPU.
        self.generator.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.critic: nn.Module | None = None
        if self.gan_weight > 0:
            from ...upscale.basicsr_shim import discriminator_class

            self.critic = discriminator_class()(3, num_feat=self.critic_feat)
            if self.start_critic:
                self._restore(self.critic, Path(self.start_critic))
            self.critic.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.perceptual = load_perceptual(self.features).to(device) if self.perceptual_weight > 0 else None
        self.trips = self.round_trips()
        self.pairs = self._pairs(self._pictures("train", self.images))
        self.decoded = [self._decoded(low) for low, _ in self.pairs] if self.trips else []
        self.held_out: list[tuple[Any, Any]] = []

    def modules(self) -> dict[str, nn.Module]:
        """See :meth:`Recipe.modules`."""
        return {"generator": self.generator} | ({"critic": self.critic} if self.critic is not None else {})

    def ema_names(self) -> list[str]:
        """Return the generator alone: the critic is not kept."""
        return ["generator"]

    def optimizers(self) -> dict[str, Optimizer]:
        """Return one optimizer for each network, with betas (0.9, 0.999) (Rapid Diffusion, appendix C; BasicSR has 0.99)."""
        return {name: self.adamw(module.parameters()) for name, module in self.modules().items()}

    def phases(self) -> list[tuple[list[str], Callable[[Any], Losses]]]:
        """Return the generator's step, then the critic's where there is one."""
        steps: list[tuple[list[str], Callable[[Any], Losses]]] = [(["generator"], self.loss)]
        return steps if self.critic is None else [*steps, (["critic"], self.critic_loss)]

    def batch(self, index: int, generator: torch.Generator) -> dict[str, Tensor]:
        """Return `low` (B, 3, patch/scale, ..) and `high` (B, 3, patch, ..) in [0, 1].

        Of two places in a picture the one with more detail is taken: most of a scene is smooth sky, from which nothing is learned.
        """
        side = self.patch // self.scale
        lows, highs, decoded = [], [], []
        for _ in range(self.batch_size):
            index = _draw(len(self.pairs), generator)
            low, high = self.pairs[index]
            places = [(_draw(low.shape[0] - side + 1, generator), _draw(low.shape[1] - side + 1, generator)) for _ in range(2)]
            top, left = max(places, key=lambda p: _detail(low[p[0] : p[0] + side, p[1] : p[1] + side]))
            flip = slice(None, None, -1 if _draw(2, generator) else 1)
            lows.append(low[top : top + side, left : left + side][:, flip])
            if self.decoded:
                decoded.append(self.decoded[index][top : top + side, left : left + side][:, flip])
            top, left = top * self.scale, left * self.scale
            highs.append(high[top : top + self.patch, left : left + self.patch][:, flip])
        low, high = _tensor(lows), _tensor(highs)
        chosen = torch.rand(self.batch_size, generator=generator) < self.soft
        soft = _tensor(decoded) if decoded else degrade.soften(low, generator)
        low = torch.where(chosen[:, None, None, None], soft, low)
        if self.jpeg:
            chosen = torch.rand(self.batch_size, generator=generator) < self.jpeg
            low = torch.where(chosen[:, None, None, None], degrade.compress(low, generator), low)
        return {"low": low, "high": high}

    def loss(self, batch: Any) -> Losses:
        """Return L1 on pixels and on their differences, and the relativistic adversarial term where there is a critic."""
        high = batch["high"]
        made = self.generator(batch["low"].contiguous(memory_format=torch.channels_last)).float()
        batch["made"] = made.detach()
        pixel = functional.l1_loss(made, high)
        edges = sum(functional.l1_loss(made.diff(dim=d), high.diff(dim=d)) for d in (2, 3))
        losses = {"loss": self.pixel_weight * pixel + self.gradient_weight * edges, "pixel": pixel}
        if self.perceptual is not None:
            losses["perceptual"] = self.perceptual.loss(made, high)
            losses["loss"] = losses["loss"] + self.perceptual_weight * losses["perceptual"]
        if self.critic is not None:
            losses["adversarial"] = relativistic_loss(self.critic(made).float(), self.critic(high).float().detach())
            losses["loss"] = losses["loss"] + self.gan_weight * losses["adversarial"]
        return losses

    def critic_loss(self, batch: Any) -> Losses:
        """Return the same relativistic loss with real and made pictures exchanged."""
        assert self.critic is not None  # noqa: S101 (only a phase where there is one)
        return {"loss": relativistic_loss(self.critic(batch["high"]).float(), self.critic(batch["made"]).float())}

    def evaluate(self, step: int, run_dir: Path) -> dict[str, float]:
        """Return the PSNR (border 4) on the middles of 16 held-out pictures, decoded ones with `vae`, and that of bicubic interpolation."""
        pairs = self.held_out_pairs(16)
        made = [psnr(enlarge_with(self.generator, low, self.device), high, 4) for low, high in pairs]
        bicubic = [psnr(degrade.enlarge(low, self.scale), high, 4) for low, high in pairs]
        return {"psnr": float(np.mean(made)), "psnr_bicubic": float(np.mean(bicubic))}

    def held_out_pairs(self, count: int) -> list[tuple[Any, Any]]:
        """Return (low, high) uint8 of the middles of up to `count` pictures that are not trained on, the low ones decoded with `vae`."""
        if not self.held_out:
            side = min(256, self.size)
            middle = [_middle(picture, side) for picture in self._pictures("validation", count)]
            self.held_out = self._pairs(middle)
            if self.trips:
                self.held_out = [(self._decoded(low), high) for low, high in self.held_out]
        return self.held_out

    def started(self) -> Upscaler | None:
        """Return the upscaler that the training starts from, or None."""
        return load_upscaler(self.start) if self.start else None

    def round_trips(self) -> Any:
        """Return the VAE that small pictures go through and back, or None."""
        return RoundTrips(Path(self.vae), self.device) if self.vae else None

    def lr_factor(self, step: int, steps: int) -> float:
        """See :meth:`Recipe.lr_factor`; with `milestones` the rate is halved at each of :data:`MILESTONES`."""
        if not self.milestones:
            return super().lr_factor(step, steps)
        rise = min(1.0, (step + 1) / self.warmup) if self.warmup > 0 else 1.0
        return rise * 0.5 ** sum(step >= share * steps for share in MILESTONES)

    def settings(self) -> dict[str, Any]:
        """See :meth:`Recipe.settings`."""
        return {key: value for key, value in super().settings().items() if key not in ADDED or value != ADDED[key]}

    def finish(self, out: Path, provenance: dict[str, Any]) -> list[Path]:
        """See :meth:`Recipe.finish`. Weights are stored as float16, which moves no pixel by more than 1/255, in BasicSR's layout, which
        spandrel reads too. The critic goes into a file of its own, `NAME-critic`, from which a later run continues."""
        provenance["metrics"] = provenance.get("metrics", {}) | self.evaluate(-1, out.parent)
        tensors = {key: tensor.to(torch.float16).contiguous() for key, tensor in to_basicsr(dict(self.generator.state_dict())).items()}
        config = asdict(self.config) | {"scale": self.config.scale}
        files = [save_bundle(out, tensors, BundleInfo("esrgan", config=config, provenance=provenance))]
        if self.critic is not None:
            about = BundleInfo("critic", config={"num_feat": self.critic_feat}, provenance=provenance)
            files.append(save_bundle(out.with_name(f"{out.stem}-critic{out.suffix}"), dict(self.critic.state_dict()), about))
        return files

    def _restore(self, critic: nn.Module, path: Path) -> None:
        """Put the critic of an earlier run into place. Raises :class:`InputError` where it has another number of features."""
        bundle = load_bundle(path, "critic")
        try:
            critic.load_state_dict(bundle.tensors)
        except RuntimeError as error:
            had = bundle.info.config.get("num_feat")
            raise InputError(
                f"start_critic: {path.name} has {had} features, critic_feat is {self.critic_feat}; set it to the file's"
            ) from error

    def _pictures(self, split: str, count: int) -> Iterable[Any]:
        if not self.data:
            from ...orchard.dataset import samples
            from ...orchard.render import render

            drawn = (render(sample.scene, self.size) for sample in samples(split, count, self.seed))
            return track(drawn, count, f"drawing {split} pictures", "picture")
        images = ImageFolder(self.data, captions=False)
        # Held out by position: every seventeenth picture is never trained on.
        kept = [i for i in range(len(images)) if (i % 17 == 16) == (split != "train")] or list(range(len(images)))
        chosen = kept[:count]
        return track((images.pixels(i) for i in chosen), len(chosen), "reading pictures", "picture")

    def _pairs(self, pictures: Iterable[Any]) -> list[tuple[Any, Any]]:
        """Return (low, high) uint8 of each picture that is large enough, cropped to sides that `scale`, the folding and the VAE divide."""
        multiple = self.scale * self.trips.factor if self.trips else 8
        pairs = []
        for picture in pictures:
            height, width = (side - side % multiple for side in picture.shape[:2])
            if min(height, width) >= self.patch:
                high = np.ascontiguousarray(picture[:height, :width])
                pairs.append((degrade.reduce(high, self.scale), high))
        if not pairs:
            raise DataError(f"no picture is at least {self.patch} px on both sides; use larger pictures or a smaller patch")
        return pairs

    def _decoded(self, low: Any) -> Any:
        """Return a picture (h, w, 3) uint8 after the VAE's encoder and decoder."""
        assert self.trips is not None  # noqa: S101 (only with a VAE)
        return to_bytes(self.trips.of(_tensor([low]) * 2 - 1)[0])


def relativistic_loss(wanted: Tensor, other: Tensor) -> Tensor:
    """Return the relativistic average loss (ESRGAN, equations 1 and 2) on a critic's logits: `wanted` should look more real than `other`
    does on average, and `other` less real than `wanted`."""
    more = functional.binary_cross_entropy_with_logits(wanted - other.mean(), torch.ones_like(wanted))
    less = functional.binary_cross_entropy_with_logits(other - wanted.mean(), torch.zeros_like(other))
    return (more + less) / 2


def start_as_bilinear(network: nn.Module, config: RRDBConfig) -> None:
    """Set the weights so that the network is bilinear interpolation (except at its borders), with the other features free to be learned.

    After nearest-neighbour doubling, the kernel (1, 2, 1) / 4 along each side is bilinear interpolation exactly. The first channels carry
    the picture through; the trunk adds nothing to them yet. A folding network (x2, x1) is left as it is.
    """
    if config.shuffle > 1 or config.num_feat < config.in_channels or config.in_channels != config.out_channels:
        return
    tent = torch.tensor([1.0, 2.0, 1.0]) / 4
    centre = torch.zeros(3, 3)
    centre[1, 1] = 1
    double = torch.outer(tent, tent)
    weights = to_basicsr(dict(network.state_dict()))  # the same memory under known names, whichever library made the network
    channels = config.in_channels
    for name in ("conv_last", "conv_body"):
        for what in ("weight", "bias"):
            weights[f"{name}.{what}"][:channels] = 0
    for name, kernel in {"conv_first": centre, "conv_up1": double, "conv_up2": double, "conv_hr": centre, "conv_last": centre}.items():
        weight, bias = weights[f"{name}.weight"], weights[f"{name}.bias"]
        weight[:channels], bias[:channels] = 0, 0
        weight[range(channels), range(channels)] = kernel


def enlarge_with(model: Callable[[Tensor], Tensor], low: Any, device: str | torch.device = "cpu") -> Any:
    """Enlarge a picture (h, w, 3) uint8 to (h*scale, w*scale, 3) uint8 by a network or an upscaler on `device`, in one piece."""
    with torch.no_grad():
        made = model(_tensor([low]).to(device))[0].float().clamp(0, 1)
    return (made * 255).round().to(torch.uint8).permute(1, 2, 0).cpu().numpy()


def _middle(picture: Any, side: int) -> Any:
    top, left = (max(0, (length - side) // 2) for length in picture.shape[:2])
    return picture[top : top + side, left : left + side]


def _detail(picture: Any) -> float:
    return float(np.abs(np.diff(picture.astype(np.int16), axis=0)).mean() + np.abs(np.diff(picture.astype(np.int16), axis=1)).mean())


def _draw(count: int, generator: torch.Generator) -> int:
    return int(torch.randint(count, (), generator=generator))


def _tensor(pictures: list[Any]) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(np.stack(pictures))).permute(0, 3, 1, 2).float() / 255
