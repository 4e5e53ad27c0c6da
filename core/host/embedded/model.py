"""The embedded host's MODEL: diffusers' UNet2DConditionModel behind the interface that samplers and guiders know from ComfyUI."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from ...attention.chain import OVERRIDE
from ...bundles.format import Bundle, BundleInfo, LatentSpace, halved, save_bundle
from ...bundles.load import load_bundle
from ...data.buckets import INDEX_FEATURES, INDEX_KEY, index_condition
from ...diffusion.flow import noise_schedule
from ...diffusion.schedule import NoiseSchedule
from ...errors import BundleError, InputError
from ...networks import network_of
from ...progress import raise_if_cancelled
from ...slim.changes import changes_of
from . import process

_SIZES = ("height", "width", "crop_h", "crop_w", "target_height", "target_width")  # in SDXL's order, under ComfyUI's names
_OF_REFINER = ("height", "width", "crop_h", "crop_w", "aesthetic_score")
_SCORES = {"negative": 2.5}  # what SDXL's refiner is told of the picture's looks, by the prompt's part; 6 for all others


class BaseModel:
    """A diffusers UNet2DConditionModel, its schedule and its latent space, as `denoised` of a state in sigma space."""

    def __init__(self, unet: Any, model_sampling: NoiseSchedule, latent_format: LatentSpace, device: torch.device) -> None:
        self.diffusion_model, self.model_sampling, self.latent_format, self.device = unet, model_sampling, latent_format, device

    @property
    def context_width(self) -> int:
        """Features a token of the conditioning must have."""
        return int(self.diffusion_model.config["cross_attention_dim"])

    @property
    def pooled_width(self) -> int:
        """Features of the pooled text state that the U-Net takes beside the tokens: 0 for all but SDXL's kind and those that are told
        the index of their resolution."""
        config = self.diffusion_model.config
        if self.takes_index:
            return int(config["projection_class_embeddings_input_dim"]) - INDEX_FEATURES
        if config.get("addition_embed_type") != "text_time":
            return 0
        return int(config["projection_class_embeddings_input_dim"]) - len(self.told) * int(config["addition_time_embed_dim"])

    @property
    def told(self) -> tuple[str, ...]:
        """The numbers that a U-Net of SDXL's kind takes beside the pooled text. The refiner alone has one text encoder: its tokens are as
        wide as its pooled state."""
        config = self.diffusion_model.config
        numbers = len(_OF_REFINER) * int(config["addition_time_embed_dim"])
        is_refiner = int(config["projection_class_embeddings_input_dim"]) - numbers == self.context_width
        return _OF_REFINER if is_refiner else _SIZES

    @property
    def takes_index(self) -> bool:
        """Whether the U-Net is told the index of its resolution (:mod:`~rapiddraw.core.data.buckets`)."""
        return bool(self.diffusion_model.config.get("class_embed_type") == "projection")

    @torch.no_grad()
    def apply_model(
        self,
        x: torch.Tensor,
        t: torch.Tensor,
        c_crossattn: torch.Tensor,
        y: torch.Tensor | None = None,
        transformer_options: dict[str, Any] | None = None,
        control: Mapping[str, list[torch.Tensor]] | None = None,
        **_: Any,
    ) -> torch.Tensor:
        """Return `denoised` (B, C, h, w) for a noisy state `x` at sigmas `t` (B,) under tokens (B, T, width), and `y` of :meth:`encode_adm`
        (B, n) where the U-Net takes it. Cancels between calls. `control` is added to skip connections ("output") and the middle ("middle").

        Of `transformer_options`, `optimized_attention_override` is honoured: it is called in the place of attention, as in ComfyUI; and
        `attn1_patch` of its `patches`, on what self-attention takes in.
        """
        raise_if_cancelled()
        network_input = self.model_sampling.calculate_input(t, x)
        timestep = self.model_sampling.timestep(t)
        options: dict[str, Any] = {"class_labels": y} if self.takes_index else {"added_cond_kwargs": self.added_conditions(y)}
        if transformer_options is not None and (OVERRIDE in transformer_options or transformer_options.get("patches")):
            told = {**transformer_options, "original_shape": list(x.shape)}  # under ComfyUI's name
            options |= {"cross_attention_kwargs": {"transformer_options": told}}
        if control is not None:
            skips, middle = tuple(control["output"]), control["middle"][0]
            options |= {"down_block_additional_residuals": skips, "mid_block_additional_residual": middle}
        output = self.diffusion_model(network_input, timestep, encoder_hidden_states=c_crossattn, return_dict=False, **options)[0]
        return self.model_sampling.calculate_denoised(t, output, x)

    def added_conditions(self, y: torch.Tensor | None) -> dict[str, torch.Tensor] | None:
        """Return `y` of :meth:`encode_adm` under diffusers' names."""
        return None if y is None or self.takes_index else {"text_embeds": y[:, : self.pooled_width], "time_ids": y[:, self.pooled_width :]}

    def encode_adm(self, details: Mapping[str, Any], x: torch.Tensor) -> torch.Tensor:
        """Return SDXL's input beside the tokens: the pooled text state and six sizes in pixels, (1, pooled_width + 6); its refiner's
        takes four sizes and an aesthetic score, 6 unless `details` say so or belong to the negative prompt.

        `details` are those of a conditioning; without sizes in them the original is as large as the picture that `x` (B, C, h, w) becomes,
        not cropped, and the target as large as the original. For a U-Net that is told the index of its resolution, see
        :func:`~rapiddraw.core.data.buckets.index_condition`. Raises :class:`InputError` for a pooled state of another width.
        """
        pooled = details.get("pooled_output")
        if self.takes_index:
            return index_condition(pooled, details.get(INDEX_KEY), self.pooled_width, x.shape).to(x.device)
        if pooled is None or pooled.shape[-1] != self.pooled_width:
            given = "none" if pooled is None else f"one of {pooled.shape[-1]} features"
            raise InputError(
                f"the model takes a pooled text state of {self.pooled_width} features, the conditioning carries {given}; "
                "encode the text with the CLIP that was loaded with this model"
            )
        sizes: dict[str, float] = dict(zip(("height", "width"), (side * self.latent_format.factor for side in x.shape[2:]), strict=True))
        sizes |= {name: details[name] for name in self.told if name in details}
        score = _SCORES.get(str(details.get("prompt_type")), 6.0)
        target = {"target_height": sizes["height"], "target_width": sizes["width"]}
        sizes = {"crop_h": 0, "crop_w": 0, "aesthetic_score": score, **target, **sizes}
        numbers = torch.tensor([[float(sizes[name]) for name in self.told]], device=x.device)
        return torch.cat([pooled.to(x.device, torch.float32), numbers.expand(len(pooled), -1)], dim=1)

    def process_latent_in(self, latent: torch.Tensor) -> torch.Tensor:
        """Return unscaled latents (as sockets carry them) in the space that the U-Net was trained in."""
        return (latent - self.latent_format.shift) * self.latent_format.scale

    def process_latent_out(self, latent: torch.Tensor) -> torch.Tensor:
        """Return the inverse of :meth:`process_latent_in`."""
        return latent / self.latent_format.scale + self.latent_format.shift

    def scale_latent_inpaint(self, sigma: torch.Tensor, noise: torch.Tensor, latent_image: torch.Tensor, **_: Any) -> torch.Tensor:
        """Return the kept part of a masked picture at noise level `sigma` (B,)."""
        return self.model_sampling.noise_scaling(sigma.reshape(-1, 1, 1, 1), noise, latent_image)


