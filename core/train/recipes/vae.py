"""Recipe `vae`: an autoencoder between pictures and the small latents that a U-Net works in.

    python -m rapiddraw train vae --data DIR --out weights/my-vae.safetensors

It trains diffusers' `AutoencoderKL` with four terms: L1 and L2 on pixels in whitened colours, L1 on pixel gradients (which keeps edges;
no perceptual network is available here) and a small KL term. `decoder_only` continues from `base` with the encoder frozen and noise added
to its latents: the latent space stays as it is, so that every U-Net trained in it stays valid, while the decoder becomes sharper and
learns to forgive small errors of a U-Net. `gan_weight` adds a critic with a small fixed weight: what the latents do not hold, such as
grain and ripples, then comes out sharp and plausible instead of averaged, at a cost in PSNR. (VQGAN's adaptive weight broke the colours.)

Paper: the KL-regularised decoder of Rapid Diffusion (section 3.1.3), after Rombach et al. 2022 (section 3.1).
The critic is ESRGAN's (Wang et al. 2018, section 3.2).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import nn
from torch.nn import functional

from ...bundles.format import BundleInfo, LatentSpace, halved, save_bundle
from ...bundles.load import load_bundle
from ...data.folder import ImageFolder
from ...errors import InputError
from ...networks import network_of
from ...upscale.basicsr_shim import discriminator_class
from ..inputs.crops import Crops
from ..inputs.vae_start import pass_through
from ..muon import Muon, matrices_of
from ..recipe import EpochOrder, Losses, Recipe
from .esrgan import relativistic_loss

CRITIC_FEATURES = 32


@dataclass
class VaeRecipe(Recipe):
    """Settings of the recipe `vae`. `data` is an image folder (captions are not needed). The defaults train the shipped Orchard VAE: 128
    px, factor 8, 8 channels."""

    name: ClassVar[str] = "vae"
    bundles: ClassVar[Mapping[str, str]] = {"base": "vae"}

    batch_size: int = 4
    lr: float = 1e-3
    precision: str = "bf16"
    size: int = 128  # side of a training picture in pixels
    widths: tuple[int, ...] = (32, 32, 64, 128)  # block_out_channels; each width after the first halves the sides
    latent_channels: int = 8  # channels of the latents
    l2_weight: float = 4.0  # weight of the squared error
    gradient_weight: float = 1.0  # weight of the L1 on pixel gradients
    kl_weight: float = 1e-5  # weight of the KL divergence from a standard normal distribution
    base: str = ""  # a VAE bundle to continue from
    decoder_only: bool = False  # train the decoder alone on the base's latents
    latent_noise: float = 0.1  # decoder_only: standard deviation of noise on the latents, in units of their own
    layers_per_block: int = 1  # residual blocks a level and way; the decoder has one more
    start: str = "random"  # or "pass_through": a blurred copy of the picture comes out before the first step (one width of 96 or more)
    optimizer: str = "adamw"  # or "muon" for the inner convolutions and attention, with AdamW on the rest
    crop: int = 0  # side of the crops to train on, in pixels; 0 trains on whole pictures
    crops: int = 4  # crops for each picture of `batch_size`
    gan_weight: float = 0.0  # weight of the relativistic adversarial term, such as 0.03; needs basicsr
    on_objects: float = 0.85  # share of the crops that lie around an object (needs segmentation maps)

    def setup(self, device: torch.device) -> None:
        from diffusers import AutoencoderKL

        self.images = ImageFolder(self.data, size=self.size, cache=True)
        self.order = EpochOrder(len(self.images), self.batch_size, self.seed)
        self.cutter = Crops(self.images, self.crop, self.on_objects)
        self.base_latent: LatentSpace | None = None
        if self.base:
            bundle = load_bundle(self.base, "vae")
            if bundle.info.latent is None:
                raise InputError(f"{self.base} does not say what latent space it makes; it cannot be continued")
            self.config, self.base_latent = dict(bundle.info.config), bundle.info.latent
            self.latent_std = 1 / bundle.info.latent.scale
            self.first_stage = bundle.info.provenance
            self.vae = network_of(AutoencoderKL, bundle).requires_grad_(True)
        else:
            self.config = vae_config(self.widths, self.latent_channels, self.layers_per_block)
            self.vae = AutoencoderKL(**self.config)
            if self.start == "pass_through":
                pass_through(self.vae, self._some_pictures(64))
            else:
                # Start almost without sampling noise: with unit variance at first, the signal drowns for hundreds of steps.
                nn.init.constant_(self.vae.quant_conv.bias[self.latent_channels :], -6.0)
        self.colours = whitening(self._some_pictures(200)).to(device)
        self.vae.to(device, memory_format=torch.channels_last)
        if self.decoder_only:
            for module in (self.vae.encoder, self.vae.quant_conv):
                module.requires_grad_(False)
        self.critic: nn.Module | None = None
        if self.gan_weight > 0:
            self.critic = discriminator_class()(3, num_feat=CRITIC_FEATURES).to(device, memory_format=torch.channels_last)

    def modules(self) -> dict[str, nn.Module]:
        return {"vae": self.vae} if self.critic is None else {"vae": self.vae, "critic": self.critic}

    def ema_names(self) -> list[str]:
        """Return the autoencoder alone: the critic is not kept."""
        return ["vae"]

    def phases(self) -> list[tuple[list[str], Callable[[Any], Losses]]]:
        """Return the autoencoder's step, then the critic's where there is one."""
        if self.critic is None:
            return []
        own = ["main", "muon"] if self.optimizer == "muon" else ["main"]
        return [(own, self.loss), (["critic"], self.critic_loss)]

    def optimizers(self) -> dict[str, torch.optim.Optimizer]:
        own = {} if self.critic is None else {"critic": self.adamw(self.critic.parameters(), betas=(0.9, 0.99))}
        return {**self._own_optimizers(), **own}

    def _own_optimizers(self) -> dict[str, torch.optim.Optimizer]:
        if self.optimizer == "adamw":
            return {"main": self.adamw([p for p in self.vae.parameters() if p.requires_grad], betas=(0.9, 0.99))}
        ends = [part for half in (self.vae.encoder, self.vae.decoder) for part in (half.conv_in, half.conv_out)]
        inner, rest = matrices_of(self.vae, [*ends, self.vae.quant_conv, self.vae.post_quant_conv])
        return {"main": self.adamw(rest, betas=(0.9, 0.99)), "muon": Muon(inner, lr=self.lr)}

    def batch(self, index: int, generator: torch.Generator) -> dict[str, torch.Tensor]:
        chosen = self.order.indices(index)
        if not self.crop:
            return {"pictures": torch.stack([self.images.image(i) for i in chosen])}
        return {"pictures": torch.stack([self.cutter.crop(i, generator) for i in chosen for _ in range(self.crops)])}

    def loss(self, taken: dict[str, torch.Tensor]) -> Losses:
        batch = taken["pictures"] = taken["pictures"].contiguous(memory_format=torch.channels_last)
        if self.decoder_only:
            with torch.no_grad():
                latent = self.vae.encode(batch).latent_dist.mode()
            strength = self.latent_noise * torch.rand(len(batch), 1, 1, 1, device=batch.device) * self.latent_std
            latent = latent + strength * torch.randn_like(latent)
            kl = batch.new_zeros(())
        else:
            posterior = self.vae.encode(batch).latent_dist
            latent = posterior.sample()
            kl = posterior.kl().mean()
        decoded = self.vae.decode(latent).sample.float()
        # Elementwise on purpose: as a matrix product it would be done in half precision under autocast.
        error = ((decoded - batch)[:, None] * self.colours[None, :, :, None, None]).sum(2)
        pixel, l2 = error.abs().mean(), error.pow(2).mean()
        gradient = sum((decoded.diff(dim=axis) - batch.diff(dim=axis)).abs().mean() for axis in (-1, -2))
        total = pixel + self.l2_weight * l2 + self.gradient_weight * gradient + self.kl_weight * kl
        losses = {"loss": total, "pixel": pixel, "l2": l2, "kl": kl}
        if self.critic is not None:
            taken["decoded"] = decoded.detach()
            losses["adversarial"] = relativistic_loss(self.critic(decoded).float(), self.critic(batch).float().detach())
            losses["loss"] = total + self.gan_weight * losses["adversarial"]
        return losses

    def critic_loss(self, taken: dict[str, torch.Tensor]) -> Losses:
        """Return the relativistic loss with real and decoded pictures exchanged."""
        assert self.critic is not None  # noqa: S101 (only a phase where there is one)
        return {"loss": relativistic_loss(self.critic(taken["pictures"]).float(), self.critic(taken["decoded"]).float())}

    @torch.no_grad()
    def evaluate(self, step: int, run_dir: Path) -> dict[str, float]:
        pictures = self._some_pictures(64)
        return {"psnr": _psnr(self._round_trip(pictures), pictures)}

    @torch.no_grad()
    def finish(self, out: Path, provenance: dict[str, Any]) -> list[Path]:
        pictures = self._some_pictures(256)
        provenance.setdefault("metrics", {})["psnr_training_pictures"] = round(_psnr(self._round_trip(pictures), pictures), 2)
        if self.base:
            provenance["first_stage"] = self.first_stage
        if not self.decoder_only:
            self._whiten(pictures)
        latent = self.base_latent if self.decoder_only else self._measure(pictures)
        return [save_bundle(out, halved(self.vae.state_dict()), BundleInfo("vae", self.config, latent=latent, provenance=provenance))]

    def check(self) -> None:
        super().check()
        if any(width % 32 for width in self.widths) or len(self.widths) < 2:
            raise InputError(f"widths={self.widths}: expected at least two multiples of 32 (32 norm groups, as ComfyUI's own VAE has)")
        if self.size % 2 ** (len(self.widths) - 1):
            raise InputError(f"size={self.size}: expected a multiple of the factor {2 ** (len(self.widths) - 1)}")
        if self.start not in ("random", "pass_through") or self.optimizer not in ("adamw", "muon"):
            raise InputError(f"start={self.start!r}, optimizer={self.optimizer!r}: expected random or pass_through, adamw or muon")
        if self.start == "pass_through" and (len(set(self.widths)) > 1 or self.widths[0] < 96 or len(self.widths) < 3):
            raise InputError(
                f"start=pass_through needs at least three levels of one width of 96 or more, such as 96,96,96,96, not {self.widths}"
            )
        if self.crop and (not 32 <= self.crop <= self.size or self.crop % 2 ** (len(self.widths) - 1) or not 0 <= self.on_objects <= 1):
            raise InputError(f"crop={self.crop}, on_objects={self.on_objects}: expected 32 to {self.size} pixels, and a share from 0 to 1")
        if not 0 <= self.gan_weight <= 10:
            raise InputError(f"gan_weight={self.gan_weight}: expected 0 to 10, such as 0.03")
        if self.decoder_only and not self.base:
            raise InputError("decoder_only trains the decoder of an existing VAE: give it as base=FILE.safetensors")

    def _some_pictures(self, count: int) -> torch.Tensor:
        """Return about `count` pictures, spread evenly over the folder: (B, 3, size, size) in [-1, 1]."""
        return torch.stack([self.images.image(i) for i in range(0, len(self.images), max(1, len(self.images) // count))])

    def _round_trip(self, pictures: torch.Tensor) -> torch.Tensor:
        device = next(self.vae.parameters()).device
        parts = [self.vae.decode(self.vae.encode(p.to(device)).latent_dist.mode()).sample.cpu() for p in pictures.split(8)]
        return torch.cat(parts).clamp(-1, 1)

    def _encode(self, pictures: torch.Tensor) -> torch.Tensor:
        device = next(self.vae.parameters()).device
        return torch.cat([self.vae.encode(p.to(device)).latent_dist.mode().float().cpu() for p in pictures.split(8)])

    def _whiten(self, pictures: torch.Tensor) -> None:
        """Fold each latent channel's mean and scale into the 1x1 convolutions around the latents: a bundle's latent space has one scalar,
        and a U-Net learns channels of one size best."""
        latents, channels = self._encode(pictures), self.vae.config.latent_channels
        mean = latents.mean((0, 2, 3)).to(self.vae.quant_conv.bias)
        std = latents.std((0, 2, 3)).clamp_min(1e-4).to(mean)
        into, back = self.vae.quant_conv, self.vae.post_quant_conv
        into.bias[:channels].sub_(mean)
        for values in (into.weight[:channels], into.bias[:channels]):
            values.div_(std.reshape(-1, *[1] * (values.dim() - 1)))
        into.bias[channels:].sub_(2 * std.log())  # of the log variance
        back.bias.add_(back.weight[:, :, 0, 0] @ mean)
        back.weight.mul_(std[None, :, None, None])

    def _measure(self, pictures: torch.Tensor) -> LatentSpace:
        """Return the latent space: the scale that gives unit variance, and a least-squares map from latents to colours for live
        previews."""
        latents = self._encode(pictures)
        scale = 1 / float(latents.std())
        factor = 2 ** (len(self.config["block_out_channels"]) - 1)
        colours = functional.avg_pool2d(pictures, factor).permute(0, 2, 3, 1).reshape(-1, 3)
        rows = (latents * scale).permute(0, 2, 3, 1).reshape(-1, latents.shape[1])
        solution = torch.linalg.lstsq(torch.cat([rows, torch.ones(len(rows), 1)], 1), colours).solution
        rounded = [tuple(round(float(v), 4) for v in row) for row in solution]
        return LatentSpace(latents.shape[1], factor, scale, 0.0, tuple(rounded[:-1]), rounded[-1])  # type: ignore[arg-type]


def vae_config(widths: tuple[int, ...], latent_channels: int, layers_per_block: int = 1) -> dict[str, Any]:
    """Return the arguments of `AutoencoderKL`, in shapes that ComfyUI's own VAE can carry."""
    return {
        "in_channels": 3,
        "out_channels": 3,
        "down_block_types": ["DownEncoderBlock2D"] * len(widths),
        "up_block_types": ["UpDecoderBlock2D"] * len(widths),
        "block_out_channels": list(widths),
        "layers_per_block": layers_per_block,
        "latent_channels": latent_channels,
        "norm_num_groups": 32,
        "mid_block_add_attention": True,
    }


def whitening(pictures: torch.Tensor) -> torch.Tensor:
    """Return the matrix (3, 3) that turns colours into their principal components over `pictures` (B, 3, H, W), scaled so that all vary as
    much as the one that varies most.

    Where most pictures run from blue to orange, an error from red to orange is small in RGB, and hue is learned long after brightness.
    """
    variances, components = torch.linalg.eigh(torch.cov(pictures.permute(1, 0, 2, 3).reshape(3, -1)))
    return (variances.max() / variances.clamp_min(1e-4)).sqrt()[:, None] * components.T


def _psnr(a: torch.Tensor, b: torch.Tensor) -> float:
    """Return the peak signal-to-noise ratio in dB of pictures in [-1, 1], as the mean over pictures."""
    error = ((a - b) / 2).pow(2).flatten(1).mean(1).clamp_min(1e-12)
    return float((-10 * error.log10()).mean())
