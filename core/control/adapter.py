"""Local control adapter of a diffusers U-Net (ELR-Diffusion, section 2.4).

    F'(z_t, t, e, c) -> what is added to each skip connection of the frozen decoder and to its middle block

F' is a copy of the U-Net's encoder and middle block, dense or in the low-rank format of that U-Net. The conditions c enter by feature
denormalisation at the first residual block of every level. They leave through convolutions that are zero at the start, so an untrained
adapter changes nothing.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import BundleError, InputError
from ..lowrank.factorize import open_factors
from .hints import CHANNELS, CONDITIONS
from .layers import Extractor, injected, through, zero_convolutions

DECODER = ("up_blocks.", "conv_norm_out.", "conv_out.")
FEATURES = (16, 24, 32)
"""Widths of the condition features at the first levels; deeper levels have the last width."""
MAX_CONDITIONS = 16


class ControlAdapter(nn.Module):
    """Control adapter: `adapter(x, timestep, context, hint) -> (residuals, middle)`.

    The encoder is built without memory of its own; its tensors are loaded afterwards. `unet` holds the arguments of `UNet2DConditionModel`;
    `stem` and `features` are those of :class:`~.layers.Extractor`.
    """

    def __init__(self, unet: Mapping[str, Any], conditions: Sequence[str], stem: Sequence[int], features: Sequence[int]) -> None:
        from diffusers import UNet2DConditionModel

        super().__init__()
        check_config(conditions, stem, features, len(unet.get("block_out_channels", (320, 640, 1280, 1280))))
        self.conditions = tuple(conditions)
        with torch.device("meta"):
            encoder: Any = UNet2DConditionModel(**dict(unet))
        encoder.up_blocks, encoder.conv_norm_out, encoder.conv_out = nn.ModuleList(), None, None
        self.encoder = encoder
        self.extractor = Extractor(CHANNELS * len(conditions), stem, features)
        self.source = injected(encoder, norm_names(len(encoder.down_blocks)), features)
        self.zero = zero_convolutions(output_widths(encoder))

    def forward(
        self, x: Tensor, timestep: Tensor, context: Tensor, hint: Tensor, added: Mapping[str, Tensor] | None = None
    ) -> tuple[list[Tensor], Tensor]:
        """Return the residuals of the skip connections, in the encoder's order, and the residual of the middle block.

        `x` is the network's input (B, C, h, w) at timesteps (B,), `context` the text tokens (B, T, width), `hint` the conditions (B, 3 n, h
        f, w f). `added` is what U-Nets of SDXL's kind take beside the tokens, under diffusers' names, or embedded as one vector `y` (B, n).
        """
        states, middle = through(self.source, self.extractor(hint), lambda: self._encode(x, timestep, context, added))
        *skips, last = (zero(state) for zero, state in zip(self.zero, [*states, middle], strict=True))
        return skips, last

    def _encode(self, x: Tensor, timestep: Tensor, context: Tensor, added: Mapping[str, Tensor] | None) -> tuple[list[Tensor], Tensor]:
        unet = self.encoder
        emb = unet.time_embedding(unet.get_time_embed(sample=x, timestep=timestep))
        if added is not None and "y" in added:
            more = (getattr(unet, "add_embedding", None) or unet.class_embedding)(added["y"])
        else:
            more = unet.get_aug_embed(emb=emb, encoder_hidden_states=context, added_cond_kwargs=added)
        emb = emb if more is None else emb + more
        h = unet.conv_in(x)
        states = [h]
        for block in unet.down_blocks:
            attends = {"encoder_hidden_states": context} if getattr(block, "has_cross_attention", False) else {}
            h, made = block(hidden_states=h, temb=emb, **attends)
            states += made
        attends = {"encoder_hidden_states": context} if getattr(unet.mid_block, "has_cross_attention", False) else {}
        return states, unet.mid_block(h, emb, **attends)


def adapter_config(unet: Mapping[str, Any], factor: int, conditions: Sequence[str], features: Sequence[int]) -> dict[str, Any]:
    """Return the config of an adapter of a U-Net of diffusers' config `unet` for a VAE of `factor`.

    Raises :class:`InputError` for a factor that is no power of two."""
    strides, levels = round(math.log2(max(factor, 1))), len(unet["block_out_channels"])
    if 2**strides != factor:
        raise InputError(f"a VAE of factor {factor}: the condition's features are made by strides of 2, so a power of two is needed")
    return {
        "unet": {key: value for key, value in unet.items() if not key.startswith("_") and value is not None},
        "conditions": list(conditions),
        "stem": [features[0]] * strides,
        "features": [features[min(i, len(features) - 1)] for i in range(levels)],
    }


def copy_of_unet(
    unet: Any, factor: int, conditions: Sequence[str] = CONDITIONS, features: Sequence[int] = FEATURES
) -> tuple[ControlAdapter, dict[str, Any]]:
    """Return an adapter of a diffusers `unet` for a VAE of `factor`, and the config that the adapter was built from.

    The adapter is dense or factored as the U-Net is. Its weights are copies, and all of them are trainable. Raises :class:`InputError` for
    a factor that is no power of two.
    """
    return copy_of_weights(dict(unet.config), unet.state_dict(), factor, conditions, features)


def copy_of_weights(
    unet: Mapping[str, Any], weights: Mapping[str, Tensor], factor: int, conditions: Sequence[str], features: Sequence[int]
) -> tuple[ControlAdapter, dict[str, Any]]:
    """Return what :func:`copy_of_unet` returns for a U-Net of diffusers' config `unet` with `weights`, in float32 copies."""
    config = adapter_config(unet, factor, conditions, features)
    adapter = ControlAdapter(**config)
    tensors = {
        key: tensor.detach().to(torch.float32, copy=True) for key, tensor in copied_weights(weights, len(config["features"])).items()
    }
    open_factors(adapter, tensors, "the U-Net")
    adapter.load_state_dict(tensors, strict=False, assign=True)
    return adapter.requires_grad_(True), config


