"""U-Nets in ComfyUI: a bundle's config as ComfyUI's own `UNetModel`, so that its loaders of LoRA, merges, patches and memory know it.

diffusers' names of weights become ComfyUI's; nothing of diffusers is needed to run. What `UNetModel` cannot express is refused, never
approximated.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import comfy.latent_formats
import comfy.ldm.modules.diffusionmodules.openaimodel
import comfy.model_base
import comfy.model_management
import comfy.model_sampling
import comfy.supported_models_base
import comfy.utils
import torch

from ...bundles.format import BundleInfo, LatentSpace
from ...checkpoint.single_file import TIME_WIDTH
from ...data.buckets import INDEX_FEATURES, INDEX_KEY, index_condition
from ...errors import BundleError, InputError
from ...lowrank.factorize import open_factors
from ...slim.changes import open_changes, read_changes
from ..fit import name_of
from .weights import Tensors, WholeOperations, check_shapes, with_factors, with_inner

log = logging.getLogger("rapiddraw")

# What diffusers' UNet2DConditionModel must be to be a UNetModel: field -> the only value that can be carried (also its default).
_CARRIED: dict[str, Any] = {
    "center_input_sample": False,
    "flip_sin_to_cos": True,
    "freq_shift": 0,
    "mid_block_type": "UNetMidBlock2DCrossAttn",
    "only_cross_attention": False,
    "downsample_padding": 1,
    "mid_block_scale_factor": 1,
    "act_fn": "silu",
    "norm_num_groups": 32,
    "norm_eps": 1e-5,
    "encoder_hid_dim": None,
    "dual_cross_attention": False,
    "addition_embed_type": None,
    "resnet_time_scale_shift": "default",
    "time_embedding_type": "positional",
    "time_cond_proj_dim": None,
    "conv_in_kernel": 3,
    "conv_out_kernel": 3,
    "attention_type": "default",
    "mid_block_only_cross_attention": None,
    "cross_attention_norm": None,
    "reverse_transformer_layers_per_block": None,
}
_BETAS = {"scaled_linear": "linear", "linear": "sqrt_linear", "squaredcos_cap_v2": "squaredcos_cap_v2"}  # ours -> ComfyUI's names
_SD_WIDTH = 320  # model_channels of Stable Diffusion, for which ComfyUI's estimate of memory was made


class Ratio(float):
    """A channel multiplier such as 1.5: times a whole number of channels it gives a whole number, as UNetModel needs."""

    def __mul__(self, channels: Any) -> Any:
        return round(float(self) * channels)

    __rmul__ = __mul__


class RapidDrawModel(comfy.model_base.BaseModel):
    """ComfyUI's BaseModel under a name that shows in the log that the model is RapidDraw's."""

    def __init__(self, model_config: Any, model_type: Any, device: Any = None) -> None:
        super().__init__(model_config, model_type, device=device)
        if model_config.predicts_x0:  # BaseModel has no type for it, though ComfyUI has the arithmetic
            sampling = type("ModelSampling", (comfy.model_sampling.ModelSamplingDiscrete, comfy.model_sampling.X0), {})
            self.model_sampling = sampling(model_config)

    def encode_adm(self, **details: Any) -> torch.Tensor | None:
        """Return the input beside the tokens of a U-Net that knows the index of its resolution. Other U-Nets of ours take none."""
        if not self.adm_channels:
            if INDEX_KEY in details:
                log.info("%s takes no resolution index: the one in the conditioning has no effect", name_of(self.model_config.bundle))
            return None
        width = self.adm_channels - INDEX_FEATURES
        made = index_condition(details.get("pooled_output"), details.get(INDEX_KEY), width, details["noise"].shape)
        return made.to(details["device"])


class RapidDrawConfig(comfy.supported_models_base.BASE):
    """A model's family as ComfyUI needs it. :func:`model_config` fills in the parts that differ from bundle to bundle."""

    unet_extra_config: dict[str, Any] = {}  # BASE would overwrite the number of heads
    bundle: BundleInfo | None = None  # what it was made from
    predicts_x0 = False
    prediction = "eps"

    def model_type(self, state_dict: Any, prefix: str = "") -> Any:
        kinds = comfy.model_base.ModelType
        return {"v": kinds.V_PREDICTION, "flow": kinds.FLOW}.get(self.prediction, kinds.EPS)

    def inpaint_model(self) -> bool:
        return False  # BASE takes any model of more than four latent channels for an inpainting model

    def get_model(self, state_dict: Any, prefix: str = "", device: Any = None) -> RapidDrawModel:
        return RapidDrawModel(self, self.model_type(state_dict, prefix), device=device)