class Model:
    """The MODEL socket. `clone()` before changing anything: outputs of nodes are shared.

    `model_options` holds what later nodes patch in, under ComfyUI's keys: `model_function_wrapper` (one function around every call of
    the U-Net), `sampler_cfg_function` (replaces guidance) and `sampler_post_cfg_function` (a list, applied to the guided prediction).
    """

    def __init__(self, model: BaseModel, model_options: dict[str, Any] | None = None) -> None:
        self.model = model
        self.model_options: dict[str, Any] = model_options if model_options is not None else {"transformer_options": {}}

    @property
    def load_device(self) -> torch.device:
        """Where the U-Net computes."""
        return self.model.device

    def clone(self) -> Model:
        """Return the same network with new options. Functions and tensors in the options are shared, containers are copied."""
        return Model(self.model, copy_options(self.model_options))

    def get_model_object(self, name: str) -> Any:
        """Return `model_sampling`, `latent_format` or `diffusion_model`."""
        return getattr(self.model, name)

    def set_model_unet_function_wrapper(self, wrapper: Callable[..., torch.Tensor]) -> None:
        """Run `wrapper(apply_model, {"input", "timestep", "c", "cond_or_uncond"})` instead of the U-Net; `timestep` is sigma."""
        self.model_options["model_function_wrapper"] = wrapper

    def set_model_sampler_cfg_function(self, function: Callable[[dict[str, Any]], torch.Tensor]) -> None:
        """Replace guidance: `function({"cond_denoised", "uncond_denoised", "cond_scale", "input", ...})` returns `x - denoised`."""
        self.model_options["sampler_cfg_function"] = function

    def set_model_sampler_post_cfg_function(self, function: Callable[[dict[str, Any]], torch.Tensor]) -> None:
        """Add `function({"denoised", ...}) -> denoised`, run after guidance in the order they were added."""
        self.model_options["sampler_post_cfg_function"] = [*self.model_options.get("sampler_post_cfg_function", []), function]


