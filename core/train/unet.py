"""The latent diffusion U-Net (Rapid Diffusion, section 3.2, eq. 1) with its text encoder fine-tuned along.

    L = E ||target - f(z_t, t, e)||^2 * w(t),   z_t = sqrt(abar_t) z_0 + sqrt(1 - abar_t) eps,   t uniform in [t_min, t_max)

`e` are the text encoder's tokens with knowledge injected (`core/knowledge`). The target follows `prediction` (eps, v or x0; Salimans and Ho
2022); `weighting="min_snr"` is Hang et al. 2023 with gamma 5. One caption in ten is dropped, so that classifier-free guidance has a null
prompt to lean on (the paper does not say so; without it guidance is undefined), and knowledge is left out of a share of captions, so that
`kg_scale = 0` is a prompt the model knows.

Two settings put a short training where it learns most, and leave the optimum where it is: `timesteps="logit_normal"` draws
t = sigmoid(N(0.7, 1.1)) (Esser et al. 2024, section 3.1), where shapes are decided, and `foreground=k` counts the error inside the objects
of a folder's segmentation maps k times.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import torch
from torch import nn

from ..bundle import Bundle, BundleInfo, Schedule, load_bundle, save_bundle
from ..data.folder import ImageFolder
from ..diffusion.schedule import NoiseSchedule, denoised_to_output
from ..diffusion.weighting import WEIGHTINGS, loss_weight
from ..errors import InputError
from ..knowledge.graph import load_knowledge
from ..knowledge.linking import wordpiece_linker
from ..networks import network_of
from ..text.encoder import load_text_encoder
from ..text.encoder import to_bundle as text_to_bundle
from .latents import folder_latents, low_pictures
from .recipe import EpochOrder, Losses, Recipe
from .text import KnowledgeTable, tokenize_linked

LOGIT_MEAN, LOGIT_STD = 0.7, 1.1
FOREGROUND_CLASSES = (2, 3)
"""Of the Orchard's segmentation maps: a fruit's body and its topper."""


class Noised(NamedTuple):
    """A batch with noise on it: clean `latents` (B, C, h, w), timesteps `t` (B,), noise levels `sigma` (B,), `noisy` latents in sigma
    space, text `tokens` (B, T, width)."""

    latents: torch.Tensor
    t: torch.Tensor
    sigma: torch.Tensor
    noisy: torch.Tensor
    tokens: torch.Tensor


@dataclass
class UnetRecipe(Recipe):
    """`data` is an image folder with captions; `vae`, `text` and `graph` are bundles. The defaults train the shipped Orchard model."""

    name: ClassVar[str] = "unet"

    batch_size: int = 32
    lr: float = 1e-3
    text_lr: float = 2e-4  # of the text encoder; 0 freezes it
    ema: float = 0.999
    precision: str = "bf16"
    vae: str = ""
    text: str = ""
    graph: str = ""  # optional: without it no knowledge is injected
    base: str = ""  # a U-Net bundle to fine-tune
    new_latents: bool = False  # move `base` to another VAE: its first and last convolutions start anew
    size: int = 128  # side of a picture in pixels
    widths: tuple[int, ...] = (64, 96, 160)
    attention: tuple[int, ...] = (0, 1, 1)  # levels with self- and cross-attention
    heads: int = 4
    prediction: str = "v"
    weighting: str = "none"  # "none" (every timestep alike, which learns layouts sooner) or "min_snr"
    t_min: int = 0
    t_max: int = 1000
    timesteps: str = "uniform"  # in [t_min, t_max); "logit_normal" draws the middle and upper ones more often
    low_share: float = 0.0  # of the pictures, known at half the size only: enlarged (PanGu-Draw, section 3.1, on structure data)
    low_kept: bool = True  # False leaves those pictures out instead, to compare
    foreground: float = 1.0  # how often the error inside segmented objects counts; above 1 the folder must hold segmentation maps
    caption_dropout: float = 0.1
    knowledge_dropout: float = 0.2

    def setup(self, device: torch.device) -> None:
        from diffusers import UNet2DConditionModel

        self.images = ImageFolder(self.data, size=self.size)
        low = set(low_pictures(len(self.images), self.low_share, self.seed))
        self.used = [i for i in range(len(self.images)) if self.low_kept or i not in low]
        self.latents, self.latent_space = folder_latents(self.images, self.vae, device, low=low if self.low_kept else ())
        self.weights = self._foreground_weights() if self.foreground > 1 else None
        self.order = EpochOrder(len(self.used), self.batch_size, self.seed)
        self.encoder = load_text_encoder(load_bundle(self.text, "text")).to(device)
        self.encoder.requires_grad_(self.text_lr > 0)
        self.table = None
        if self.graph:
            graph = load_knowledge(self.graph)
            self.table = KnowledgeTable(graph, wordpiece_linker(graph, self.encoder.tokenizer))
            self.table.vectors = self.table.vectors.to(device)
        if self.base:
            bundle = load_bundle(self.base, "unet")
            self._check_base(bundle.info)
            self.first_stage = bundle.info.provenance
            self.config = dict(bundle.info.config)
            if self.new_latents:
                bundle = self._moved(bundle)
            self.unet = network_of(UNet2DConditionModel, bundle).requires_grad_(True)
        else:
            channels, factor = self.latent_space.channels, self.latent_space.factor
            self.config = unet_config(channels, self.size // factor, self.widths, self.attention, self.encoder.width, self.heads)
            self.unet = UNet2DConditionModel(**self.config)
        self.unet.to(device)
        self.schedule_info = Schedule(prediction=self.prediction, t_min=self.t_min, t_max=self.t_max)
        self.noise_levels = NoiseSchedule(self.schedule_info)

    def modules(self) -> dict[str, nn.Module]:
        return {"unet": self.unet, "text": self.encoder} if self.text_lr else {"unet": self.unet}

    def optimizers(self) -> dict[str, torch.optim.Optimizer]:
        groups: list[dict[str, Any]] = [{"params": list(self.unet.parameters())}]
        if self.text_lr:
            # The contrastive head is not part of the diffusion loss; the rest of the encoder and W are.
            tuned = [*self.encoder.text_model.parameters(), *self.encoder.kg_projection.parameters()]
            groups.append({"params": tuned, "lr": self.text_lr})
        return {"main": self.adamw(groups)}

    def batch(self, index: int, generator: torch.Generator) -> dict[str, torch.Tensor]:
        rng = random.Random(int(torch.randint(2**62, (1,), generator=generator)))
        chosen = [self.used[i] for i in self.order.indices(index)]
        captions = ["" if rng.random() < self.caption_dropout else self.caption(i, generator) for i in chosen]
        ids, rows = self._tokens(captions)
        kept = torch.tensor([[rng.random() >= self.knowledge_dropout] for _ in chosen])
        taken = {"latents": self.latents[chosen], "ids": ids, "rows": rows * kept}
        return taken if self.weights is None else {**taken, "weights": self.weights[chosen]}

    def caption(self, index: int, generator: torch.Generator) -> str:
        """One caption of picture `index`."""
        return self.images.caption(index, generator)

    def noised(self, batch: dict[str, torch.Tensor]) -> Noised:
        """What a U-Net is asked about `batch`: timesteps and noise are drawn here, the captions encoded."""
        latents = batch["latents"].float()
        t = self._draw_timesteps(len(latents))
        sigma = self.noise_levels.sigma(t).to(latents.device)
        noisy = latents + sigma.reshape(-1, 1, 1, 1) * torch.randn_like(latents)
        tokens = self.context(batch)
        return Noised(latents, t.to(latents.device), sigma, noisy, tokens)

    def loss(self, batch: dict[str, torch.Tensor]) -> Losses:
        asked = self.noised(batch)
        network_input = self.noise_levels.calculate_input(asked.sigma, asked.noisy)
        output = self.predict(batch, network_input, asked.t, asked.tokens).float()
        error = (output - denoised_to_output(self.prediction, asked.sigma, asked.latents, asked.noisy)).pow(2)
        if "weights" in batch:
            error = error * batch["weights"]
        error = error.flatten(1).mean(1)
        return {"loss": (error * loss_weight(self.weighting, self.prediction, asked.sigma)).mean(), "mse": error.mean()}

    def predict(self, batch: dict[str, torch.Tensor], network_input: torch.Tensor, t: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        """The network's output for one batch; what another recipe adds to the U-Net, it adds here."""
        return self.unet(network_input, t, encoder_hidden_states=tokens, return_dict=False)[0]

    def context(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        """The tokens (B, length, width) that the U-Net attends to."""
        extra = self.encoder.knowledge(self.table.vectors[batch["rows"]]) if self.table is not None else None
        return self.encoder.encode_ids(batch["ids"], extra)[0]

    def finish(self, out: Path, provenance: dict[str, Any]) -> list[Path]:
        if self.base:
            provenance["first_stage"] = self.first_stage
        tensors = {key: tensor.half() for key, tensor in self.unet.state_dict().items()}
        info = BundleInfo("unet", self.config, self.latent_space, self.schedule_info, provenance=provenance)
        written = [save_bundle(out, tensors, info)]
        if self.text_lr:
            text_out = out.with_name(out.name.replace("unet", "text") if "unet" in out.name else f"{out.stem}-text{out.suffix}")
            text_tensors, text_info = text_to_bundle(self.encoder, provenance)
            written.append(save_bundle(text_out, text_tensors, text_info))
        return written

    def check(self) -> None:
        super().check()
        for key in ("data", "vae", "text"):
            if not getattr(self, key):
                raise InputError(
                    f"{key} is empty: the U-Net is trained on a folder of captioned images, in a VAE's latents, under a text encoder"
                )
        if any(width % 32 for width in self.widths) or len(self.widths) != len(self.attention):
            raise InputError(f"widths={self.widths}, attention={self.attention}: expected multiples of 32 and as many flags as widths")
        if self.new_latents and not self.base:
            raise InputError("new_latents is set and base is empty: name the U-Net bundle that is to be moved to another VAE")
        if not 0 <= self.t_min < self.t_max <= 1000:
            raise InputError(f"t_min={self.t_min}, t_max={self.t_max}: expected 0 <= t_min < t_max <= 1000")
        if not 0 <= self.low_share <= 1 or (self.low_share == 1 and not self.low_kept):
            raise InputError(f"low_share={self.low_share!r}: expected a share from 0 to 1, and pictures left to train on")
        if self.timesteps not in ("uniform", "logit_normal"):
            raise InputError(f"timesteps={self.timesteps!r}: expected 'uniform' or 'logit_normal'")
        if not 1 <= self.foreground <= 100:
            raise InputError(f"foreground={self.foreground!r}: expected 1 (every pixel alike) to 100")
        if self.weighting not in WEIGHTINGS:
            raise InputError(f"weighting={self.weighting!r}: expected {' or '.join(WEIGHTINGS)}")

    def _check_base(self, info: BundleInfo) -> None:
        """A U-Net can be trained further only in the latents, with the prediction and under the text width it was trained with."""
        wrong = []
        if info.latent != self.latent_space and not self.new_latents:
            wrong.append(f"its latents are {info.latent}, those of {Path(self.vae).name} are {self.latent_space}")
        if info.schedule is None or info.schedule.prediction != self.prediction:
            wrong.append(f"it predicts {info.schedule.prediction if info.schedule else 'nothing known'}, prediction={self.prediction!r}")
        if info.config.get("cross_attention_dim") != self.encoder.width:
            wrong.append(f"it attends to {info.config.get('cross_attention_dim')} features, the text encoder has {self.encoder.width}")
        if wrong:
            raise InputError(f"base={Path(self.base).name} does not fit: {'; '.join(wrong)}")

    def _moved(self, bundle: Bundle) -> Bundle:
        """`bundle` for the latents of this VAE: new convolutions at both ends, every other weight as it was."""
        from diffusers import UNet2DConditionModel

        channels = self.latent_space.channels
        self.config |= {"in_channels": channels, "out_channels": channels, "sample_size": self.size // self.latent_space.factor}
        fresh = UNet2DConditionModel(**self.config).state_dict()
        ends = {key: fresh[key] for key in bundle.tensors if key.startswith(("conv_in.", "conv_out."))}
        return Bundle(replace(bundle.info, config=self.config), {**bundle.tensors, **ends})

    def _draw_timesteps(self, count: int) -> torch.Tensor:
        """(count,) whole timesteps in [t_min, t_max)."""
        if self.timesteps == "uniform":
            return torch.randint(self.t_min, self.t_max, (count,))
        share = torch.sigmoid(LOGIT_MEAN + LOGIT_STD * torch.randn(count))
        return (self.t_min + share * (self.t_max - self.t_min)).long().clamp(max=self.t_max - 1)

    def _foreground_weights(self) -> torch.Tensor:
        """(N, 1, h, w): `foreground` inside an object, 1 outside, by the share of a latent's pixels; the mean over all is 1."""
        side = (int(self.latents.shape[-2]), int(self.latents.shape[-1]))
        covered = []
        for index in range(len(self.images)):
            classes = torch.from_numpy(self.images.map(index, "segmentation").copy())
            inside = torch.isin(classes, torch.tensor(FOREGROUND_CLASSES, dtype=classes.dtype)).float()
            covered.append(nn.functional.adaptive_avg_pool2d(inside[None], side))
        weights = 1 + (self.foreground - 1) * torch.stack(covered)
        return weights / weights.mean()

    def _tokens(self, captions: list[str]) -> tuple[torch.Tensor, torch.Tensor]:
        """Ids and knowledge rows (B, length), always padded to the full length: the U-Net attends to the padding too."""
        ids, rows = tokenize_linked(self.encoder, self.table, captions)
        missing = self.encoder.length - ids.shape[1]
        pad = int(self.encoder.config["pad_token_id"])
        return nn.functional.pad(ids, (0, missing), value=pad), nn.functional.pad(rows, (0, missing))


def unet_config(channels: int, side: int, widths: tuple[int, ...], attention: tuple[int, ...], context: int, heads: int) -> dict[str, Any]:
    """Arguments of `UNet2DConditionModel` with one resnet a level, in shapes that ComfyUI's own `UNetModel` can carry."""
    return {
        "sample_size": side,
        "in_channels": channels,
        "out_channels": channels,
        "block_out_channels": list(widths),
        "layers_per_block": 1,
        "down_block_types": ["CrossAttnDownBlock2D" if a else "DownBlock2D" for a in attention],
        "up_block_types": ["CrossAttnUpBlock2D" if a else "UpBlock2D" for a in reversed(attention)],
        "cross_attention_dim": context,
        "attention_head_dim": heads,  # diffusers' historical name: it is the number of heads
        "norm_num_groups": 32,
    }
