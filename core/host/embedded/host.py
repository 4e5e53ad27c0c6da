"""The embedded host: diffusers and transformers networks behind ComfyUI's sockets, for headless runs, tests and first steps.

It is not a second ComfyUI: no memory management beyond one device, no LoRA, no areas or masks on conditionings. What it does, it does by
ComfyUI's rules, so that a graph gives the same picture in both.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ...bundles.load import load_bundle
from ...diffusion.schedule import SCHEDULER_NAMES
from ...errors import InputError
from ...progress import Progress
from ...text.encoder import load_text_encoder
from .. import tiling
from ..fit import check_fit
from .clip import Clip
from .ksampler import ksample, named_sampler, sample_latent, sampler_names, scheduled_sigmas
from .latent import EmptyNoise, RandomNoise, fit_empty_latent
from .model import Model, load_model
from .sampling import CFGGuider, Sampler
from .vae import Vae, load_vae

if TYPE_CHECKING:
    from ...attention.patch import AttentionPatch
    from ...knowledge.attach import KnowledgeReader
    from ...knowledge.graph import KnowledgeGraph
    from ...knowledge.linking import EntityLink
    from ...knowledge.projection import Projection
    from ..denoiser import Denoiser


class EmbeddedHost:
    """The :class:`~rapiddraw.core.host.protocol.Host` where there is no ComfyUI. `$RAPIDDRAW_DEVICE` overrides the choice of device."""

    name = "embedded"
    saves_graphs = True

    def __init__(self, device: str | torch.device | None = None) -> None:
        chosen = device or os.environ.get("RAPIDDRAW_DEVICE") or ("cuda" if torch.cuda.is_available() else "cpu")
        try:
            self.device = torch.device(chosen)
        except RuntimeError as error:
            raise InputError(f"RAPIDDRAW_DEVICE={chosen!r} is no torch device; give cpu or cuda") from error

    def load_bundles(self, unet: Path, text: Path, vae: Path) -> tuple[Model, Clip, Vae]:
        """See :meth:`Host.load_bundles`."""
        parts = load_bundle(unet, "unet"), load_bundle(text, "text"), load_bundle(vae, "vae")
        model, encoder, decoder = load_model(parts[0], self.device), load_text_encoder(parts[1]), load_vae(parts[2], self.device)
        check_fit(*(part.info for part in parts))
        return model, Clip(encoder.to(self.device).requires_grad_(False), self.device), decoder

    def load_unet(self, unet: Path) -> Model:
        """See :meth:`Host.load_unet`."""
        return load_model(load_bundle(unet, "unet"), self.device)

    def load_control(self, path: Path, default: str) -> Any:
        """See :meth:`Host.load_control`."""
        from ...control.files import load_control as read
        from .control import load_control

        return load_control(read(path), default, self.device)

    def load_text(self, text: Path) -> Clip:
        """See :meth:`Host.load_text`."""
        encoder = load_text_encoder(load_bundle(text, "text"))
        return Clip(encoder.to(self.device).requires_grad_(False), self.device)

    def attended_width(self, model: Model) -> int | None:
        """See :meth:`Host.attended_width`."""
        return model.model.context_width

    def takes_resolution_index(self, model: Model) -> bool:
        """See :meth:`Host.takes_resolution_index`."""
        return model.model.takes_index

    def save_unet(self, model: Model, path: Path, provenance: Mapping[str, Any]) -> Path:
        """See :meth:`Host.save_unet`."""
        from .lowrank import save_unet

        return save_unet(model, path, provenance)

    def rebuild(self, model: Model, surgery: Callable[[Any], None]) -> Model:
        """See :meth:`Host.rebuild`."""
        from .lowrank import rebuild

        return rebuild(model, surgery)

    def weight_shapes(self, model: Model) -> dict[str, torch.Size]:
        """See :meth:`Host.weight_shapes`."""
        from .lowrank import weight_shapes

        return weight_shapes(model)

    def add_weights(self, model: Model, deltas: Mapping[str, torch.Tensor], strength: float) -> Model:
        """See :meth:`Host.add_weights`."""
        from .lowrank import add_weights

        return add_weights(model, deltas, strength)

    def evaluate(self, model: Model, latent: torch.Tensor) -> Callable[[], None]:
        """See :meth:`Host.evaluate`."""
        from .lowrank import evaluate

        return evaluate(model, latent)

    def encode_text(self, clip: Clip, text: str) -> list[list[Any]]:
        """See :meth:`Host.encode_text`."""
        return clip.encode_from_tokens_scheduled(clip.tokenize(text))

    def denoiser(self, model: Model, train: bool = False, room: int = 0) -> Denoiser:
        """See :meth:`Host.denoiser`."""
        from .training import denoiser

        return denoiser(model, train)

    def knowledge_reader(self, clip: Clip) -> KnowledgeReader:
        """See :meth:`Host.knowledge_reader`."""
        return clip.reader

    def attach_knowledge(self, clip: Clip, knowledge: KnowledgeGraph, scale: float, projection: Projection | None = None) -> Clip:
        """See :meth:`Host.attach_knowledge`."""
        return clip.with_reader(clip.reader.attached(knowledge, scale, projection))

    def carry_projection(self, clip: Clip, projection: Projection) -> Clip:
        """See :meth:`Host.carry_projection`."""
        return clip.with_reader(clip.reader.carrying(projection))

    def knowledge_links(self, clip: Clip, text: str) -> list[EntityLink]:
        """See :meth:`Host.knowledge_links`."""
        return clip.links(text)

    def make_sampler(self, function: Callable[..., torch.Tensor], options: Mapping[str, Any]) -> Sampler:
        """See :meth:`Host.make_sampler`."""
        return Sampler(function, options)

    def sampler_names(self) -> list[str]:
        """See :meth:`Host.sampler_names`."""
        return sampler_names()

    def scheduler_names(self) -> list[str]:
        """See :meth:`Host.scheduler_names`."""

        return list(SCHEDULER_NAMES)

    def time_decoupled_guider(
        self,
        structure: Any,
        texture: Any,
        conds: tuple[Any, Any],
        texture_conds: tuple[Any, Any],
        cfgs: tuple[float, float],
        t_struct: int,
    ) -> Any:
        """See :meth:`Host.time_decoupled_guider`."""
        from .time_decoupled import make_guider

        return make_guider(structure, texture, conds, texture_conds, cfgs, t_struct)

    def time_decoupled_sample(
        self,
        guider: Any,
        latent: Mapping[str, Any],
        seed: int,
        steps: int,
        sampler_name: str,
        scheduler: str,
        denoise: float,
        history: str,
    ) -> dict[str, Any]:
        """See :meth:`Host.time_decoupled_sample`."""
        from .time_decoupled import sample

        return sample(guider, latent, seed, steps, sampler_name, scheduler, denoise, history)

    def time_decoupled_model(self, structure: Any, texture: Any, t_struct: int) -> Any:
        """See :meth:`Host.time_decoupled_model`."""
        from .time_decoupled import make_model

        return make_model(structure, texture, t_struct)

    def style_guidance(self, model: Any, style: Any, scale: float, start: float, end: float) -> Any:
        """See :meth:`Host.style_guidance`."""
        from .style import style_guidance

        return style_guidance(model, style, scale, start, end)

    def sample(
        self,
        model: Model,
        positive: list[Any],
        negative: list[Any],
        latent: Mapping[str, Any],
        seed: int,
        steps: int,
        cfg: float,
        sampler_name: str,
        scheduler: str,
    ) -> dict[str, Any]:
        """See :meth:`Host.sample`."""
        return ksample(model, RandomNoise(seed), steps, cfg, sampler_name, scheduler, positive, negative, latent)

    def patch_attention(self, model: Model, vae: Vae | None, patch: AttentionPatch) -> tuple[Model, Vae | None]:
        """See :meth:`Host.patch_attention`. The VAE uses torch's attention already, and diffusers gives it no options of its own."""
        from .attention import patch_model

        return patch_model(model, patch), vae

    def scale_attention_entropy(self, model: Model, width: int, height: int) -> Model:
        """See :meth:`Host.scale_attention_entropy`."""
        from .attention import scale_entropy

        return scale_entropy(model, width, height)

    def network_of(self, part: str, whole: Any) -> Any:
        """See :meth:`Host.network_of`."""
        from . import speed as embedded_speed

        return embedded_speed.network_of(part, whole)

    def run_around(self, part: str, whole: Any, run: Callable[[Callable[[], Any]], Any]) -> Any:
        """See :meth:`Host.run_around`."""
        from . import speed as embedded_speed

        return embedded_speed.run_around(part, whole, run)

    def runner_of(self, model: Any) -> Callable[[Callable[[], Any]], Any] | None:
        """See :meth:`Host.runner_of`."""
        from . import speed as embedded_speed

        return embedded_speed.runner_of(model)

    def load_upscaler(self, path: Path) -> Any:
        """See :meth:`Host.load_upscaler`."""
        from ...upscale.rrdb import load_upscaler

        return load_upscaler(path).to(self.device)

    def upscale_device(self, upscaler: Any, tile: int) -> torch.device:
        """See :meth:`Host.upscale_device`."""
        return self.device

    def make_room(self, size: int) -> torch.device:
        """See :meth:`Host.make_room`."""
        return self.device

    def named_sampler(self, name: str) -> Sampler:
        """See :meth:`Host.named_sampler`."""
        return named_sampler(name)

    def calculate_sigmas(self, model: Model, scheduler: str, steps: int, sampler_name: str = "euler") -> torch.Tensor:
        """See :meth:`Host.calculate_sigmas`."""
        named_sampler(sampler_name)
        return scheduled_sigmas(model, scheduler, steps)

    def sample_custom(
        self,
        model: Model,
        positive: list[Any],
        negative: list[Any],
        cfg: float,
        sampler: Sampler,
        sigmas: torch.Tensor,
        latent: Mapping[str, Any],
        seed: int | None,
        bar: Progress | None = None,
    ) -> dict[str, Any]:
        """See :meth:`Host.sample_custom`."""
        noise = EmptyNoise() if seed is None else RandomNoise(seed)
        return sample_latent(noise, self.make_guider(model, positive, negative, cfg), sampler, sigmas, latent, bar)[0]

    def make_guider(self, model: Model, positive: list[Any], negative: list[Any], cfg: float) -> CFGGuider:
        """See :meth:`Host.make_guider`."""
        guider = CFGGuider(model)
        guider.set_conds(positive, negative)
        guider.set_cfg(cfg)
        return guider

    def fit_latent(self, model: Model, latent: Mapping[str, Any]) -> dict[str, Any]:
        """See :meth:`Host.fit_latent`."""
        return fit_empty_latent(model, latent)

    def step_callback(self, model: Model, bar: Progress) -> Callable[[int, torch.Tensor, torch.Tensor, int], None]:
        """See :meth:`Host.step_callback`. There are no previews here."""
        began = bar.done
        return lambda step, denoised, x, total: bar.update(began + step + 1 - bar.done)

    def keep_ready(self, model: Model) -> None:
        """See :meth:`Host.keep_ready`. Everything stays where it is here."""

    def vae_decode(self, vae: Vae, latent: torch.Tensor, tile: int = 0) -> torch.Tensor:
        """See :meth:`Host.vae_decode`."""
        return tiling.decode(vae, latent, tile)

    def vae_encode(self, vae: Vae, pixels: torch.Tensor, tile: int = 0) -> torch.Tensor:
        """See :meth:`Host.vae_encode`."""
        return tiling.encode(vae, pixels, tile)


def make_host() -> EmbeddedHost:
    """What :func:`~rapiddraw.core.host.current` calls."""
    return EmbeddedHost()
