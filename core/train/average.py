"""An exponential moving average of weights."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class AveragedWeights:
    """Averages of the weights of those `modules` that `names` lists; of none where `decay` is 0. A checkpoint holds `means`."""

    def __init__(self, modules: Mapping[str, nn.Module], names: Sequence[str], decay: float) -> None:
        self.modules, self.decay = modules, decay
        self._live: list[Tensor] = [p for name in names for p in modules[name].parameters()] if decay > 0 else []
        self.means = [p.detach().clone() for p in self._live]

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Add the weights after `step` finished steps to the averages."""
        if self.means:
            # A short warm-up: without it the first random weights would stay in the average for a long time.
            decay = min(self.decay, (1 + step) / (10 + step))
            torch._foreach_lerp_(self.means, self._live, 1 - decay)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Put the averages into the modules and set evaluation mode for the length of a `with` block; afterwards everything is as it
        was."""
        training = [(m, m.training) for module in self.modules.values() for m in module.modules()]
        live = [p.detach().clone() for p in self._live]
        with torch.no_grad():
            for p, mean in zip(self._live, self.means, strict=True):
                p.copy_(mean)
        for module in self.modules.values():
            module.eval()
        try:
            yield
        finally:
            with torch.no_grad():
                for p, value in zip(self._live, live, strict=True):
                    p.copy_(value)
            for module, mode in training:
                module.training = mode
