"""What a node may ask of a host. Kept small: whatever the stock nodes of ComfyUI already do is left to them.

The socket types (MODEL, CLIP, VAE, CONDITIONING, SAMPLER, UPSCALE_MODEL) are each host's own objects and opaque to nodes. LATENT
samples are unscaled (B, C, h, w) float tensors; an IMAGE is (B, H, W, 3) float in [0, 1].
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from ..attention.patch import AttentionPatch
    from ..knowledge.attach import KnowledgeReader
    from ..knowledge.graph import KnowledgeGraph
    from ..knowledge.linking import EntityLink
    from ..knowledge.projection import Projection
    from ..progress import Progress
    from .denoiser import Denoiser


class Host(Protocol):
    """The protocol. No method changes what it is given: patches go onto clones."""

    name: str

    @property
    def saves_graphs(self) -> bool:
        """Whether a saved picture may carry the graph that drew it (ComfyUI's `--disable-metadata` says no)."""
        ...

    def load_bundles(self, unet: Path, text: Path, vae: Path) -> tuple[Any, Any, Any]:
        """(MODEL, CLIP, VAE) from three bundles. Raises :class:`~rapiddraw.core.errors.BundleError` where they do not fit together:
        another latent space, or a text width the U-Net does not attend to."""
        ...

    def load_unet(self, unet: Path) -> Any:
        """A MODEL from a bundle of kind `unet`, dense or low-rank."""
        ...

    def load_control(self, path: Path, default: str) -> Any:
        """A CONTROL_NET from a bundle of kind `control`: `conditions` names what it follows, and a single picture that a stock node applies
        is taken for the condition `default`."""
        ...

    def load_text(self, text: Path) -> Any:
        """A CLIP from a bundle of kind `text`."""
        ...

    def attended_width(self, model: Any) -> int | None:
        """Features of the tokens that a MODEL's U-Net attends to; None where it does not say."""
        ...

    def takes_resolution_index(self, model: Any) -> bool:
        """Whether a MODEL is told the index of the resolution that it draws."""
        ...

    def save_unet(self, model: Any, path: Path, provenance: Mapping[str, Any]) -> Path:
        """Write a MODEL's network, its patches merged in, as a bundle of kind `unet`."""
        ...

    def rebuild(self, model: Any, surgery: Callable[[Any], None]) -> Any:
        """A MODEL around a copy of `model`'s network, patches merged in, on which `surgery(network)` ran."""
        ...

    def weight_shapes(self, model: Any) -> dict[str, torch.Size]:
        """The shape of every weight of a MODEL's U-Net that a patch may change, by its layer's name in diffusers' layout. A factored
        layer counts as the dense one that it stands for."""
        ...

    def add_weights(self, model: Any, deltas: Mapping[str, Tensor], strength: float) -> Any:
        """A clone of MODEL to whose weights `strength` times each delta is added; names and shapes as :meth:`weight_shapes` gives them."""
        ...

    def evaluate(self, model: Any, latent: Tensor) -> Callable[[], None]:
        """A function that runs a MODEL's network once on noise of the size of `latent` (B, any, h, w), with two dozen random tokens; to
        measure with."""
        ...

    def denoiser(self, model: Any, train: bool = False, room: int = 0) -> Denoiser:
        """A MODEL as what training needs of it, on its device, where `room` bytes are left free beside it if possible.

        With `train` its weights take gradients, which is for a MODEL that :meth:`rebuild` made and nobody else has; `release()` of what is
        returned ends that. Raises :class:`~rapiddraw.core.errors.InputError` for a model that is no U-Net predicting eps, v or x0 from a
        text."""
        ...

    def knowledge_reader(self, clip: Any) -> KnowledgeReader:
        """The encoders of CLIP that can read a graph, each with its tokenizer, width and token embeddings, and what is attached to them.

        Raises :class:`~rapiddraw.core.errors.KnowledgeError` for a CLIP that has none.
        """
        ...

    def attach_knowledge(self, clip: Any, knowledge: KnowledgeGraph, scale: float, projection: Projection | None = None) -> Any:
        """A clone of CLIP that adds `scale * W e_kg` to the tokens of every entity it finds in a text. Scale 0 changes nothing.

        W is `projection`, else what CLIP carries, else what it was trained with. Attaching the same graph again replaces its scale;
        another graph adds to it. Raises :class:`~rapiddraw.core.errors.KnowledgeError` for a graph without vectors, where there is no W,
        and where W does not fit.
        """
        ...

    def carry_projection(self, clip: Any, projection: Projection) -> Any:
        """A clone of CLIP that uses `projection` for the graphs that are attached to it from now on."""
        ...

    def encode_text(self, clip: Any, text: str) -> Any:
        """CONDITIONING of `text`, weights `(text:1.2)` understood, long prompts in several rows."""
        ...

    def knowledge_links(self, clip: Any, text: str) -> list[EntityLink]:
        """The entities that :meth:`encode_text` finds in `text`, in reading order, with where they are and whether they were cut."""
        ...

    def make_sampler(self, function: Callable[..., Tensor], options: Mapping[str, Any]) -> Any:
        """A SAMPLER around a k-diffusion function `function(model, x, sigmas, extra_args, callback, disable, **options)`."""
        ...

    def sampler_names(self) -> list[str]:
        """The samplers that nodes of ours offer by name: the host's own, then those of ours that it lacks."""
        ...

    def scheduler_names(self) -> list[str]:
        """The schedulers that the host's KSampler offers."""
        ...

    def time_decoupled_guider(
        self,
        structure: Any,
        texture: Any,
        conds: tuple[Any, Any],
        texture_conds: tuple[Any, Any],
        cfgs: tuple[float, float],
        t_struct: int,
    ) -> Any:
        """A GUIDER of two MODELs: `structure` from timestep `t_struct` (0..1000, on its schedule) upwards, `texture` below.

        `conds` and `texture_conds` are (positive, negative), of the latter None for the same as the former; `cfgs` are the guidance
        scales of the two. The second model is loaded when a run first needs it. Raises
        :class:`~rapiddraw.core.errors.InputError` for models of different latent spaces.
        """
        ...

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
        """LATENT from a LATENT: the stock KSampler's walk with a guider of :meth:`time_decoupled_guider`.

        `history` is `keep` (one run of the sampler) or `reset` (two, cut at the first level below the switch).
        """
        ...

    def time_decoupled_model(self, structure: Any, texture: Any, t_struct: int) -> Any:
        """A MODEL that hands each evaluation to one of two, by its noise level. One guidance scale and one conditioning serve both."""
        ...

    def style_guidance(self, model: Any, style: Any, scale: float, start: float, end: float) -> Any:
        """A clone of MODEL that adds `scale` * (prediction under the CONDITIONING `style` - prediction under the prompt) after guidance,
        between the parts `start` and `end` (0..1) of the sampling. Scale 0 adds nothing and costs nothing."""
        ...

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
        """LATENT from a LATENT: what the stock KSampler does at denoise 1."""
        ...

    def patch_attention(self, model: Any, vae: Any, patch: AttentionPatch) -> tuple[Any, Any]:
        """(MODEL, VAE) whose attention goes through `patch`. `vae` may be None; it comes back as it was where it has no
        attention that can be patched without touching what other clones share."""

    def scale_attention_entropy(self, model: Any, width: int, height: int) -> Any:
        """A clone of MODEL whose self-attention is as sharp at any size as at `width` x `height` pixels, its size in training."""
        ...

    def named_sampler(self, name: str) -> Any:
        """The SAMPLER of one of :meth:`sampler_names`. Raises :class:`~rapiddraw.core.errors.InputError` for another name."""
        ...

    def calculate_sigmas(self, model: Any, scheduler: str, steps: int, sampler_name: str = "euler") -> Tensor:
        """SIGMAS (steps + 1,) as the stock KSampler would walk them at denoise 1. Names and steps are checked again here."""
        ...

    def sample_custom(
        self,
        model: Any,
        positive: Any,
        negative: Any,
        cfg: float,
        sampler: Any,
        sigmas: Tensor,
        latent: Mapping[str, Any],
        seed: int | None,
        bar: Progress | None = None,
    ) -> dict[str, Any]:
        """LATENT from a LATENT along `sigmas`, as SamplerCustomAdvanced with CFGGuider does it. `seed` None adds no noise, for a walk
        that goes on. The steps are reported to `bar`, or to one of its own."""
        ...

    def make_guider(self, model: Any, positive: Any, negative: Any, cfg: float) -> Any:
        """A GUIDER of classifier-free guidance: the stock CFGGuider's."""
        ...

    def fit_latent(self, model: Any, latent: Mapping[str, Any]) -> dict[str, Any]:
        """A copy of a LATENT that fits `model`: an empty one takes on its channels."""
        ...

    def step_callback(self, model: Any, bar: Progress) -> Callable[[int, Tensor, Tensor, int], None]:
        """`callback(step, denoised, x, total)` for a sampler, which advances `bar` and previews `denoised` where the host can."""
        ...

    def keep_ready(self, model: Any) -> None:
        """Have a MODEL that is being sampled on its device again, if something else has taken its place since."""
        ...

    def network_of(self, part: str, whole: Any) -> Any:
        """The torch module inside a MODEL, CLIP or VAE, to read and not to change: others share it. `part` is "model", "clip" or "vae"."""
        ...

    def run_around(self, part: str, whole: Any, run: Callable[[Callable[[], Any]], Any]) -> Any:
        """A clone of a MODEL, CLIP or VAE: whenever its network is to compute something, `run(call)` is asked, and `call()` computes it.

        For a MODEL that is one evaluation; asking again replaces the function."""
        ...

    def runner_of(self, model: Any) -> Callable[[Callable[[], Any]], Any] | None:
        """The function that :meth:`run_around` was given for this MODEL, or None."""
        ...

    def load_upscaler(self, path: Path) -> Any:
        """An UPSCALE_MODEL: callable on (B, 3, H, W) in [0, 1], with `.scale` and `.to(device)`."""
        ...

    def upscale_device(self, upscaler: Any, tile: int) -> torch.device:
        """Where an UPSCALE_MODEL should run in tiles of `tile` pixels, with room made for it there."""
        ...

    def make_room(self, size: int) -> torch.device:
        """Where a network of `size` bytes that the host does not know should run, with room made for it there."""
        ...

    def vae_decode(self, vae: Any, latent: Tensor, tile: int = 0) -> Tensor:
        """IMAGE from unscaled latents (B, C, h, w), clamped to [0, 1]. In tiles of `tile` pixels; 0 is whole while memory lasts."""
        ...

    def vae_encode(self, vae: Any, pixels: Tensor, tile: int = 0) -> Tensor:
        """Unscaled latents (the posterior's mode) from an IMAGE, centre-cropped to a multiple of the VAE's factor. `tile` as above."""
        ...
