"""What a node may ask of a host, topic by topic. Kept small: whatever the stock nodes of ComfyUI already do is left to them.

Each topic is a Protocol that a module of each host meets: `Host("comfy").vae` is the module :mod:`.comfy.vae`. The socket types (MODEL,
CLIP, VAE, CONDITIONING, SAMPLER, UPSCALE_MODEL) are each host's own objects and opaque to nodes. LATENT samples are unscaled (B, C, h, w)
float tensors; an IMAGE is (B, H, W, 3) float in [0, 1]. No function changes what it is given: patches go onto clones.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from ..attention.patch import AttentionPatch
    from ..bundles.format import Bundle
    from ..knowledge.attach import KnowledgeReader
    from ..knowledge.graph import KnowledgeGraph
    from ..knowledge.linking import EntityLink
    from ..knowledge.projection import Projection
    from ..progress import Progress
    from .denoiser import Denoiser
    from .run import SamplingRun, Stage
    from .texts import TextsInTraining


class ProcessTopic(Protocol):
    """The process that the host is: its device, its memory, its settings."""

    def start(self) -> None:
        """Check once that the host can run, and take over its progress bar. Raises :class:`~rapiddraw.core.errors.RapidDrawError`."""

    def device(self) -> torch.device:
        """Return where the host computes."""

    def make_room(self, size: int) -> torch.device:
        """Return where a network of `size` bytes that the host does not know should run, with room made for it there."""

    def workflow_folder(self) -> Path:
        """Return the folder of the user's workflows. It is not created."""

    def lora_names(self) -> list[str]:
        """Return the names of the user's LoRA files."""

    def lora_path(self, name: str) -> Path:
        """Return the file of one of :meth:`lora_names`. Raises :class:`~rapiddraw.core.errors.BundleError` for an unknown name."""

    def node_classes(self) -> Mapping[str, type]:
        """Return the host's own nodes by id; none where it has only those that every headless run has."""

    def saves_graphs(self) -> bool:
        """Return whether a saved picture may carry the graph that drew it (ComfyUI's `--disable-metadata` says no)."""


class ModelTopic(Protocol):
    """MODELs: reading and writing them, and what nodes must know of one."""

    def load(self, path: Path) -> Any:
        """Return a MODEL from a bundle of kind `unet`, dense or low-rank. Raises :class:`~rapiddraw.core.errors.BundleError`."""

    def save(self, model: Any, path: Path, provenance: Mapping[str, Any]) -> Path:
        """Write a MODEL's network, its patches merged in, as a bundle of kind `unet`."""

    def export(self, model: Any) -> Bundle:
        """Return the U-Net of a MODEL, its patches merged in, as a bundle of kind `unet` in diffusers' layout, which is not written
        anywhere.

        Raises :class:`~rapiddraw.core.errors.InputError` for a model that is no U-Net of Stable Diffusion's kind."""

    def attended_width(self, model: Any) -> int | None:
        """Return the features of the tokens that a MODEL's network attends to; None where it does not say."""

    def pooled_width(self, model: Any) -> int:
        """Return the features of the pooled text state that a MODEL takes beside the tokens; 0 for none, and where it does not say."""

    def needed_details(self, model: Any) -> tuple[str, ...]:
        """Return the details of a prompt, by their names in a CONDITIONING, that a MODEL needs beside tokens and pooled state."""

    def takes_resolution_index(self, model: Any) -> bool:
        """Return whether a MODEL is told the index of the resolution that it draws."""


class ClipTopic(Protocol):
    """CLIPs: text encoders."""

    def load(self, path: Path) -> Any:
        """Return a CLIP from a bundle of kind `text`. Raises :class:`~rapiddraw.core.errors.BundleError`."""

    def encode(self, clip: Any, text: str) -> Any:
        """Return the CONDITIONING of `text`. Weights `(text:1.2)` are understood; a long prompt takes several rows."""

    def beside_pictures(self, clip: Any, texts: Sequence[str], width: int) -> Tensor:
        """Return the vectors (N, width) of texts in the space that a CLIP shares with a network for pictures, in float32 on the CPU.

        Raises :class:`~rapiddraw.core.errors.InputError` for a CLIP without an encoder whose texts have `width` features there."""