def copied_weights(tensors: Mapping[str, Tensor], levels: int) -> dict[str, Tensor]:
    """Return a U-Net's `tensors` under an adapter's names, without those of the decoder."""
    moved = {f"{name}.": f"{name}.norm." for level in norm_names(levels) for name in level}
    out = {}
    for key, tensor in tensors.items():
        if not key.startswith(DECODER):
            start = next((name for name in moved if key.startswith(name)), "")
            out[f"encoder.{moved.get(start, start)}{key[len(start) :]}"] = tensor
    return out


def norm_names(levels: int) -> list[tuple[str, str]]:
    """Return the names of the encoder's norms through which conditions enter: level by level both norms of the first residual block."""
    return [(f"down_blocks.{level}.resnets.0.norm1", f"down_blocks.{level}.resnets.0.norm2") for level in range(levels)]


def output_widths(encoder: Any) -> list[int]:
    """Return the channels of every skip connection of a diffusers encoder, then those of its middle block."""
    widths = [encoder.conv_in.out_channels]
    for block in encoder.down_blocks:
        made = [resnet.out_channels for resnet in block.resnets]
        widths += made + [made[-1]] * bool(block.downsamplers)
    return [*widths, encoder.mid_block.resnets[-1].out_channels]


def check_config(conditions: Sequence[str], stem: Sequence[int], features: Sequence[int], levels: int) -> None:
    """Raise :class:`BundleError` for conditions or widths that no adapter can have."""
    names = list(conditions)
    if not 1 <= len(names) <= MAX_CONDITIONS or len(set(names)) != len(names) or not all(isinstance(n, str) and n for n in names):
        raise BundleError(f"conditions={names!r:.200}: expected 1 to {MAX_CONDITIONS} different names")
    if len(stem) > 8 or len(features) != levels or not all(isinstance(w, int) and 1 <= w <= 4096 for w in (*stem, *features)):
        raise BundleError(
            f"stem={list(stem)!r:.100}, features={list(features)!r:.100}: expected widths of 1 to 4096, one a level of {levels}"
        )
