"""Shapes of U-Nets: the config of a new one, and changes of a trained one for other latents or for the index of its resolution."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from ...bundles.format import Bundle
from ...data.buckets import INDEX_FEATURES
from ...errors import InputError


def unet_config(channels: int, side: int, widths: tuple[int, ...], attention: tuple[int, ...], context: int, heads: int) -> dict[str, Any]:
    """Return the arguments of `UNet2DConditionModel` for one resnet a level, in shapes that ComfyUI's own `UNetModel` can carry."""
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


def index_config(pooled: int) -> dict[str, Any]:
    """Return the arguments for a U-Net that also reads a pooled text state of `pooled` features and the embedding of its resolution's
    index."""
    return {"class_embed_type": "projection", "projection_class_embeddings_input_dim": pooled + INDEX_FEATURES}


def moved(bundle: Bundle, channels: int, side: int) -> Bundle:
    """Return `bundle` for another VAE's latents (channels, side, side): new convolutions at both ends, every other weight as it was."""
    config = {**bundle.info.config, "in_channels": channels, "out_channels": channels, "sample_size": side}
    fresh = _new(config)
    ends = {key: fresh[key] for key in bundle.tensors if key.startswith(("conv_in.", "conv_out."))}
    return Bundle(replace(bundle.info, config=config), {**bundle.tensors, **ends})


def joined_ends(bundle: Bundle, to_old: torch.Tensor, to_new: torch.Tensor) -> Bundle:
    """Return `bundle` with first and last convolutions that read and write another VAE's latents through two matrices.

    `to_old` (old channels, new) takes new latents to the old ones and `to_new` (new channels, old) the other way, both at each place.
    Raises :class:`InputError` where the U-Net has not as many channels as the old latents.
    """
    if bundle.info.config.get("in_channels") != len(to_old):
        raise InputError(
            f"the old latents have {len(to_old)} channels, the U-Net {bundle.info.config.get('in_channels')}: name its own VAE"
        )
    first = torch.einsum("woyx,on->wnyx", bundle.tensors["conv_in.weight"].float(), to_old)
    last = torch.einsum("no,ocyx->ncyx", to_new, bundle.tensors["conv_out.weight"].float())
    ends = {"conv_in.weight": first, "conv_out.weight": last, "conv_out.bias": to_new @ bundle.tensors["conv_out.bias"].float()}
    channels = {"in_channels": len(to_new), "out_channels": len(to_new)}
    tensors = {**bundle.tensors, **{key: tensor.to(bundle.tensors[key].dtype) for key, tensor in ends.items()}}
    return Bundle(replace(bundle.info, config={**bundle.info.config, **channels}), tensors)


def told_index(bundle: Bundle, pooled: int) -> Bundle:
    """Return `bundle` with an embedding of the resolution's index. It changes nothing at first, because its last layer is zero. A bundle
    that has one stays as it is."""
    if bundle.info.config.get("class_embed_type") == "projection":
        return bundle
    config = {**bundle.info.config, **index_config(pooled)}
    new = {key: tensor for key, tensor in _new(config).items() if key.startswith("class_embedding.")}
    new |= {key: torch.zeros_like(tensor) for key, tensor in new.items() if ".linear_2." in key}
    return Bundle(replace(bundle.info, config=config), {**bundle.tensors, **new})


def _new(config: dict[str, Any]) -> dict[str, torch.Tensor]:
    from diffusers import UNet2DConditionModel

    network: Any = UNet2DConditionModel(**config)
    return dict(network.state_dict())