class KnowledgeTopic(Protocol):
    """Knowledge graphs attached to a CLIP."""

    def reader_of(self, clip: Any) -> KnowledgeReader:
        """Return the encoders of CLIP that can read a graph, each with its tokenizer, width and token embeddings, and what is attached.

        Raises :class:`~rapiddraw.core.errors.KnowledgeError` for a CLIP that has none.
        """

    def attach(self, clip: Any, knowledge: KnowledgeGraph, scale: float, projection: Projection | None = None) -> Any:
        """Return a clone of CLIP that adds `scale * W e_kg` to the tokens of every entity it finds in a text. Scale 0 changes nothing.

        W is `projection`, else the one that CLIP carries, else the one CLIP was trained with. Attaching the same graph again replaces its
        scale; another graph adds to it. Raises :class:`~rapiddraw.core.errors.KnowledgeError` for a graph without vectors, where there is
        no W, and where W does not fit.
        """

    def carry_projection(self, clip: Any, projection: Projection) -> Any:
        """Return a clone of CLIP that uses `projection` for the graphs that are attached to it from now on."""

    def encode_with_links(self, clip: Any, text: str) -> tuple[Any, list[EntityLink]]:
        """Return the CONDITIONING of `text`, as :meth:`ClipTopic.encode` does, and the entities found in it, in reading order.

        The text is tokenized and linked once. A link says where the entity is and whether it was cut."""


class VaeTopic(Protocol):
    """VAEs: pictures to latents and back."""

    def load(self, path: Path) -> Any:
        """Return a VAE from a bundle of kind `vae`. Raises :class:`~rapiddraw.core.errors.BundleError`."""

    def export(self, vae: Any) -> Bundle:
        """Return the network of a VAE as a bundle of kind `vae` in diffusers' layout, which is not written anywhere.

        Raises :class:`~rapiddraw.core.errors.InputError` for a VAE that is no `AutoencoderKL`."""

    def decode(self, vae: Any, latent: Tensor, tile: int = 0) -> Tensor:
        """Return the IMAGE of unscaled latents (B, C, h, w), clamped to [0, 1].

        It is decoded in tiles of `tile` pixels; with 0 whole, and in tiles only where memory runs out."""

    def encode(self, vae: Any, pixels: Tensor, tile: int = 0) -> Tensor:
        """Return the unscaled latents (the posterior's mode) of an IMAGE, cropped centred to whole latent cells. `tile` as above."""


class ControlTopic(Protocol):
    """CONTROL_NETs."""

    def load(self, path: Path, default: str) -> Any:
        """Return a CONTROL_NET from a bundle of kind `control`: its `conditions` name the pictures that it follows.

        A single picture that a stock node applies is taken for the condition `default`."""

    def in_guess_mode(self, conditioning: Any) -> Any:
        """Return CONDITIONING whose ControlNets' residuals decay towards the U-Net's shallow layers
        (:func:`~rapiddraw.core.control.decay.depth_decay`); others are left as they are."""


class UpscaleTopic(Protocol):
    """UPSCALE_MODELs."""

    def load(self, path: Path) -> Any:
        """Return an UPSCALE_MODEL: callable on (B, 3, H, W) in [0, 1], with `.scale` and `.to(device)`."""

    def device_for(self, upscaler: Any, tile: int) -> torch.device:
        """Return where an UPSCALE_MODEL should run in tiles of `tile` pixels, with room made for it there."""


class SamplingTopic(Protocol):
    """Sampling runs and their parts: guiders, samplers, noise levels."""

    def make_guider(self, model: Any, positive: Any, negative: Any, cfg: float) -> Any:
        """Return a GUIDER of classifier-free guidance: the stock CFGGuider's."""

    def sample(self, guider: Any, latent: Mapping[str, Any], run: SamplingRun) -> dict[str, Any]:
        """Return the LATENT that the stock KSampler makes of a LATENT, guided by `guider`."""

    def sample_custom(
        self, guider: Any, sampler: Any, sigmas: Tensor, latent: Mapping[str, Any], seed: int | None, bar: Progress | None = None
    ) -> dict[str, Any]:
        """Return the LATENT that SamplerCustomAdvanced makes of a LATENT along `sigmas`.

        `seed` None adds no noise, for a run that goes on. The steps are reported to `bar`, or to a bar of this run."""

    def make_sampler(self, function: Callable[..., Tensor], options: Mapping[str, Any]) -> Any:
        """Return a SAMPLER around a k-diffusion function `function(model, x, sigmas, extra_args, callback, disable, **options)`."""

    def named_sampler(self, name: str) -> Any:
        """Return the SAMPLER of one of :meth:`sampler_names`. Raises :class:`~rapiddraw.core.errors.InputError` for another name."""

    def sampler_names(self) -> list[str]:
        """Return the samplers that nodes of ours offer by name: the host's own, then those of ours that it lacks."""

    def scheduler_names(self) -> list[str]:
        """Return the schedulers that the host's KSampler offers."""

    def calculate_sigmas(self, model: Any, scheduler: str, steps: int, sampler_name: str = "euler") -> Tensor:
        """Return the SIGMAS (steps + 1,) of the stock KSampler at denoise 1. Names and steps are checked again here."""

    def for_consistency(self, model: Any) -> Any:
        """Return a MODEL for the sampler `lcm` with a consistency student: in ComfyUI what ModelSamplingDiscrete makes of a model that
        predicts eps; any other as it is, because the boundary scalings differ from the identity by less than 0.0001 there."""

    def fit_latent(self, model: Any, latent: Mapping[str, Any]) -> dict[str, Any]:
        """Return a copy of a LATENT that fits `model`: an empty one takes on its channels."""

    def step_callback(self, model: Any, bar: Progress) -> Callable[[int, Tensor, Tensor, int], None]:
        """Return `callback(step, denoised, x, total)` for a sampler: it advances `bar` and previews `denoised` where the host can."""

    def keep_ready(self, model: Any) -> None:
        """Have a MODEL that is being sampled on its device again, if something else has taken its place since."""


