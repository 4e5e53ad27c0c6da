"""VAE in ComfyUI: a VAE bundle as ComfyUI's own `comfy.sd.VAE`, of any number of levels, with or without attention in the middle."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import comfy.ldm.models.autoencoder
import comfy.model_management
import comfy.sd
import torch

from ...bundles.format import Bundle, BundleInfo, LatentSpace
from ...bundles.load import load_bundle
from ...errors import BundleError, InputError
from ...slim.decoder import read_widths
from ..fit import check_complete, name_of
from ..tiling import tiles
from .unet import Ratio
from .weights import Tensors, check_shapes

_SD_WIDTH = 128  # first width of Stable Diffusion's VAE, for which ComfyUI's estimate of memory was made
_RENAMED = (
    (r"\.down_blocks\.(\d+)\.resnets\.(\d+)\.", r".down.\1.block.\2."),
    (r"\.down_blocks\.(\d+)\.downsamplers\.0\.", r".down.\1.downsample."),
    (r"\.up_blocks\.(\d+)\.resnets\.(\d+)\.", r".up.\1.block.\2."),
    (r"\.up_blocks\.(\d+)\.upsamplers\.0\.", r".up.\1.upsample."),
    (r"\.mid_block\.resnets\.0\.", ".mid.block_1."),
    (r"\.mid_block\.resnets\.1\.", ".mid.block_2."),
    (r"\.mid_block\.attentions\.0\.group_norm\.", ".mid.attn_1.norm."),
    (r"\.mid_block\.attentions\.0\.to_out\.0\.", ".mid.attn_1.proj_out."),
    (r"\.mid_block\.attentions\.0\.to_([qkv])\.", r".mid.attn_1.\1."),
    (r"\.conv_shortcut\.", ".nin_shortcut."),
    (r"\.conv_norm_out\.", ".norm_out."),
)


class NoAttention(torch.nn.Module):
    """A stand-in for the attention that ComfyUI's VAE always has and ours may lack."""

    def forward(self, x: torch.Tensor, **_: Any) -> torch.Tensor:
        return x