def copy_options(options: dict[str, Any]) -> dict[str, Any]:
    """Copy nested dicts and lists; everything else is shared."""
    out = {}
    for key, value in options.items():
        out[key] = copy_options(value) if isinstance(value, dict) else copy.copy(value) if isinstance(value, list) else value
    return out


def load(path: Path) -> Model:
    """See :meth:`ModelTopic.load`."""
    return load_model(load_bundle(path, "unet"), process.device())


def save(model: Model, path: Path, provenance: Mapping[str, Any]) -> Path:
    """See :meth:`ModelTopic.save`. Weights are written in half precision, as those of the recipes' bundles are."""
    made = export(model)
    return save_bundle(path, halved(made.tensors), replace(made.info, provenance=dict(provenance)))


def export(model: Model) -> Bundle:
    """See :meth:`ModelTopic.export`. Every model here is a U-Net."""
    inner, unet = model.model, model.model.diffusion_model
    config = {key: value for key, value in dict(unet.config).items() if not key.startswith("_")}
    info = BundleInfo("unet", config, inner.latent_format, inner.model_sampling.schedule, extra=changes_of(unet).stored())
    return Bundle(info, unet.state_dict())


def attended_width(model: Model) -> int | None:
    """See :meth:`ModelTopic.attended_width`."""
    return model.model.context_width


def pooled_width(model: Model) -> int:
    """See :meth:`ModelTopic.pooled_width`."""
    return model.model.pooled_width


def needed_details(model: Model) -> tuple[str, ...]:
    """See :meth:`ModelTopic.needed_details`."""
    return ()


def takes_resolution_index(model: Model) -> bool:
    """See :meth:`ModelTopic.takes_resolution_index`."""
    return model.model.takes_index


def load_model(bundle: Bundle, device: torch.device) -> Model:
    """Return a MODEL from a bundle of kind `unet`. Raises :class:`BundleError` for metadata that is missing or contradicts the tensors."""
    from diffusers import UNet2DConditionModel

    from .attention import open_attention

    info = bundle.info
    name = info.path.name if info.path else "the U-Net bundle"
    if info.latent is None or info.schedule is None:
        missing = " and ".join(key for key in ("latent", "schedule") if getattr(info, key) is None)
        raise BundleError(f"{name} lacks {missing} in its metadata; train it again with `rapiddraw train unet`")
    unet: Any = network_of(UNet2DConditionModel, bundle)
    if (unet.config["in_channels"], unet.config["out_channels"]) != (info.latent.channels, info.latent.channels):
        raise BundleError(f"{name} claims {info.latent.channels} latent channels, but its network takes {unet.config['in_channels']}")
    try:
        schedule = noise_schedule(info.schedule)
    except InputError as error:
        raise BundleError(f"{name}: {error}") from error
    return Model(BaseModel(open_attention(unet.to(device)), schedule, info.latent, device))
