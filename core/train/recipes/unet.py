"""Recipe `unet`: the diffusion model that draws a picture's latents from a text, with its text encoder trained along.

    python -m rapiddraw train unet --data DIR --out weights/my-unet.safetensors --set vae=weights/my-vae.safetensors \\
        --set text=weights/orchard-text.safetensors --set graph=weights/orchard-kg.safetensors

    L = E ||target - f(z_t, t, e)||^2 * w(t),   z_t = sqrt(abar_t) z_0 + sqrt(1 - abar_t) eps,   t uniform in [t_min, t_max)

`e` are the text encoder's tokens with knowledge injected (`core/knowledge`). The target follows `prediction` (eps, v or x0; Salimans and Ho
2022); `weighting=min_snr` is Hang et al. 2023 with gamma 5. With `prediction=flow` the target is eps - z_0 at z_t = (1 - s) z_0 + s eps,
s = t / 1000 (Lipman et al. 2023), and the bundle is a flow model in both hosts. One caption in ten is dropped, because classifier-free
guidance needs a prompt that says nothing. Knowledge is left out of a share of captions, so that the model also knows prompts at
`kg_scale = 0`. `renamed=p` writes random word pieces for a share of the names, whose vectors stay: as with a name that no caption held,
only the graph then tells what to draw, and the model cannot learn names by heart instead of reading the graph.

Two settings spend a short training where it learns most; the best possible model stays the same. `timesteps=logit_normal` draws
t = sigmoid(N(0.7, 1.1)) (Esser et al. 2024, section 3.1), the noise levels at which shapes are decided. `foreground=k` counts the error
inside the objects of a folder's segmentation maps k times.

Several text encoders, separated by commas, all read the same caption; their features stand side by side in each token.
`trained=cross_attention` with a `base` learns only how the U-Net attends to the text; the bundle then holds those weights alone and names
its base.

Papers: Rapid Diffusion (section 3.1.2, eq. 1; it does not mention dropped captions, but guides, for which they are needed); PanGu-Draw
(section 4.1 on `t_min`, `t_max` and `low_share`, section 5 on several text encoders and on buckets, section 7 on `style_prefix`).
"""

from __future__ import annotations

import logging
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import torch
from torch import nn

from ...bundles.format import BundleInfo, Schedule, halved, save_bundle
from ...bundles.load import difference, load_bundle
from ...data.buckets import bucket_sizes, index_embedding
from ...data.folder import ImageFolder
from ...diffusion.flow import noise_schedule
from ...diffusion.schedule import denoised_to_output
from ...diffusion.weighting import loss_weight
from ...errors import InputError
from ...networks import network_of
from ...orchard.captions import STYLE_PREFIXES, with_prefix
from ...slim.changes import changes_of
from ...text.encoder import to_bundle as text_to_bundle
from ..inputs.buckets import Buckets, bucket_latents
from ..inputs.encoder import LatentEncoder
from ..inputs.foreground import foreground_weights
from ..inputs.latents import folder_latents, low_pictures
from ..inputs.readers import Readers
from ..recipe import EpochOrder, Losses, python_random
from .align import fit_features, with_features
from .previews import write_previews
from .unet_settings import UnetSettings
from .unet_shapes import index_config, joined_ends, moved, told_index, unet_config

logger = logging.getLogger("rapiddraw")
ALIGN_CAPTIONS = 3000
"""How many captions of the folder are used to fit the new text encoders to the old one."""
ALIGN_PICTURES = 256
"""How many pictures of the folder are used to fit the latents of a new VAE to those of an old one."""
LOGIT_MEAN, LOGIT_STD = 0.7, 1.1


class Noised(NamedTuple):
    """A batch with noise: clean `latents` (B, C, h, w), timesteps `t` (B,), noise levels `sigma` (B,), `noisy` latents in the model's noise
    convention, text `tokens` (B, T, width)."""

    latents: torch.Tensor
    t: torch.Tensor
    sigma: torch.Tensor
    noisy: torch.Tensor
    tokens: torch.Tensor


