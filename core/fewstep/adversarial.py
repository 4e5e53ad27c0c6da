"""One step by a diffusion GAN (UFOGen, Xu et al. 2024).

    L_G = BCE(Dis(x'_(t-1), t-1, c), 1) + lambda || x0 - x0' ||^2        L_Dis = BCE(Dis(x_(t-1)), 1) + BCE(Dis(x'_(t-1)), 0)

The generator is the student: x0' = D(x_t, t, c). x_(t-1) and x'_(t-1) are the clean latents x0 and x0' with new noise at the level below
(UFOGen's change to DDGAN: both are drawn by forward diffusion). The discriminator reads feature maps of the frozen teacher's encoder at
that level; small heads on them are trained, the last layer of which starts at 0. The paper trains the whole copied U-Net instead.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import Conv2d, GroupNorm, functional

from ..lowrank.distill import feature_layers, recorded
from .segment import Denoise

LEAST_LEVELS = 4
"""Levels at which a one-step generator is trained, as in the author's code (T / 4 apart)."""
HIDDEN = 64


class Heads(nn.Module):
    """Heads of a discriminator, one for each feature map: (B, C, h, w) -> a score for every place."""

    def __init__(self, channels: Sequence[int]) -> None:
        super().__init__()
        self.heads = nn.ModuleList(
            nn.Sequential(
                GroupNorm(1, width), Conv2d(width, HIDDEN, 3, padding=1), nn.LeakyReLU(0.2), Conv2d(HIDDEN, 1, 1),
            )
            for width in channels
        )  # fmt: skip
        stacks: Any = self.heads
        for stack in stacks:
            nn.init.zeros_(stack[-1].weight)
            nn.init.zeros_(stack[-1].bias)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Return the scores (B, places of all maps) of the pictures with these feature `maps`."""
        return torch.cat([head(one.float()).flatten(1) for head, one in zip(self.heads, maps, strict=True)], dim=1)


class Features:
    """Feature maps at the ends of the levels of a U-Net's encoder. Raises :class:`InputError` for another network."""

    def __init__(self, denoise: Denoise, network: nn.Module) -> None:
        layers = feature_layers(network)
        self.denoise, self.layers = denoise, layers[: len(layers) // 2]

    def __call__(self, x: Tensor, sigma: Tensor, text: Any) -> list[Tensor]:
        """Return the maps, first level first, of states `x` at `sigma` (B,). Gradients go through to `x`."""
        with recorded(self.layers) as maps:
            self.denoise(x, sigma, text)
        return list(maps)


def generator_loss(
    scores_of: Callable[[Tensor], Tensor],
    x0: Tensor,
    made: Tensor,
    noised: Callable[[Tensor], Tensor],
    reconstruction: float,
    weight: Tensor,
) -> dict[str, Tensor]:
    """Return the loss and its parts. `scores_of(x)` are the discriminator's logits, `made` (B, C, ...) is x0', `noised(x0)` adds new noise
    of the level below; `reconstruction` is lambda, and `weight` (B,) weighs it by noise level."""
    fooled = functional.softplus(-scores_of(noised(made))).mean()
    distance = (weight * (x0.float() - made.float()).square().flatten(1).mean(1)).mean()
    return {"loss": fooled + reconstruction * distance, "generator": fooled, "reconstruction": distance}


def discriminator_loss(scores_of: Callable[[Tensor], Tensor], x0: Tensor, made: Tensor, noised: Callable[[Tensor], Tensor]) -> Tensor:
    """Return the loss of the discriminator, a scalar, for clean latents `x0` and the generator's `made`."""
    return functional.softplus(-scores_of(noised(x0))).mean() + functional.softplus(scores_of(noised(made.detach()))).mean()
