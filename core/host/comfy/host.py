"""The host inside ComfyUI: bundles become ComfyUI's own objects, and ComfyUI does the rest. Nothing of ComfyUI is changed.

What we rely on is listed in :mod:`.requirements` and checked before anything else here runs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import comfy.cli_args
import comfy.model_management
import comfy.samplers
import comfy.utils
import torch

from ... import progress
from ...bundles.format import read_info
from ...bundles.load import load_bundle
from ..fit import check_complete, check_fit
from ..tiling import tiles
from .requirements import check_requirements

if TYPE_CHECKING:
    from ...attention.patch import AttentionPatch
    from ...knowledge.attach import KnowledgeReader
    from ...knowledge.graph import KnowledgeGraph
    from ...knowledge.linking import EntityLink
    from ...knowledge.projection import Projection
    from ..denoiser import Denoiser

_PREVIEW_SIZE = 512
_ROOM = 1.2  # of a network's weights: what it computes with needs memory too


class ComfyHost:
    """The :class:`~rapiddraw.core.host.protocol.Host` inside ComfyUI."""

    name = "comfy"

    @property
    def saves_graphs(self) -> bool:
        """See :attr:`Host.saves_graphs`."""
        return not comfy.cli_args.args.disable_metadata

    @property
    def device(self) -> torch.device:
        """Where ComfyUI computes."""
        return comfy.model_management.get_torch_device()

    def load_bundles(self, unet: Path, text: Path, vae: Path) -> tuple[Any, Any, Any]:
        """See :meth:`Host.load_bundles`."""
        from .clip import load_clip
        from .model import load_model
        from .vae import load_vae

        infos = read_info(unet, "unet"), read_info(text, "text"), read_info(vae, "vae")
        check_complete(infos[0])
        check_complete(infos[2])
        check_fit(*infos)
        return load_model(load_bundle(unet, "unet")), load_clip(load_bundle(text, "text")), load_vae(load_bundle(vae, "vae"))

    def load_unet(self, unet: Path) -> Any:
        """See :meth:`Host.load_unet`."""
        from .model import load_model

        return load_model(load_bundle(unet, "unet"))

    def load_control(self, path: Path, default: str) -> Any:
        """See :meth:`Host.load_control`."""
        from ...control.files import load_control as read
        from .control import load_control

        return load_control(read(path), default)

    def load_text(self, text: Path) -> Any:
        """See :meth:`Host.load_text`."""
        from .clip import load_clip

        return load_clip(load_bundle(text, "text"))

    def attended_width(self, model: Any) -> int | None:
        """See :meth:`Host.attended_width`."""
        width = getattr(model.model.model_config, "unet_config", {}).get("context_dim")
        return width if isinstance(width, int) else None

    def takes_resolution_index(self, model: Any) -> bool:
        """See :meth:`Host.takes_resolution_index`."""
        from .model import RapidDrawModel

        return isinstance(model.model, RapidDrawModel) and bool(model.model.adm_channels)

    def save_unet(self, model: Any, path: Path, provenance: Mapping[str, Any]) -> Path:
        """See :meth:`Host.save_unet`."""
        from .save import save_unet

        return save_unet(model, path, provenance)

    def rebuild(self, model: Any, surgery: Callable[[Any], None]) -> Any:
        """See :meth:`Host.rebuild`."""
        from .lowrank import rebuild

        return rebuild(model, surgery)

    def weight_shapes(self, model: Any) -> dict[str, torch.Size]:
        """See :meth:`Host.weight_shapes`."""
        from .weights import weight_shapes

        return weight_shapes(model)

    def add_weights(self, model: Any, deltas: Mapping[str, torch.Tensor], strength: float) -> Any:
        """See :meth:`Host.add_weights`."""
        from .weights import add_weights

        return add_weights(model, deltas, strength)

    def evaluate(self, model: Any, latent: torch.Tensor) -> Callable[[], None]:
        """See :meth:`Host.evaluate`."""
        from .save import evaluate

        return evaluate(model, latent)

    def denoiser(self, model: Any, train: bool = False, room: int = 0) -> Denoiser:
        """See :meth:`Host.denoiser`."""
        from .training import denoiser

        return denoiser(model, train, room)

    def knowledge_reader(self, clip: Any) -> KnowledgeReader:
        """See :meth:`Host.knowledge_reader`."""
        from .knowledge import reader_of

        return reader_of(clip)

    def attach_knowledge(self, clip: Any, knowledge: KnowledgeGraph, scale: float, projection: Projection | None = None) -> Any:
        """See :meth:`Host.attach_knowledge`."""
        from .knowledge import attach_knowledge

        return attach_knowledge(clip, knowledge, scale, projection)

    def carry_projection(self, clip: Any, projection: Projection) -> Any:
        """See :meth:`Host.carry_projection`."""
        from .knowledge import carry_projection

        return carry_projection(clip, projection)

    def encode_text(self, clip: Any, text: str) -> Any:
        """See :meth:`Host.encode_text`."""
        return clip.encode_from_tokens_scheduled(clip.tokenize(text))

    def knowledge_links(self, clip: Any, text: str) -> list[EntityLink]:
        """See :meth:`Host.knowledge_links`."""
        from .knowledge import knowledge_links

        return knowledge_links(clip, text)

    def make_sampler(self, function: Callable[..., torch.Tensor], options: Mapping[str, Any]) -> Any:
        """See :meth:`Host.make_sampler`."""
        return comfy.samplers.KSAMPLER(function, extra_options=dict(options))

    def sampler_names(self) -> list[str]:
        """See :meth:`Host.sampler_names`."""
        from .sampling import sampler_names

        return sampler_names()

    def scheduler_names(self) -> list[str]:
        """See :meth:`Host.scheduler_names`."""
        return list(comfy.samplers.KSampler.SCHEDULERS)

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
        model: Any,
        positive: Any,
        negative: Any,
        latent: Mapping[str, Any],
        seed: int,
        steps: int,
        cfg: float,
        sampler_name: str,
        scheduler: str,
    ) -> dict[str, Any]:
        """See :meth:`Host.sample`."""
        from importlib import import_module

        common_ksampler = import_module("nodes").common_ksampler  # ComfyUI's module; by name, since mypy knows this pack's nodes
        return common_ksampler(model, seed, steps, cfg, sampler_name, scheduler, positive, negative, dict(latent))[0]

    def patch_attention(self, model: Any, vae: Any, patch: AttentionPatch) -> tuple[Any, Any]:
        """See :meth:`Host.patch_attention`."""
        from .attention import patch_model, patch_vae

        return patch_model(model, patch), None if vae is None else patch_vae(vae, patch)

    def scale_attention_entropy(self, model: Any, width: int, height: int) -> Any:
        """See :meth:`Host.scale_attention_entropy`."""
        from .attention import scale_entropy

        return scale_entropy(model, width, height)

    def network_of(self, part: str, whole: Any) -> Any:
        """See :meth:`Host.network_of`."""
        from . import speed as comfy_speed

        return comfy_speed.network_of(part, whole)

    def run_around(self, part: str, whole: Any, run: Callable[[Callable[[], Any]], Any]) -> Any:
        """See :meth:`Host.run_around`."""
        from . import speed as comfy_speed

        return comfy_speed.run_around(part, whole, run)

    def runner_of(self, model: Any) -> Callable[[Callable[[], Any]], Any] | None:
        """See :meth:`Host.runner_of`."""
        from . import speed as comfy_speed

        return comfy_speed.runner_of(model)

    def load_upscaler(self, path: Path) -> Any:
        """See :meth:`Host.load_upscaler`. It stays on the CPU until a node uses it, as ComfyUI's own do."""
        from ...upscale.rrdb import load_upscaler

        return load_upscaler(path)

    def upscale_device(self, upscaler: Any, tile: int) -> torch.device:
        """See :meth:`Host.upscale_device`. Room is made by ComfyUI's own estimate, which it takes from other models."""
        from ...upscale.memory import BYTES_A_PIXEL

        needed = comfy.model_management.module_size(upscaler.model) + tile * tile * max(upscaler.scale, 1) * BYTES_A_PIXEL
        comfy.model_management.free_memory(needed, self.device)
        return self.device

    def make_room(self, size: int) -> torch.device:
        """See :meth:`Host.make_room`. What the device could never hold stays on the CPU."""
        needed = size * _ROOM
        if needed > comfy.model_management.get_total_memory(self.device):
            return torch.device("cpu")
        comfy.model_management.free_memory(needed, self.device)
        return self.device

    def named_sampler(self, name: str) -> Any:
        """See :meth:`Host.named_sampler`."""
        from .sampling import named_sampler

        return named_sampler(name)

    def calculate_sigmas(self, model: Any, scheduler: str, steps: int, sampler_name: str = "euler") -> torch.Tensor:
        """See :meth:`Host.calculate_sigmas`."""
        from .sampling import calculate_sigmas

        return calculate_sigmas(model, scheduler, steps, sampler_name)

    def sample_custom(
        self,
        model: Any,
        positive: Any,
        negative: Any,
        cfg: float,
        sampler: Any,
        sigmas: torch.Tensor,
        latent: Mapping[str, Any],
        seed: int | None,
        bar: progress.Progress | None = None,
    ) -> dict[str, Any]:
        """See :meth:`Host.sample_custom`."""
        from .sampling import make_guider, sample_custom

        return sample_custom(make_guider(model, positive, negative, cfg), sampler, sigmas, latent, seed, bar)

    def make_guider(self, model: Any, positive: Any, negative: Any, cfg: float) -> Any:
        """See :meth:`Host.make_guider`."""
        from .sampling import make_guider

        return make_guider(model, positive, negative, cfg)

    def fit_latent(self, model: Any, latent: Mapping[str, Any]) -> dict[str, Any]:
        """See :meth:`Host.fit_latent`."""
        from .sampling import fit_latent

        return fit_latent(model, latent)

    def step_callback(self, model: Any, bar: progress.Progress) -> Callable[..., None]:
        """See :meth:`Host.step_callback`."""
        from .sampling import reporting

        return reporting(model, bar)

    def keep_ready(self, model: Any) -> None:
        """See :meth:`Host.keep_ready`."""
        from .sampling import keep_ready

        keep_ready(model)

    def vae_decode(self, vae: Any, latent: torch.Tensor, tile: int = 0) -> torch.Tensor:
        """See :meth:`Host.vae_decode`. Out of memory, ComfyUI goes on in tiles by itself."""
        if not tile:
            return vae.decode(latent)
        side, shared = tiles(tile, vae.spacial_compression_decode())
        return vae.decode_tiled(latent, tile_x=side, tile_y=side, overlap=shared)

    def vae_encode(self, vae: Any, pixels: torch.Tensor, tile: int = 0) -> torch.Tensor:
        """See :meth:`Host.vae_encode`. Out of memory, ComfyUI goes on in tiles by itself."""
        if not tile:
            return vae.encode(pixels[..., :3])
        cell = vae.spacial_compression_encode()
        side, shared = (count * cell for count in tiles(tile, cell))
        return vae.encode_tiled(pixels[..., :3], tile_x=side, tile_y=side, overlap=shared)


class ComfyReporter:
    """One bar of ours as ComfyUI's own: steps and previews go to the node that runs, and ComfyUI's cancel stops the work."""

    def __init__(self, total: int, label: str, unit: str) -> None:
        comfy.model_management.throw_exception_if_processing_interrupted()
        self.done, self._bar = 0, comfy.utils.ProgressBar(total)

    def advance(self, count: int, info: dict[str, Any], preview: Any = None) -> None:
        """Report `count` more steps; `preview` is a PIL image."""
        comfy.model_management.throw_exception_if_processing_interrupted()  # the bar itself looks only now and then
        self.done += count
        self._bar.update_absolute(self.done, preview=None if preview is None else ("JPEG", preview, _PREVIEW_SIZE))

    def close(self) -> None:
        """Nothing to do: ComfyUI's bar goes with its node."""


def make_host() -> ComfyHost:
    """What :func:`~rapiddraw.core.host.current` calls. Raises :class:`MissingPackageError` for a ComfyUI that lacks what we need."""
    check_requirements()
    progress.set_reporter(ComfyReporter)
    progress.set_cancel_check(comfy.model_management.throw_exception_if_processing_interrupted)
    return ComfyHost()