@dataclass
class UnetRecipe(UnetSettings):
    """The recipe `unet`; its settings are those of :class:`UnetSettings`."""

    name: ClassVar[str] = "unet"

    def setup(self, device: torch.device) -> None:
        self.images = ImageFolder(self.data, size=None if self.buckets else self.size)
        encoder = LatentEncoder(self.vae, device)
        self.latent_space = encoder.space
        self.check_folder()
        self._load_networks(device)
        self.check_networks()
        self.sized: Buckets | None = None
        self.weights: list[torch.Tensor] | None = None
        if self.buckets:
            self._encode_buckets(encoder)
        else:
            self._encode_squares(device)

    def check_folder(self) -> None:
        """Raise where the folder lacks what this recipe needs. Called before anything is loaded or encoded."""
        if self.foreground > 1:
            self.images.map(0, "segmentation")

    def check_networks(self) -> None:
        """Raise :class:`InputError` where the networks do not fit each other or the settings. Called before anything is encoded."""

    def _load_networks(self, device: torch.device) -> None:
        from diffusers import UNet2DConditionModel

        self.readers = Readers(self.texts(), self.graph, device, [int(number) for number in self.reads])
        for encoder in self.readers.encoders:
            encoder.requires_grad_(self.text_lr > 0)
        if self.base:
            bundle = load_bundle(self.base, "unet")
            self._check_base(bundle.info)
            self.first_stage = bundle.info.provenance
            if self.base_vae:
                bundle = joined_ends(bundle, *self._between_latents(device))
            elif self.new_latents:
                bundle = moved(bundle, self.latent_space.channels, self.size // self.latent_space.factor)
            if self.align:
                bundle = with_features(bundle, self._fit_to(device))
            if self.buckets:
                bundle = told_index(bundle, self.readers.widths[-1])
            self.config = dict(bundle.info.config)
            self.unet = network_of(UNet2DConditionModel, bundle)
            for name, parameter in self.unet.named_parameters():
                parameter.requires_grad_(self._is_trained(name))
        else:
            channels, factor = self.latent_space.channels, self.latent_space.factor
            self.config = unet_config(channels, self.size // factor, self.widths, self.attention, sum(self.readers.widths), self.heads)
            if self.buckets:
                self.config |= index_config(self.readers.widths[-1])
            self.unet = UNet2DConditionModel(**self.config)
        self.unet.to(device)
        self.network: Any = torch.compile(self.unet, dynamic=False) if self.compile else self.unet
        if self.checkpointing:
            self.unet.enable_gradient_checkpointing()
        self.schedule_info = Schedule(prediction=self.prediction, t_min=self.t_min, t_max=self.t_max)
        self.noise_levels = noise_schedule(self.schedule_info)

    def _encode_buckets(self, encoder: LatentEncoder) -> None:
        sizes = bucket_sizes("structure", self.bucket_scale)
        self.sized = bucket_latents(self.images, encoder, sizes)
        if self.foreground > 1:
            shapes = [sizes[bucket] for bucket in self.sized.bucket_of()]
            cells = [(height // self.latent_space.factor, width // self.latent_space.factor) for height, width in shapes]
            self.weights = foreground_weights(self.images, self.foreground, cells, shapes)

    def _encode_squares(self, device: torch.device) -> None:
        low = set(low_pictures(len(self.images), self.low_share, self.seed))
        self.latents, _ = folder_latents(self.images, self.vae, device, low=low if self.low_kept else ())
        if self.foreground > 1:
            side = (int(self.latents.shape[-2]), int(self.latents.shape[-1]))
            self.weights = foreground_weights(self.images, self.foreground, [side] * len(self.images))
        self.use([i for i in range(len(self.images)) if self.low_kept or i not in low])

    def use(self, pictures: list[int]) -> None:
        """Train on these pictures of the folder alone."""
        self.used = pictures
        self.order = EpochOrder(len(pictures), self.batch_size, self.seed)

    def chosen(self, index: int) -> list[int]:
        """Return the pictures of batch `index`."""
        return [self.used[i] for i in self.order.indices(index)]

    def modules(self) -> dict[str, nn.Module]:
        return {"unet": self.unet, "text": self.readers.encoders[0]} if self.text_lr else {"unet": self.unet}

    def optimizers(self) -> dict[str, torch.optim.Optimizer]:
        groups: list[dict[str, Any]] = [{"params": [p for p in self.unet.parameters() if p.requires_grad]}]
        if self.text_lr:
            # The contrastive head is not part of the diffusion loss; the rest of the encoder and W are.
            (encoder,) = self.readers.encoders
            groups.append({"params": [*encoder.text_model.parameters(), *encoder.kg_projection.parameters()], "lr": self.text_lr})
        return {"main": self.adamw(groups)}

    def batch(self, index: int, generator: torch.Generator) -> dict[str, Any]:
        rng = python_random(generator)
        bucket = None
        if self.sized is not None:
            bucket, chosen, latents = self.sized.draw(self.batch_size, rng)
        else:
            chosen = self.chosen(index)
            latents = self.latents[chosen]
        captions = ["" if rng.random() < self.caption_dropout else self._caption(i, rng, generator) for i in chosen]
        read = self.readers.shared_out(captions, self.encoder_dropout, rng)
        kept = torch.tensor([[rng.random() >= self.knowledge_dropout] for _ in chosen])
        tokens = [self.readers.tokens(number, texts) for number, texts in enumerate(read)]
        if self.renamed:
            other = kept & torch.tensor([[rng.random() < self.renamed] for _ in chosen])
            tokens = [self.readers.renamed(number, its_tokens, other, generator) for number, its_tokens in enumerate(tokens)]
        taken: dict[str, Any] = {"latents": latents, "ids": [ids for ids, _ in tokens], "rows": [rows * kept for _, rows in tokens]}
        if bucket is not None:
            taken["index"] = torch.full((len(chosen),), bucket)
        return taken if self.weights is None else {**taken, "weights": torch.stack([self.weights[i] for i in chosen])}

    def caption(self, index: int, generator: torch.Generator) -> str:
        """Return one caption of picture `index`. In a share `style_prefix` of them the prefix of the picture's style replaces its words
        for the style."""
        text = self.images.caption(index, generator)
        style = (self.images.items[index].scene or {}).get("style")
        if not self.style_prefix or style not in STYLE_PREFIXES:
            return text
        return with_prefix(text, str(style)) if float(torch.rand((), generator=generator)) < self.style_prefix else text

    def noised(self, batch: dict[str, Any]) -> Noised:
        """Return the U-Net's inputs for `batch`: timesteps and noise are drawn here, the captions encoded."""
        latents = batch["latents"].float()
        t = self._draw_timesteps(len(latents)) + self.noise_levels.first_timestep
        sigma = self.noise_levels.sigma(t).to(latents.device)
        noisy = self.noise_levels.noise_scaling(sigma, torch.randn_like(latents), latents)
        return Noised(latents, t.to(latents.device), sigma, noisy, self.context(batch))

    def loss(self, batch: dict[str, Any]) -> Losses:
        asked = self.noised(batch)
        network_input = self.noise_levels.calculate_input(asked.sigma, asked.noisy)
        output = self.predict(batch, network_input, asked.t, asked.tokens).float()
        error = (output - denoised_to_output(self.prediction, asked.sigma, asked.latents, asked.noisy)).pow(2)
        if "weights" in batch:
            error = error * batch["weights"]
        error = error.flatten(1).mean(1)
        return {"loss": (error * loss_weight(self.weighting, self.prediction, asked.sigma)).mean(), "mse": error.mean()}

    def predict(self, batch: dict[str, Any], network_input: torch.Tensor, t: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        """Return the network's output for one batch. A recipe that adds something to the U-Net overrides this method."""
        beside: dict[str, Any] = {}
        if "index" in batch:
            pooled = self.readers.encode(batch["ids"], batch["rows"])[1].float()
            beside["class_labels"] = torch.cat([pooled, index_embedding(batch["index"]).to(pooled.device)], dim=1)
        return self.network(network_input, t, encoder_hidden_states=tokens, return_dict=False, **beside)[0]

    def context(self, batch: dict[str, Any]) -> torch.Tensor:
        """Return the tokens (B, length, width) that the U-Net attends to."""
        return self.readers.encode(batch["ids"], batch["rows"])[0]

    def evaluate(self, step: int, run_dir: Path) -> dict[str, float]:
        """Draw pictures of some captions into `run_dir`; a U-Net of many aspect ratios, or a recipe built on this one, draws none."""
        if self.name == "unet" and self.sized is None:
            write_previews(self, run_dir / f"samples-{step:08d}.png")
        return {}

    def finish(self, out: Path, provenance: dict[str, Any]) -> list[Path]:
        if self.base:
            provenance["first_stage"] = self.first_stage
        if "settings" in provenance:
            provenance["settings"]["text"] = ",".join(Path(path).name for path in self.texts())
        tensors = halved(self.unet.state_dict())
        slim = changes_of(self.unet).stored()
        info = BundleInfo("unet", self.config, self.latent_space, self.schedule_info, provenance=provenance, extra=slim)
        if self.trained != "all":
            tensors, info = difference(tensors, info, Path(self.base))
        written = [save_bundle(out, tensors, info)]
        if self.text_lr:
            text_out = out.with_name(out.name.replace("unet", "text") if "unet" in out.name else f"{out.stem}-text{out.suffix}")
            text_tensors, text_info = text_to_bundle(self.readers.encoders[0], provenance)
            written.append(save_bundle(text_out, text_tensors, text_info))
        return written

    def _check_base(self, info: BundleInfo) -> None:
        """Raise :class:`InputError` where `base` was trained in other latents, with another prediction or under another text width."""
        wrong = []
        if info.latent != self.latent_space and not self.new_latents:
            wrong.append(f"its latents are {info.latent}, those of {Path(self.vae).name} are {self.latent_space}")
        if not self.new_prediction and (info.schedule is None or info.schedule.prediction != self.prediction):
            wrong.append(f"it predicts {info.schedule.prediction if info.schedule else 'nothing known'}, prediction={self.prediction!r}")
        if info.config.get("cross_attention_dim") != sum(self.readers.widths):
            made = " + ".join(map(str, self.readers.widths))
            wrong.append(f"it attends to {info.config.get('cross_attention_dim')} features, the text encoder has {made}")
        if wrong:
            raise InputError(f"base={Path(self.base).name} does not fit: {'; '.join(wrong)}")

    def _draw_timesteps(self, count: int) -> torch.Tensor:
        """Return (count,) whole timesteps in [t_min, t_max)."""
        if self.timesteps == "uniform":
            return torch.randint(self.t_min, self.t_max, (count,))
        share = torch.sigmoid(LOGIT_MEAN + LOGIT_STD * torch.randn(count))
        return (self.t_min + share * (self.t_max - self.t_min)).long().clamp(max=self.t_max - 1)

    def _is_trained(self, name: str) -> bool:
        """Return whether a weight is trained: every weight, or the weights of attention and of the norms before it; the index's
        embedding always."""
        parts = {"attention": (".attn1.", ".norm1.", ".attn2.", ".norm2."), "cross_attention": (".attn2.", ".norm2.")}.get(self.trained)
        block = ".transformer_blocks." in name
        return parts is None or name.startswith("class_embedding.") or (block and any(part in name for part in parts))

    @torch.no_grad()
    def _fit_to(self, device: torch.device) -> torch.Tensor:
        """Return the matrix that takes the readers' features to those of the encoder in `align`, fitted on captions of the folder."""
        old = Readers([self.align], self.graph, device)

        def pairs() -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
            rng, generator = random.Random(self.seed), torch.Generator().manual_seed(self.seed)
            for first in range(0, min(len(self.images), ALIGN_CAPTIONS), 64):
                captions = [self._caption(i, rng, generator) for i in range(first, min(first + 64, len(self.images)))] + [""]
                read = self.readers.shared_out(captions, 0.0, rng)
                new = [self.readers.tokens(number, texts) for number, texts in enumerate(read)]
                old_ids, old_rows = old.tokens(0, captions)
                encoded = self.readers.encode([ids for ids, _ in new], [rows for _, rows in new])[0]
                yield encoded.cpu(), old.encode([old_ids], [old_rows])[0].cpu()

        fitted, explained = fit_features(pairs())
        logger.info("least squares explain %.1f%% of the features of %s", 100 * explained, Path(self.align).name)
        return fitted

    def _between_latents(self, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the matrices from the latents of `vae` to those of `base_vae` and back, fitted on pictures of the folder."""
        new, old = LatentEncoder(self.vae, device), LatentEncoder(self.base_vae, device)
        if new.space.factor != old.space.factor:
            raise InputError(f"base_vae divides sides by {old.space.factor}, vae by {new.space.factor}: leave base_vae out")
        pictures = torch.stack([self.images.image(i) for i in range(min(len(self.images), ALIGN_PICTURES))])
        pairs = [[encoder.encode(part).float().flatten(2).mT for encoder in (new, old)] for part in pictures.split(16)]
        to_old, known = fit_features((a, b) for a, b in pairs)
        to_new, found = fit_features((b, a) for a, b in pairs)
        logger.info("least squares explain %.0f%% of the old latents and %.0f%% of the new ones", 100 * known, 100 * found)
        return to_old, to_new

    def _caption(self, index: int, rng: random.Random, generator: torch.Generator) -> str:
        first = self.caption(index, generator)
        return f"{first} {self.caption(index, generator)}" if self.joined and rng.random() < self.joined else first