class TimeDecoupledTopic(Protocol):
    """Time-decoupled sampling: several models draw one picture, each between its own noise levels."""

    def make_guider(self, stages: Sequence[Stage]) -> Any:
        """Return a GUIDER of the stages, the noisiest first. The second model is loaded when a run first needs it.

        Raises :class:`~rapiddraw.core.errors.InputError` for models of different latent spaces.
        """

    def sample(self, guider: Any, latent: Mapping[str, Any], run: SamplingRun, history: str) -> dict[str, Any]:
        """Return the LATENT of a run with a guider of :meth:`make_guider`, as :meth:`SamplingTopic.sample` does.

        `history` is `keep` (one run of the sampler) or `reset` (two, cut at the first level below the switch).
        """

    def join(self, structure: Any, texture: Any, t_struct: int) -> Any:
        """Return a MODEL that hands each evaluation to one of two, by its noise level. One guidance scale and one prompt serve both."""


class StyleTopic(Protocol):
    """Style guidance."""

    def guide(self, model: Any, style: Any, scale: float, start: float, end: float) -> Any:
        """Return a clone of MODEL that adds `scale` * (prediction under `style`, a CONDITIONING, - prediction under the prompt).

        It does so after guidance, between the parts `start` and `end` (0..1) of the sampling. Scale 0 adds nothing and costs nothing."""


class AttentionTopic(Protocol):
    """How attention is computed."""

    def patch_model(self, model: Any, patch: AttentionPatch) -> Any:
        """Return a clone of MODEL whose attention goes through `patch`; its evaluations are watched for non-finite output."""

    def patch_vae(self, vae: Any, patch: AttentionPatch) -> Any:
        """Return a VAE whose attention goes through `patch`, or `vae` itself where it has no attention that can be patched in a clone."""

    def scale_entropy(self, model: Any, width: int, height: int) -> Any:
        """Return a clone of MODEL whose self-attention is as sharp at any size as at `width` x `height` pixels, its size in training."""


class SpeedTopic(Protocol):
    """Networks that run through a function."""

    def network_of(self, part: str, whole: Any) -> Any:
        """Return the torch module inside a MODEL, CLIP or VAE, to read and not to change: others share it.

        `part` is "model", "clip" or "vae"."""

    def run_around(self, part: str, whole: Any, run: Callable[..., Any]) -> Any:
        """Return a clone of a MODEL, CLIP or VAE that hands each use of its network to `run(call)`; `call()` computes it.

        For a MODEL one call is one evaluation; asking again replaces the function."""

    def runner_of(self, model: Any) -> Callable[..., Any] | None:
        """Return the function that :meth:`run_around` was given for this MODEL, or None."""


