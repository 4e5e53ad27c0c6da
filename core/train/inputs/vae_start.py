"""A start for an `AutoencoderKL` at which a picture already passes through, so that training begins with a blurred copy and not with noise.

Encoder: the first three channels carry red, green and blue, averaged 2x2 from level to level. The last reduction turns them into latents:
latent j is an opponent colour times a Haar pattern (mean, horizontal, vertical or diagonal difference), whitened. Decoder: the first three
latents (the means) give red, green and blue back, which are interpolated bilinearly. All residual branches begin at zero.

GroupNorm takes a channel's mean and scale away, just what a picture is made of. So each carried value x lies in a norm group beside two
constants +C and -C, which fix the group's mean and scale; x and -x travel in two groups, pass norm and SiLU almost linearly, and are
subtracted at the end.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

GROUPS = 32
CONSTANT = 3.0
OPPONENT = ((0.58, 0.58, 0.58), (0.71, 0.0, -0.71), (0.41, -0.82, 0.41))
"""Brightness, red against blue, green against both."""
HAAR = (((1, 1), (1, 1)), ((1, -1), (1, -1)), ((1, 1), (-1, -1)), ((1, -1), (-1, 1)))
CARRIED = ((0, 0), (1, 0), (2, 0), (0, 1), (0, 2), (1, 1), (1, 2), (0, 3), (2, 1), (2, 2), (1, 3), (2, 3))
"""(colour, pattern) of each latent in turn: the three means first, then the details from strong to weak."""


@torch.no_grad()
def pass_through(vae: Any, pictures: Tensor) -> None:
    """Set the weights of `vae`, a fresh diffusers `AutoencoderKL` of one width of at least 96 and at least three levels, to that start.

    `pictures` (B, 3, H, W) in [-1, 1] whiten the latents. Latents beyond the twelve of :data:`CARRIED` keep their random start.
    """
    per = vae.config.block_out_channels[0] // GROUPS  # channels a norm group
    for module in vae.modules():
        if type(module).__name__ == "ResnetBlock2D":
            _zero(module.conv2)
        elif type(module).__name__ == "Attention":
            _zero(module.to_out[0])
    kernels, mean, scale = _latents_of(pictures, len(vae.config.block_out_channels) - 2, vae.config.latent_channels)
    _start_encoder(vae, kernels, mean, scale, per)
    _start_decoder(vae, mean, scale, per)


def _latents_of(pictures: Tensor, levels: int, channels: int) -> tuple[Tensor, Tensor, Tensor]:
    """(kernels (J, 3, 2, 2), their mean and 1 / standard deviation (J,)) over pictures that were averaged over 2^levels pixels."""
    colours, patterns = torch.tensor(OPPONENT), torch.tensor(HAAR) / 4.0
    kernels = torch.stack([colours[c][:, None, None] * patterns[h] for c, h in CARRIED[:channels]])
    values = functional.conv2d(functional.avg_pool2d(pictures, 2**levels), kernels, stride=2)
    return kernels, values.mean((0, 2, 3)), 1 / values.std((0, 2, 3))


def _start_encoder(vae: Any, kernels: Tensor, mean: Tensor, scale: Tensor, per: int) -> None:
    encoder, channels = vae.encoder, vae.config.latent_channels
    downs = [block.downsamplers[0].conv for block in encoder.down_blocks if block.downsamplers]
    _identity(encoder.conv_in)
    for conv in downs[:-1]:  # diffusers pads right and below: taps 0 and 1 of each axis are the 2x2 block
        _clear(conv, range(3))
        for k in range(3):
            conv.weight[k, k, :2, :2] = 0.25
    for j, kernel in enumerate(kernels):
        _clear(downs[-1], range(2 * j * per, 2 * (j + 1) * per))
        downs[-1].weight[2 * j * per, :3, :2, :2] = kernel
        downs[-1].weight[(2 * j + 1) * per, :3, :2, :2] = -kernel
        _constants(downs[-1].bias, j, per)
    out = encoder.conv_out
    _clear(out, [*range(len(kernels)), *range(channels, 2 * channels)])
    out.bias[channels:] = -6.0  # log variance: almost no sampling noise at first, in which the signal would drown
    gain = _gain(per)
    for j in range(len(kernels)):
        out.weight[j, 2 * j * per, 1, 1] = gain * scale[j]
        out.weight[j, (2 * j + 1) * per, 1, 1] = -gain * scale[j]
        out.bias[j] = -mean[j] * scale[j]
    for conv in (vae.quant_conv, vae.post_quant_conv):
        _clear(conv, range(len(conv.weight)))
        conv.weight.copy_(torch.eye(len(conv.weight))[:, :, None, None])


def _start_decoder(vae: Any, mean: Tensor, scale: Tensor, per: int) -> None:
    decoder = vae.decoder
    ups = [block.upsamplers[0].conv for block in decoder.up_blocks if block.upsamplers]
    tent = torch.outer(*[torch.tensor([1.0, 2.0, 1.0]) / 4] * 2)  # after a nearest enlargement: bilinear interpolation
    _clear(decoder.conv_in, range(3))
    inverse = torch.linalg.inv(torch.tensor(OPPONENT))
    for k in range(3):
        for j in range(3):
            decoder.conv_in.weight[k, j, 1, 1] = inverse[k, j] / scale[j]
            decoder.conv_in.bias[k] += inverse[k, j] * mean[j]
    for conv in ups[:-1]:
        _clear(conv, range(3))
        for k in range(3):
            conv.weight[k, k] = tent
    for j in range(3):
        _clear(ups[-1], range(2 * j * per, 2 * (j + 1) * per))
        ups[-1].weight[2 * j * per, j] = tent
        ups[-1].weight[(2 * j + 1) * per, j] = -tent
        _constants(ups[-1].bias, j, per)
    out = decoder.conv_out
    out.weight.mul_(0.3)
    out.bias.zero_()
    for j in range(3):
        for channel, sign in ((2 * j * per, 1), ((2 * j + 1) * per, -1)):
            out.weight[j, channel] = 0
            out.weight[j, channel, 1, 1] = sign * _gain(per)


def _gain(per: int) -> float:
    """What turns SiLU(norm(x)) - SiLU(norm(-x)) back into x: the scale of a group that holds x, C and -C."""
    return CONSTANT * math.sqrt(2 / per)


def _constants(bias: Tensor, j: int, per: int) -> None:
    for group in (2 * j * per, (2 * j + 1) * per):
        bias[group + 1] = CONSTANT
        bias[group + 2] = -CONSTANT


def _identity(conv: nn.Module) -> None:
    _clear(conv, range(3))
    for k in range(3):
        conv.weight[k, k, 1, 1] = 1  # type: ignore[operator, index]


def _clear(layer: Any, rows: Any) -> None:
    layer.weight[list(rows)] = 0
    layer.bias[list(rows)] = 0


def _zero(layer: Any) -> None:
    layer.weight.zero_()
    layer.bias.zero_()
