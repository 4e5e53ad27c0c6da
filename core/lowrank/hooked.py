"""Trained parts that act through hooks on the outputs of a network's layers: LoRA pairs, Kronecker updates.

The network's weights, its names and its state dict stay as they are, so that the parts can be switched off at any time, and that several
sets of them can lie on one network.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from .layers import FACTORED, is_linear


class Switched(nn.Module):
    """What is added to a network, `strength` (default 1) times."""

    def __init__(self) -> None:
        super().__init__()
        self.strength = 1.0

    @contextmanager
    def off(self) -> Iterator[None]:
        """Switch it off until the block ends."""
        before, self.strength = self.strength, 0.0
        try:
            yield
        finally:
            self.strength = before


class Hooked(Switched):
    """A part for each layer, `part(layer, x)`, whose result is added to what the layer gives for its input `x`.

    `strength` (default 1) scales what is added, as `scale` does; at 0, and inside :meth:`off`, the network computes what it did before, bit
    for bit.
    """

    def __init__(self, layers: Mapping[str, Any], make: Callable[[Any], nn.Module], scale: float = 1.0) -> None:
        super().__init__()
        self.scale = scale
        self.names = sorted(layers)
        self.pairs: Any = nn.ModuleList(make(layers[name]) for name in self.names)
        self._hooks = [layers[name].register_forward_hook(self._hook(pair)) for name, pair in zip(self.names, self.pairs, strict=True)]

    def _hook(self, pair: nn.Module) -> Any:
        def add(layer: Any, given: tuple[Any, ...], output: torch.Tensor) -> torch.Tensor | None:
            if self.strength == 0:
                return None
            return output + (pair(layer, given[0]) * (self.strength * self.scale)).to(output.dtype)

        return add

    def detach(self) -> None:
        """Take the parts off the network, which is then as it was. The parts keep their values."""
        for hook in self._hooks:
            hook.remove()
        self._hooks = []


def paired_layers(network: nn.Module) -> Iterator[tuple[str, Any]]:
    """Yield (name, layer) of every layer of `network` that can take a part; the two halves of a factored layer count as one."""
    inside: tuple[str, ...] = ()
    for name, module in network.named_modules():
        if isinstance(module, FACTORED):
            inside = (*inside, f"{name}.")
            yield name, module
        elif not name.startswith(inside) and (is_linear(module) or is_conv(module)):
            yield name, module


def is_conv(layer: Any) -> bool:
    """Return whether `layer` is a convolution of one group, dense or factored."""
    plain = isinstance(layer, nn.Conv2d) and layer.groups == 1 and layer.padding_mode == "zeros"
    return plain or (isinstance(layer, FACTORED) and hasattr(layer, "kernel_size"))