def vae_arguments(info: BundleInfo) -> dict[str, Any]:
    """Return ComfyUI's `AutoencoderKL` arguments for a bundle's diffusers config. Raises :class:`BundleError` for what it cannot carry."""
    config = info.config
    widths, layers = config.get("block_out_channels", [64]), config.get("layers_per_block", 1)
    only = {"act_fn": "silu", "norm_num_groups": 32, "in_channels": 3, "out_channels": 3}
    wrong = [f"{key}={config[key]!r}" for key, value in only.items() if config.get(key, value) != value]
    wrong += [f"block_out_channels={list(widths)}"] * any(w % 32 or w % widths[0] for w in widths)
    for key, kind in (("down_block_types", "DownEncoderBlock2D"), ("up_block_types", "UpDecoderBlock2D")):
        wrong += [f"{key}={list(config.get(key, []))}"] * bool(set(config.get(key, [])) - {kind})
    if wrong:
        raise BundleError(f"{name_of(info)}: ComfyUI's VAE cannot carry {', '.join(wrong)}")
    channels = config.get("latent_channels", 4)
    inside = {
        "double_z": True, "z_channels": channels, "resolution": 256, "in_channels": 3, "out_ch": 3, "ch": widths[0],
        "ch_mult": [width // widths[0] for width in widths], "num_res_blocks": layers, "attn_resolutions": [], "dropout": 0.0,
    }  # fmt: skip
    return {"ddconfig": inside, "embed_dim": channels}


def vae_weights(tensors: Tensors, levels: int, channels: int, fill: bool = True) -> Tensors:
    """Return diffusers' weights under ComfyUI's names. With `fill`, what a bundle may leave out is filled in so that it changes nothing."""
    weights: Tensors = {}
    for name, tensor in tensors.items():
        for pattern, into in _RENAMED:
            name = re.sub(pattern, into, name)
        # diffusers counts the decoder's levels from the smallest picture, ComfyUI from the largest
        name = re.sub(r"\.up\.(\d+)\.", lambda match: f".up.{levels - 1 - int(match[1])}.", name)
        weights[name] = tensor[..., None, None] if ".attn_1." in name and tensor.ndim == 2 else tensor
    if not fill:
        return weights
    for side, width in (("encoder", "encoder.conv_out.weight"), ("decoder", "decoder.conv_in.weight")):
        if f"{side}.mid.attn_1.q.weight" not in weights and width in weights:
            size = weights[width].shape[1 if side == "encoder" else 0]
            for part in ("norm", "q", "k", "v", "proj_out"):
                weights[f"{side}.mid.attn_1.{part}.weight"] = torch.zeros(size) if part == "norm" else torch.zeros(size, size, 1, 1)
                weights[f"{side}.mid.attn_1.{part}.bias"] = torch.zeros(size)
    for name, size in (("quant_conv", 2 * channels), ("post_quant_conv", channels)):
        weights.setdefault(f"{name}.weight", torch.eye(size)[..., None, None])
        weights.setdefault(f"{name}.bias", torch.zeros(size))
    return weights


def export(vae: Any) -> Bundle:
    """See :meth:`VaeTopic.export`."""
    from diffusers import AutoencoderKL

    network = vae.first_stage_model
    known = getattr(vae, "rapiddraw_info", None)
    if known is not None:
        config, latent, extra = known.config, known.latent, known.extra
    else:
        config = _config_of(network)
        latent, extra = LatentSpace(config["latent_channels"], 2 ** (len(config["block_out_channels"]) - 1)), {}
    with torch.device("meta"):
        names = AutoencoderKL(**config).state_dict()
    stored = network.state_dict()
    tensors = {}
    for name, place in names.items():
        (key,) = vae_weights({name: place}, len(config["block_out_channels"]), 0, fill=False)
        if key not in stored:
            raise InputError(f"the VAE has no {key}; only the decoder of an AutoencoderKL, as SD 1.5, SDXL and Flux have, can be pruned")
        tensors[name] = stored[key].flatten(1) if place.dim() == 2 else stored[key]
    return Bundle(BundleInfo("vae", config, latent, extra=extra), tensors)


def _config_of(network: Any) -> dict[str, Any]:
    """Return diffusers' config of ComfyUI's `AutoencoderKL`, read off its layers. Raises :class:`InputError` for another network."""
    try:
        encoder, decoder = network.encoder, network.decoder
        widths = [int(stage.block[0].out_channels) for stage in encoder.down]
        layers, channels = len(encoder.down[0].block), int(decoder.conv_in.in_channels)
        right = [int(stage.block[0].out_channels) for stage in decoder.up] == widths and isinstance(decoder.conv_in, torch.nn.Conv2d)
    except (AttributeError, IndexError, TypeError) as error:
        raise InputError(f"a {type(network).__name__} is no AutoencoderKL, whose decoder could be pruned") from error
    if not right:
        raise InputError(f"this {type(network).__name__} has a decoder of its own kind, which cannot be pruned")
    return {
        "in_channels": 3, "out_channels": 3, "latent_channels": channels, "block_out_channels": widths, "layers_per_block": layers,
        "down_block_types": ["DownEncoderBlock2D"] * len(widths), "up_block_types": ["UpDecoderBlock2D"] * len(widths),
        "norm_num_groups": 32, "act_fn": "silu", "mid_block_add_attention": hasattr(decoder.mid.attn_1, "q"),
        "use_quant_conv": hasattr(network, "quant_conv"), "use_post_quant_conv": hasattr(network, "post_quant_conv"),
    }  # fmt: skip


def _decoder(network: Any, arguments: dict[str, Any], widths: list[int]) -> Any:
    """Return a decoder of ComfyUI's of these widths, from the picture inwards."""
    ratios = [width // widths[0] if width % widths[0] == 0 else Ratio(width / widths[0]) for width in widths]
    return type(network.decoder)(**{**arguments["ddconfig"], "ch": widths[0], "ch_mult": ratios})


def decode(vae: Any, latent: torch.Tensor, tile: int = 0) -> torch.Tensor:
    """See :meth:`VaeTopic.decode`. Out of memory, ComfyUI goes on in tiles by itself."""
    if not tile:
        return vae.decode(latent)
    side, shared = tiles(tile, vae.spacial_compression_decode())
    return vae.decode_tiled(latent, tile_x=side, tile_y=side, overlap=shared)


def encode(vae: Any, pixels: torch.Tensor, tile: int = 0) -> torch.Tensor:
    """See :meth:`VaeTopic.encode`. Out of memory, ComfyUI goes on in tiles by itself."""
    if not tile:
        return vae.encode(pixels[..., :3])
    cell = vae.spacial_compression_encode()
    side, shared = (count * cell for count in tiles(tile, cell))
    return vae.encode_tiled(pixels[..., :3], tile_x=side, tile_y=side, overlap=shared)


def load(path: Path) -> Any:
    """See :meth:`VaeTopic.load`. Raises :class:`BundleError` where config, latent space and tensors do not agree."""
    vae = load_vae(load_bundle(path, "vae"))
    vae.patcher.cached_patcher_init = (_load_patcher, (path,))  # how newer versions make one with weights of its own
    return vae


def _load_patcher(path: Path, disable_dynamic: bool = False) -> Any:
    return load_vae(load_bundle(path, "vae")).patcher


def load_vae(bundle: Bundle) -> Any:
    """Return a VAE from a bundle of kind `vae`."""
    info = bundle.info
    check_complete(info)
    assert info.latent is not None  # noqa: S101 - check_complete has seen to it
    try:
        arguments = vae_arguments(info)
        levels, channels = len(arguments["ddconfig"]["ch_mult"]), int(arguments["embed_dim"])
        weights = vae_weights(bundle.tensors, levels, channels)
        with torch.device("meta"):
            network = comfy.ldm.models.autoencoder.AutoencoderKL(**arguments)
    except (TypeError, ValueError, IndexError, RuntimeError, ZeroDivisionError) as error:
        raise BundleError(f"{name_of(info)}: its config cannot be understood ({error})") from error
    widths = read_widths(info.extra, info.config, name_of(info))
    whole = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items() if name.startswith("decoder.")}
    if widths is not None:
        with torch.device("meta"):
            network.decoder = _decoder(network, arguments, widths)
    check_shapes(info, weights, network)
    factor = 2 ** (levels - 1)
    if (channels, factor) != (info.latent.channels, info.latent.factor):
        raise BundleError(
            f"{name_of(info)} claims latents of {info.latent.channels} channels at 1/{info.latent.factor} size, "
            f"but its network makes {channels} channels at 1/{factor}"
        )
    if widths is None:
        vae = comfy.sd.VAE(sd=weights, config={"params": arguments})
    else:  # ComfyUI gives encoder and decoder the same widths: it loads a whole decoder of zeros, and the narrow one takes its place
        zeros = {name: torch.zeros(()).expand(shape) for name, shape in whole.items()}
        vae = comfy.sd.VAE(sd={**weights, **zeros}, config={"params": arguments})
        first = next(vae.first_stage_model.decoder.parameters())
        narrow = _decoder(vae.first_stage_model, arguments, widths)
        narrow.load_state_dict({name.removeprefix("decoder."): tensor for name, tensor in weights.items() if name.startswith("decoder.")})
        vae.first_stage_model.decoder = narrow.to(first.device, first.dtype).eval().requires_grad_(False)
        vae.patcher.size = 0  # counted again
    vae.rapiddraw_info = info
    if not any(".attentions." in name for name in bundle.tensors):
        vae.first_stage_model.encoder.mid.attn_1 = NoAttention()
        vae.first_stage_model.decoder.mid.attn_1 = NoAttention()
    vae.latent_channels, vae.downscale_ratio, vae.upscale_ratio = channels, factor, factor
    relative, size = arguments["ddconfig"]["ch"] / _SD_WIDTH, comfy.model_management.dtype_size
    vae.memory_used_encode = lambda shape, dtype: 1767 * relative * shape[2] * shape[3] * size(dtype)
    vae.memory_used_decode = lambda shape, dtype: 2178 * relative * shape[2] * shape[3] * factor**2 * size(dtype)
    return vae
