"""Layers that a control adapter adds to the copied encoder: condition features at every level, and the norms through which they enter.

`ops` is where layers are taken from: `torch.nn`, or ComfyUI's operations, which cast and offload.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn
from torch.nn import functional

from ..errors import InputError


class ConditionFeatures:
    """The condition features of the evaluation in progress: one tensor (B, F_i, h_i, w_i) for each level. The norms of one adapter share
    it.
    """

    def __init__(self) -> None:
        self.levels: list[Tensor] = []


class Extractor(nn.Module):
    """Condition extractor: conditions (B, C, H, W) to features (B, F_i, H / f / 2^i, W / f / 2^i) at the resolution of every encoder level.

    `stem` has as many strides of 2 as the VAE (f = 2^len(stem)). The levels follow, each half the size of the one before. This is the
    feature extractor of Uni-ControlNet, which ELR-Diffusion builds on; its widths are settings here.
    """

    def __init__(self, channels: int, stem: Sequence[int], features: Sequence[int], ops: Any = nn, **place: Any) -> None:
        super().__init__()
        widths = [channels, *stem]
        pairs = zip(widths[:-1], widths[1:], strict=True)
        self.stem = nn.ModuleList(ops.Conv2d(one, other, 3, stride=2, padding=1, **place) for one, other in pairs)
        levels = zip([widths[-1], *features[:-1]], features, strict=True)
        self.levels = nn.ModuleList(
            ops.Conv2d(one, other, 3, stride=1 if i == 0 else 2, padding=1, **place) for i, (one, other) in enumerate(levels)
        )

    def forward(self, hint: Tensor) -> list[Tensor]:
        h = hint
        for layer in self.stem:
            h = functional.silu(layer(h))
        out = []
        for layer in self.levels:
            h = functional.silu(layer(h))
            out.append(h)
        return out


class FDN(nn.Module):
    """Feature denormalisation in the place of a GroupNorm (ELR-Diffusion, eq. 8): norm(x) w (1 + gamma(c)) + b + beta(c).

    w and b come from the norm that is replaced; gamma and beta are zero at the start. So an untrained FDN equals that norm. It also keeps
    the number of groups: gcd(32, C) for a width C of a U-Net with 32 groups.
    """

    def __init__(
        self, groups: int, channels: int, width: int, level: int, source: ConditionFeatures, eps: float, ops: Any = nn, **place: Any
    ) -> None:
        super().__init__()
        self.norm = ops.GroupNorm(groups, channels, eps=eps, **place)
        self.gamma = ops.Conv2d(width, channels, 3, padding=1, **place)
        self.beta = ops.Conv2d(width, channels, 3, padding=1, **place)
        self.level, self.source = level, source
        for layer in (self.gamma, self.beta):
            start_at_zero(layer)

    def forward(self, x: Tensor) -> Tensor:
        features = self.source.levels[self.level]
        if features.shape[2:] != x.shape[2:]:
            raise InputError(
                f"a condition of {tuple(features.shape[2:])} features meets a state of {tuple(x.shape[2:])} at level {self.level}: the "
                "hint must be as large as the picture"
            )
        normed = self.norm(x)
        scaled = normed - self.norm.bias.to(normed).reshape(1, -1, 1, 1)
        return normed + scaled * self.gamma(features) + self.beta(features)


def start_at_zero(layer: Any) -> Any:
    """Set weight and bias of `layer` to zero and return it."""
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
    return layer


def zero_convolutions(widths: Sequence[int], ops: Any = nn, **place: Any) -> nn.ModuleList:
    """Return a 1 x 1 convolution for each output, zero at the start (Zhang et al. 2023, section 3.1)."""
    return nn.ModuleList(start_at_zero(ops.Conv2d(width, width, 1, **place)) for width in widths)


def injected(encoder: Any, norms: Sequence[Sequence[str]], widths: Sequence[int], ops: Any = nn, **place: Any) -> ConditionFeatures:
    """Replace the GroupNorms named `norms[level]` of `encoder` by :class:`FDN`, in place. Return the source of their features."""
    source = ConditionFeatures()
    for level, names in enumerate(norms):
        for name in names:
            path, _, last = name.rpartition(".")
            parent = encoder.get_submodule(path)
            norm = parent.get_submodule(last)
            made = FDN(norm.num_groups, norm.num_channels, widths[level], level, source, norm.eps, ops, **place)
            if isinstance(parent, nn.Sequential):
                parent[int(last)] = made
            else:
                setattr(parent, last, made)
    return source


def through(source: ConditionFeatures, features: list[Tensor], evaluate: Any) -> Any:
    """Return `evaluate()`, during which the norms that share `source` read `features`."""
    source.levels = features
    try:
        return evaluate()
    finally:
        source.levels = []


def parameters_of(network: nn.Module) -> tuple[int, int]:
    """Return the numbers of trained and of all parameters of `network`."""
    every = list(network.parameters())
    return sum(p.numel() for p in every if p.requires_grad), sum(p.numel() for p in every)
