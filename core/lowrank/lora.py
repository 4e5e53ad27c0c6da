"""LoRA pairs on the layers of a network (Hu et al. 2021): dW = alpha / r * U D, with U (out, r) and D (r, in).

The pairs act through hooks on the layers' outputs. The network's weights, its names and its state dict stay as they are, so that the pairs
can be switched off at any time, and that several sets of pairs can lie on one network. A convolution's D has the convolution's kernel and
stride, its U is 1 x 1. A factored layer (:mod:`.layers`) counts as the dense layer that it stands for. At the start U = 0, so that dW = 0;
D as torch starts a Linear (He et al. 2015).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from ..errors import BundleError, InputError
from .hooked import Hooked, is_conv, paired_layers
from .roles import DEFAULT_TARGETS, TARGETS, role_of

MAX_RANK = 1024
Factors = tuple[torch.Tensor, torch.Tensor, float]
"""(U (out, r) or (out, r, 1, 1), D (r, in) or (r, in, kh, kw), alpha)."""


class _Pair(nn.Module):
    """U and D of one layer, in float32."""

    def __init__(self, layer: Any, rank: int, device: torch.device) -> None:
        super().__init__()
        down: tuple[int, ...]
        up: tuple[int, ...]
        if is_conv(layer):
            down, up = (rank, layer.in_channels, *layer.kernel_size), (layer.out_channels, rank, 1, 1)
        else:
            down, up = (rank, layer.in_features), (layer.out_features, rank)
        bound = 1 / math.sqrt(math.prod(down[1:]))
        self.up = nn.Parameter(torch.zeros(up, device=device))
        self.down = nn.Parameter(torch.empty(down).uniform_(-bound, bound).to(device))

    def forward(self, layer: Any, x: torch.Tensor) -> torch.Tensor:
        """Return U D x of the input `x` of `layer`."""
        x = x.to(self.down.dtype)
        if self.down.dim() == 2:
            return functional.linear(functional.linear(x, self.down), self.up)
        return functional.conv2d(functional.conv2d(x, self.down, None, layer.stride, layer.padding, layer.dilation), self.up)


class Lora(Hooked):
    """LoRA pairs on layers of one network, made by :func:`attach_lora`. Its parameters are those that are trained."""

    def __init__(self, layers: Mapping[str, Any], rank: int, alpha: float, device: torch.device) -> None:
        super().__init__(layers, lambda layer: _Pair(layer, rank, device), alpha / rank)
        self.rank, self.alpha = rank, alpha

    def factors(self) -> dict[str, Factors]:
        """Return (U, D, alpha) of each layer by its name in the network, detached."""
        return {name: (pair.up.detach(), pair.down.detach(), self.alpha) for name, pair in zip(self.names, self.pairs, strict=True)}

    @torch.no_grad()
    def load(self, factors: Mapping[str, Factors]) -> None:
        """Take the values of `factors` (see :meth:`factors`), to go on training them. Raises :class:`BundleError` where they are for other
        layers, another rank or another alpha."""
        if set(factors) != set(self.names):
            other = sorted(set(factors) ^ set(self.names))
            raise BundleError(f"the LoRA is for other layers than these pairs ({len(other)} differ, such as {other[0]!r:.120})")
        for name, pair in zip(self.names, self.pairs, strict=True):
            up, down, alpha = factors[name]
            if up.shape != pair.up.shape or down.shape != pair.down.shape or alpha != self.alpha:
                raise BundleError(
                    f"{name}: the LoRA has U {tuple(up.shape)}, D {tuple(down.shape)} and alpha {alpha:g}; these pairs have "
                    f"{tuple(pair.up.shape)}, {tuple(pair.down.shape)} and {self.alpha:g}"
                )
            pair.up.copy_(up)
            pair.down.copy_(down)


def attach_lora(
    network: nn.Module, roles: Sequence[str] = DEFAULT_TARGETS, rank: int = 16, alpha: float | None = None, device: Any = None
) -> Lora:
    """Return new pairs on the layers of `network` that have one of `roles` (keys of :data:`~.roles.TARGETS`).

    `alpha` is `rank` by default: dW = U D. The pairs lie on `device` (default: where the network's first parameter is), and D is drawn from
    torch's default generator. Nothing of `network` is changed: the caller freezes it. Raises :class:`InputError` for values out of range
    and for a network without such layers.
    """
    unknown = [role for role in roles if role not in TARGETS]
    if unknown or not roles:
        raise InputError(f"roles {unknown or '(none)'}: expected some of {', '.join(TARGETS)}")
    found = {name: layer for name, layer in paired_layers(network) if role_of(name, roles)}
    if not found:
        raise InputError(f"no layer of this {type(network).__name__} has the role {' or '.join(roles)}: there is nothing to train")
    return attach_to(network, sorted(found), rank, alpha, device)


def attach_to(network: nn.Module, names: Sequence[str], rank: int, alpha: float | None = None, device: Any = None) -> Lora:
    """Return new pairs on the layers `names` of `network`; see :func:`attach_lora`. Raises :class:`InputError` for a name that is no linear
    layer or convolution of one group."""
    if not 1 <= rank <= MAX_RANK:
        raise InputError(f"rank={rank}: expected 1 to {MAX_RANK}")
    if alpha is not None and not 0 < alpha <= 1e6:
        raise InputError(f"alpha={alpha}: expected a number above 0 and at most 1,000,000; alpha = rank leaves U D as it is")
    known = dict(paired_layers(network))
    if wrong := [name for name in names if name not in known]:
        raise InputError(f"{wrong[0]!r:.120} is no linear layer or convolution of one group of this {type(network).__name__}")
    place = next(network.parameters()).device if device is None else torch.device(device)
    with torch.inference_mode(False):
        return Lora({name: known[name] for name in names}, rank, float(rank if alpha is None else alpha), place)
