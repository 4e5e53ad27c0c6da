"""Kronecker updates (:mod:`.kronecker`) that act through hooks, in float32 on a frozen network of any precision."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from ..errors import InputError
from .hooked import Hooked, is_conv, paired_layers
from .kronecker import Update, kronecker_convolution, kronecker_product, start_update, terms_for, weight_shape


class _Part(nn.Module):
    """A, u and v of one layer, in float32."""

    def __init__(self, layer: Any, rank: int, device: torch.device) -> None:
        super().__init__()
        out, channels, positions = weight_shape(layer)
        a, u, v = (one.to(device) for one in start_update(out, channels * positions, rank, terms_for(out, channels)))
        self.kron_a, self.kron_u, self.kron_v = nn.Parameter(a), nn.Parameter(u), nn.Parameter(v)

    def forward(self, layer: Any, x: torch.Tensor) -> torch.Tensor:
        """Return dW x of the input `x` of `layer`."""
        update, x = (self.kron_a, self.kron_u, self.kron_v), x.to(self.kron_a.dtype)
        return kronecker_convolution(layer, x, *update) if is_conv(layer) else kronecker_product(x, *update)


class HookedKronecker(Hooked):
    """Kronecker updates on layers of one network, made by :func:`hook_updates`. Its parameters are those that are trained."""

    def updates(self) -> dict[str, Update]:
        """Return (A, u, v) of each layer by its name in the network, detached."""
        parts = zip(self.names, self.pairs, strict=True)
        return {name: (part.kron_a.detach(), part.kron_u.detach(), part.kron_v.detach()) for name, part in parts}


def hook_updates(network: nn.Module, names: Sequence[str], rank: int, device: torch.device) -> HookedKronecker:
    """Return new updates with dW = 0 on the layers `names` of `network`, drawn from torch's default generator.

    Nothing of `network` is changed: the caller freezes it. Raises :class:`InputError` for no layer, for a name that is no linear layer or
    convolution of one group, and for a rank out of range.
    """
    known = dict(paired_layers(network))
    if not names:
        raise InputError(f"no layer of this {type(network).__name__} is chosen: there is nothing to train")
    if wrong := [name for name in names if name not in known]:
        raise InputError(f"{wrong[0]!r:.120} is no linear layer or convolution of one group of this {type(network).__name__}")
    with torch.inference_mode(False):
        return HookedKronecker({name: known[name] for name in names}, lambda layer: _Part(layer, rank, device))
