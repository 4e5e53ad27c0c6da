"""Single-file checkpoints of SD 1.5, SDXL and its refiner (the layout of CompVis and Stability AI, which ComfyUI saves as well).

What a file is, its tensor names say, and every size comes from its tensors; diffusers' own functions then rename the tensors. Nothing is
looked up on a hub.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..bundles.format import LatentSpace, Schedule, check_config, load_foreign, tensor_names
from ..errors import BundleError
from .parts import Checkpoint, Part, text_part
from .vocabulary import find_tokenizer

if TYPE_CHECKING:
    from torch import Tensor

UNET, VAE = "model.diffusion_model.", "first_stage_model."
SD1_CLIP, XL_CLIP_L, XL_CLIP_G = "cond_stage_model.transformer.", "conditioner.embedders.0.transformer.", "conditioner.embedders.1.model."
REFINER_CLIP_G = "conditioner.embedders.0.model."
SD1_SCALE, XL_SCALE = 0.18215, 0.13025  # of their latents; the files do not hold it
SD1_HEADS, XL_HEAD_WIDTH = 8, 64  # heads in every layer; features of a head
CLIP_ACTIVATION = {"l": "quick_gelu", "g": "gelu"}
REFINER = "SDXL refiner"
TIME_WIDTH = 256  # features of each number of SDXL's size conditioning
_IN_COMFYUI = "run the graph in ComfyUI, which reads it"


def read_single_file(path: Path) -> Checkpoint:
    """Read a checkpoint. Raises :class:`BundleError` for a damaged file, one of another family, or one that lacks a part."""
    names = tensor_names(path)
    family = _family(names, path.name)
    is_xl = family != "SD 1.5"
    schedule = _schedule(names, path.name)
    tokenizer = find_tokenizer(path)
    tensors = load_foreign(path)
    from diffusers.loaders import single_file_utils as convert

    try:
        unet = unet_config(_below(tensors, UNET), is_xl)
        vae = vae_config(_below(tensors, VAE))
        for config in (unet, vae):
            check_config(config, len(tensors))
        unet_part = Part(unet, convert.convert_ldm_unet_checkpoint(_only(tensors, UNET), unet))
        vae_part = Part(vae, convert.convert_ldm_vae_checkpoint(_only(tensors, VAE), vae))
        clips = {}
        if family != REFINER:
            clips["l"] = convert.convert_ldm_clip_checkpoint(_only(tensors, XL_CLIP_L if is_xl else SD1_CLIP))
        if is_xl:
            prefix = REFINER_CLIP_G if family == REFINER else XL_CLIP_G
            clips["g"] = convert.convert_open_clip_checkpoint(None, _only(tensors, prefix), prefix=prefix)
    except (KeyError, IndexError, ValueError, StopIteration, AttributeError) as error:
        raise BundleError(f"{path.name} is not laid out as SD 1.5 or SDXL (at {error}); {_IN_COMFYUI}") from error
    texts = {key: text_part(clip, tokenizer, path.name, CLIP_ACTIVATION[key]) for key, clip in clips.items()}
    factor = 2 ** (len(vae["block_out_channels"]) - 1)
    space = LatentSpace(vae["latent_channels"], factor, XL_SCALE if is_xl else SD1_SCALE)
    return Checkpoint(path.name, unet_part, vae_part, texts, space, schedule)


def _family(names: Iterable[str], name: str) -> str:
    """ "SD 1.5", "SDXL" or :data:`REFINER`. Raises :class:`BundleError` saying what else the file is."""

    def has(*prefixes: str) -> bool:
        return any(one.startswith(prefixes) for one in names)

    if not has(UNET):
        raise BundleError(f"{name} holds no U-Net of Stable Diffusion ({UNET}...). A bundle of RapidDraw loads with Load Bundles")
    if has("cond_stage_model.model."):
        raise BundleError(f"{name} is SD 2; as a single file only SD 1.5, SDXL and its refiner are read: {_IN_COMFYUI}")
    if not has(VAE):
        raise BundleError(f"{name} holds no VAE; choose a checkpoint with its VAE in it")
    if has(XL_CLIP_G) and has(XL_CLIP_L):
        return "SDXL"
    if has(REFINER_CLIP_G) and has(f"{UNET}label_emb."):
        return REFINER
    if has(SD1_CLIP):
        return "SD 1.5"
    raise BundleError(f"{name} holds no text encoder of SD 1.5 or SDXL; choose a whole checkpoint, with its CLIP in it")


def _schedule(names: Iterable[str], name: str) -> Schedule:
    """The forward process that both families were trained with; marks in the file say what differs."""
    marks = {one for one in names if "." not in one or one.startswith("edm_")}
    if foreign := marks & {"ztsnr", "edm_mean", "edm_std", "edm_vpred.sigma_max"}:
        raise BundleError(f"{name} was trained on another noise schedule ({', '.join(sorted(foreign))}); {_IN_COMFYUI}")
    return Schedule(prediction="v" if "v_pred" in marks else "eps")


def unet_config(tensors: Mapping[str, Tensor], is_xl: bool) -> dict[str, Any]:
    """Return the arguments of UNet2DConditionModel, from a U-Net's tensors without their prefix."""
    levels: list[list[int]] = [[]]  # the numbers of each level's blocks
    last = max(int(name.split(".")[1]) for name in tensors if name.startswith("input_blocks."))
    if last > len(tensors):
        raise ValueError(f"input block {last}")
    for block in range(1, 1 + last):
        if f"input_blocks.{block}.0.op.weight" in tensors:
            levels.append([])
        else:
            levels[-1].append(block)
    widths = [tensors[f"input_blocks.{level[-1]}.0.out_layers.3.weight"].shape[0] for level in levels]
    depths = [_count(tensors, rf"input_blocks\.{level[0]}\.1\.transformer_blocks\.(\d+)\.") for level in levels]
    middle = _count(tensors, r"middle_block\.1\.transformer_blocks\.(\d+)\.")
    attention = next(name for name in tensors if name.endswith(".transformer_blocks.0.attn2.to_k.weight"))
    config: dict[str, Any] = {
        "in_channels": tensors["input_blocks.0.0.weight"].shape[1],
        "out_channels": tensors["out.2.weight"].shape[0],
        "block_out_channels": widths,
        "layers_per_block": len(levels[0]),
        "down_block_types": ["CrossAttnDownBlock2D" if depth else "DownBlock2D" for depth in depths],
        "up_block_types": ["CrossAttnUpBlock2D" if depth else "UpBlock2D" for depth in reversed(depths)],
        # The middle block takes the last level's depth, also where that level has no attention.
        "transformer_layers_per_block": [max(depth, 1) for depth in depths[:-1]] + [depths[-1] or middle],
        "cross_attention_dim": tensors[attention].shape[1],
        "use_linear_projection": tensors[attention.split("transformer_blocks")[0] + "proj_in.weight"].ndim == 2,
        # diffusers' historical name: it is the number of heads
        "attention_head_dim": [width // XL_HEAD_WIDTH for width in widths] if is_xl else SD1_HEADS,
    }
    if is_xl:
        sizes = tensors["label_emb.0.0.weight"].shape[1]
        config |= {
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": TIME_WIDTH,
            "projection_class_embeddings_input_dim": sizes,
        }
    return config


def vae_config(tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """Return the arguments of AutoencoderKL, from a VAE's tensors without their prefix."""
    levels = _count(tensors, r"encoder\.down\.(\d+)\.")
    return {
        "in_channels": tensors["encoder.conv_in.weight"].shape[1],
        "out_channels": tensors["decoder.conv_out.weight"].shape[0],
        "latent_channels": tensors["post_quant_conv.weight"].shape[1],
        "block_out_channels": [tensors[f"encoder.down.{level}.block.0.conv2.weight"].shape[0] for level in range(levels)],
        "down_block_types": ["DownEncoderBlock2D"] * levels,
        "up_block_types": ["UpDecoderBlock2D"] * levels,
        "layers_per_block": _count(tensors, r"encoder\.down\.0\.block\.(\d+)\."),
        "mid_block_add_attention": "encoder.mid.attn_1.q.weight" in tensors,
    }


def _only(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def _below(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in _only(tensors, prefix).items()}


def _count(names: Iterable[str], pattern: str) -> int:
    """How many numbers stand at the group of `pattern`: one more than the largest."""
    found = [int(match[1]) for name in names if (match := re.match(pattern, name))]
    return max(found, default=-1) + 1