class SurgeryTopic(Protocol):
    """Networks that are changed inside, and measured."""

    def rebuild(self, model: Any, surgery: Callable[[Any], None]) -> Any:
        """Return a MODEL around a copy of `model`'s network, patches merged in, on which `surgery(network)` ran."""

    def weight_shapes(self, model: Any) -> dict[str, torch.Size]:
        """Return the shape of every weight of a MODEL's network that a patch may change, by its layer's name: in diffusers' layout for a
        U-Net, in ComfyUI's for another family.

        A factored layer counts as the dense one that it stands for."""

    def layer_names(self, model: Any) -> Mapping[str, str]:
        """Return the names of :meth:`weight_shapes` by the names that the layers have in a MODEL's network."""

    def add_weights(self, model: Any, deltas: Mapping[str, Tensor], strength: float) -> Any:
        """Return a clone of MODEL to whose weights `strength` times each delta is added, by the names of :meth:`weight_shapes`."""

    def lora_key(self, model: Any, layer: str) -> str:
        """Return the key of the layer `layer` of a MODEL's network in LoRA files that ComfyUI's Load LoRA reads."""

    def add_lora(self, model: Any, clip: Any, path: Path, strength_model: float, strength_clip: float) -> tuple[Any, Any]:
        """Return clones of MODEL and CLIP with the LoRA in a file added, as ComfyUI's Load LoRA does; either may be None.

        Raises :class:`~rapiddraw.core.errors.BundleError` for a file that is damaged or fits neither."""

    def check_evaluation(self, model: Any, conditioning: Any) -> None:
        """Raise :class:`~rapiddraw.core.errors.InputError` where :meth:`evaluate` needs a CONDITIONING for this MODEL and gets none."""

    def evaluate(self, model: Any, latent: Mapping[str, Any], conditioning: Any = None) -> Callable[[], None]:
        """Return a function that runs a MODEL's network once on noise of the size of a LATENT, at a noise level in the middle.

        It runs with `conditioning` (a CONDITIONING); without one, a U-Net runs with 24 random tokens."""


class TrainingTopic(Protocol):
    """MODELs in training."""

    def denoiser(self, model: Any, train: bool = False, room: int = 0, frozen: bool = False) -> Denoiser:
        """Return a MODEL as what training needs of it, on its device, where `room` bytes are left free beside it if possible.

        With `train` its weights take gradients, which is for a MODEL that :meth:`SurgeryTopic.rebuild` made and nobody else has;
        `release()` of the result ends that. With `frozen` too its weights take none, but gradients go through them to what is put on its
        layers (:mod:`~rapiddraw.core.lowrank.lora`); they are in bfloat16 on a GPU. Raises
        :class:`~rapiddraw.core.errors.InputError` for a model that predicts neither eps, v, x0 nor a flow."""

    def texts(self, clip: Any) -> TextsInTraining:
        """Return a CLIP of CLIP text encoders as training needs of it: copies of its encoders with its patches merged in, frozen, through
        which gradients go."""

    def check(self, model: Any, conditioning: Any, size: int) -> None:
        """Raise :class:`~rapiddraw.core.errors.InputError` where :meth:`denoiser` cannot serve a MODEL with texts such as `conditioning`.

        `size` is the side of the pictures in pixels. Nothing is loaded to the device."""

    def levels(self, model: Any) -> tuple[tuple[int, int], int]:
        """Return (the indices [first, last) of the noise levels that a MODEL was trained at, the number of its noise levels).

        Raises :class:`~rapiddraw.core.errors.InputError` as :meth:`denoiser` does."""


class Host:
    """One host, by name (`comfy` or `embedded`). Each topic is a module of it, imported when it is first asked for."""

    process: ProcessTopic
    model: ModelTopic
    clip: ClipTopic
    knowledge: KnowledgeTopic
    vae: VaeTopic
    control: ControlTopic
    upscale: UpscaleTopic
    sampling: SamplingTopic
    time_decoupled: TimeDecoupledTopic
    style: StyleTopic
    attention: AttentionTopic
    speed: SpeedTopic
    surgery: SurgeryTopic
    training: TrainingTopic

    def __init__(self, name: str) -> None:
        self.name = name
        self.process.start()

    def __getattr__(self, topic: str) -> Any:
        if topic not in Host.__annotations__:
            raise AttributeError(f"a host has no topic {topic!r}; its topics are {', '.join(Host.__annotations__)}")
        return importlib.import_module(f".{self.name}.{topic}", __package__)

    def load_bundles(self, unet: Path, text: Path, vae: Path) -> tuple[Any, Any, Any]:
        """Return (MODEL, CLIP, VAE) from three bundles. Raises :class:`~rapiddraw.core.errors.BundleError` where they do not fit together:
        another latent space, or a text width that the U-Net does not attend to."""
        from ..bundles.format import read_info
        from .fit import check_complete, check_fit

        infos = read_info(unet, "unet"), read_info(text, "text"), read_info(vae, "vae")
        check_complete(infos[0])
        check_complete(infos[2])
        check_fit(*infos)
        return self.model.load(unet), self.clip.load(text), self.vae.load(vae)
