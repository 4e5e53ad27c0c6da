"""An ESRGAN dense block (Wang et al. 2018, figure 4) with its products in bf16.

Autocast would join the features in float32 and convert them again for each convolution. Here they are joined in bf16, in channels-last
memory. The sum at the end, which goes from block to block, stays in the dtype of the input.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

_COUNT, _SHARE = 5, 0.2  # convolutions of a block, and the part of their result that is added to the input


def layers(block: Any) -> list[tuple[nn.Conv2d, float]] | None:
    """Return the block's convolutions, each with the slope of the leaky ReLU after it (1 for none); None for a block that is not ESRGAN's.

    Knows basicsr's `ResidualDenseBlock` and spandrel's `ResidualDenseBlock_5C`, the latter without the extra paths of ESRGAN+.
    """
    shared = getattr(block, "lrelu", None)
    found: list[tuple[nn.Conv2d, float]] = []
    for number in range(1, _COUNT + 1):
        layer = getattr(block, f"conv{number}", None)
        parts = list(layer) if isinstance(layer, nn.Sequential) else [layer]
        if shared is not None and number < _COUNT:
            parts.append(shared)
        conv, slope = parts[0], 1.0
        if len(parts) == 2 and isinstance(parts[1], nn.LeakyReLU):
            slope = parts[1].negative_slope
        elif len(parts) != 1:
            return None
        if type(conv) is not nn.Conv2d or (slope == 1.0) != (number == _COUNT):
            return None
        found.append((conv, slope))
    return None if getattr(block, "conv1x1", None) is not None else found


def dense_in_bf16(convolutions: list[tuple[nn.Conv2d, float]], x: Tensor) -> Tensor:
    """Return the block's result for `x` (B, C, H, W) from its :func:`layers`, in the dtype of `x` and in channels-last memory."""
    features = x.to(torch.bfloat16, memory_format=torch.channels_last)
    for conv, slope in convolutions[:-1]:
        new = functional.leaky_relu(_convolve(conv, features), slope)
        features = torch.cat((features, new), 1)
    return _convolve(convolutions[-1][0], features).to(x.dtype).mul_(_SHARE).add_(x)


def _convolve(conv: nn.Conv2d, features: Tensor) -> Tensor:
    bias = None if conv.bias is None else conv.bias.to(features.dtype)
    return conv._conv_forward(features, conv.weight.to(features.dtype), bias)