def latent_format(latent: LatentSpace) -> type:
    """Return a LatentFormat class of this space: `process_in(z) = (z - shift) * scale`, with colours for previews where known."""
    factors = None if latent.rgb_factors is None else [list(row) for row in latent.rgb_factors]

    class RapidDrawLatent(comfy.latent_formats.LatentFormat):
        scale_factor, shift_factor = latent.scale, latent.shift
        latent_channels, spacial_downscale_ratio = latent.channels, latent.factor
        latent_rgb_factors = factors
        latent_rgb_factors_bias = None if latent.rgb_bias is None else list(latent.rgb_bias)

        def process_in(self, latent: torch.Tensor) -> torch.Tensor:
            return (latent - self.shift_factor) * self.scale_factor

        def process_out(self, latent: torch.Tensor) -> torch.Tensor:
            return latent / self.scale_factor + self.shift_factor

    return RapidDrawLatent


def unet_arguments(info: BundleInfo) -> dict[str, Any]:
    """Return `UNetModel`'s arguments for a bundle's diffusers config. Raises :class:`BundleError` naming what it cannot carry."""
    config = info.config
    widths, levels = config.get("block_out_channels", [320, 640, 1280, 1280]), len(config.get("block_out_channels", [0] * 4))
    down = config.get("down_block_types", ["CrossAttnDownBlock2D"] * (levels - 1) + ["DownBlock2D"])
    up = config.get("up_block_types", ["UpBlock2D"] + ["CrossAttnUpBlock2D"] * (levels - 1))
    layers = _each(config.get("layers_per_block", 2), levels)
    depths = _each(config.get("transformer_layers_per_block", 1), levels)
    heads = _each(config.get("num_attention_heads") or config.get("attention_head_dim", 8), levels)
    per_head = {width // count for width, count in zip(widths, heads, strict=True)}
    wrong = [f"{key}={config[key]!r}" for key, only in _CARRIED.items() if key in config and config[key] not in (only, [only] * levels)]
    wrong += [f"class_embed_type={config.get('class_embed_type')!r}"] * (config.get("class_embed_type") not in (None, "projection"))
    wrong += [f"block_out_channels={list(widths)}"] * any(w % 32 for w in widths)
    wrong += [f"down_block_types={list(down)}"] * bool(set(down) - {"CrossAttnDownBlock2D", "DownBlock2D"})
    wrong += [f"up_block_types={list(up)}"] * bool(set(up) - {"CrossAttnUpBlock2D", "UpBlock2D"})
    wrong += [f"attention_head_dim={heads}"] * (len(set(heads)) > 1 and len(per_head) > 1)
    if wrong:
        raise BundleError(f"{name_of(info)}: ComfyUI's UNetModel cannot carry {', '.join(wrong)}")
    index_features = config.get("projection_class_embeddings_input_dim") if config.get("class_embed_type") == "projection" else None
    if index_features is not None and index_features <= INDEX_FEATURES:
        raise BundleError(f"{name_of(info)}: projection_class_embeddings_input_dim={index_features} leaves no room for a pooled text state")
    crossed_down = [depths[i] if kind.startswith("Cross") else 0 for i, kind in enumerate(down)]
    crossed_up = [depths[i] if kind.startswith("Cross") else 0 for i, kind in enumerate(list(up)[::-1])]
    return {
        "image_size": config.get("sample_size") or 32,
        "in_channels": config.get("in_channels", 4),
        "out_channels": config.get("out_channels", 4),
        "model_channels": widths[0],
        "num_res_blocks": layers,
        "channel_mult": [width // widths[0] if width % widths[0] == 0 else Ratio(width / widths[0]) for width in widths],
        "transformer_depth": [crossed_down[i] for i in range(levels) for _ in range(layers[i])],
        "transformer_depth_output": [crossed_up[i] for i in range(levels) for _ in range(layers[i] + 1)],
        "transformer_depth_middle": depths[-1],
        "use_spatial_transformer": True,
        "legacy": False,
        "context_dim": config.get("cross_attention_dim", 1280),
        "use_linear_in_transformer": bool(config.get("use_linear_projection", False)),
        "num_classes": None if index_features is None else "sequential",
        "adm_in_channels": index_features,
        "use_checkpoint": False,
        "use_temporal_attention": False,
        "use_temporal_resblock": False,
        "num_heads": heads[0] if len(set(heads)) == 1 else -1,
        "num_head_channels": -1 if len(set(heads)) == 1 else per_head.pop(),
    }


def diffusers_config(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Return the config of diffusers' U-Net with `UNetModel`'s `arguments`, as ComfyUI reads them off a checkpoint: the inverse of
    :func:`unet_arguments`. The input beside the tokens, where there is one, is SDXL's."""
    widths = [round(arguments["model_channels"] * factor) for factor in arguments["channel_mult"]]
    layers = _each(arguments["num_res_blocks"], len(widths))
    depths = [arguments["transformer_depth"][sum(layers[:level])] for level in range(len(widths))]
    heads = arguments.get("num_heads", -1)
    config: dict[str, Any] = {
        "in_channels": arguments["in_channels"],
        "out_channels": arguments["out_channels"],
        "block_out_channels": widths,
        "layers_per_block": layers[0] if len(set(layers)) == 1 else layers,
        "down_block_types": ["CrossAttnDownBlock2D" if depth else "DownBlock2D" for depth in depths],
        "up_block_types": ["CrossAttnUpBlock2D" if depth else "UpBlock2D" for depth in reversed(depths)],
        # The middle block takes the last level's depth, also where that level has no attention.
        "transformer_layers_per_block": [*(max(depth, 1) for depth in depths[:-1]), depths[-1] or arguments["transformer_depth_middle"]],
        "cross_attention_dim": arguments["context_dim"],
        "use_linear_projection": bool(arguments.get("use_linear_in_transformer", False)),
        # diffusers' historical name: it is the number of heads
        "attention_head_dim": [width // arguments["num_head_channels"] for width in widths] if heads == -1 else heads,
    }
    if arguments.get("adm_in_channels"):
        config |= {
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": TIME_WIDTH,
            "projection_class_embeddings_input_dim": arguments["adm_in_channels"],
        }
    return config


def unet_weights(info: BundleInfo, tensors: Tensors, arguments: dict[str, Any]) -> Tensors:
    """Return the bundle's weights under `UNetModel`'s names, shapes checked against a network that is built without memory."""
    names = with_factors(comfy.utils.unet_to_diffusers(arguments), tensors)
    changes = read_changes(info.extra, name_of(info))
    if changes is not None:
        names = with_inner(names, tensors)
    foreign = sorted(set(tensors) - set(names))
    if foreign:
        raise BundleError(f"{name_of(info)}: {len(foreign)} weights have no place in ComfyUI's UNetModel ({', '.join(foreign[:3])})")
    weights = {names[name]: tensor for name, tensor in tensors.items()}
    with torch.device("meta"):
        unet = comfy.ldm.modules.diffusionmodules.openaimodel.UNetModel(
            **arguments, dtype=torch.float32, device=torch.device("meta"), operations=WholeOperations
        )
        open_changes(unet, changes, name_of(info))
        open_factors(unet, weights, name_of(info))
    check_shapes(info, weights, unet)
    return weights


def model_config(info: BundleInfo, arguments: dict[str, Any]) -> RapidDrawConfig:
    """Return the family of this one bundle: its latent space, its schedule, its kind of prediction."""
    assert info.latent is not None and info.schedule is not None  # noqa: S101 - check_complete has seen to it
    schedule = info.schedule
    changed = {
        "latent_format": latent_format(info.latent),
        "memory_usage_factor": max(0.1, arguments["model_channels"] / _SD_WIDTH),
        "bundle": info,
        "predicts_x0": schedule.prediction == "x0",
        "prediction": schedule.prediction,
        "sampling_settings": {
            "beta_schedule": _BETAS[schedule.beta_schedule],
            "linear_start": schedule.beta_start,
            "linear_end": schedule.beta_end,
            "timesteps": schedule.timesteps,
            "multiplier": schedule.timesteps,  # of a flow model, as is the shift
            "shift": 1.0,
        },
    }
    return type("RapidDrawConfig", (RapidDrawConfig,), changed)(arguments)


def _each(value: Any, levels: int) -> list[int]:
    """Return a number a level from a field that may be one number for all levels, or a list."""
    values = [value] * levels if isinstance(value, int) else list(value)
    if len(values) != levels or not all(isinstance(v, int) and v > 0 for v in values):
        raise InputError(f"{value!r} is not a positive number for each of {levels} levels")
    return values
