"""Latency of factored layers: by the number of multiply-adds, or measured on this device at the shapes of a real evaluation.

Fewer parameters do not always mean less time: two small layers start two kernels and write one more intermediate result. A layer whose
factors would not be faster stays dense, so that the whole network does not become slower.
"""

from __future__ import annotations

import copy
import math
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from ..device import timed
from .layers import is_linear, layer_size, replace_with_factors
from .plan import KeepDense

RULES = ("off", "count", "measure")
WORTH_COUNTING = 0.8  # share of the dense multiply-adds above which a second kernel is assumed to cost more than it saves
WORTH_STARTING = 10_000_000  # multiply-adds that take about the time of starting a second kernel and writing its result
REPEATS = 5


@dataclass(frozen=True)
class LayerInput:
    """A layer's input in one evaluation: shape, dtype and device, and the number of positions of its output."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    device: torch.device
    positions: int


def layer_inputs(network: Any, once: Callable[[], None]) -> dict[str, LayerInput]:
    """Return the :class:`LayerInput` of every linear and convolution layer of `network`, by name, in the evaluation `once()`."""
    seen: dict[str, LayerInput] = {}
    handles = []

    def note(name: str) -> Callable[..., None]:
        def hook(module: Any, arguments: Any, output: Any) -> None:
            x = arguments[0]
            channels = output.shape[1] if isinstance(module, nn.Conv2d) else output.shape[-1]
            seen[name] = LayerInput(tuple(x.shape), x.dtype, x.device, output.numel() // channels)

        return hook

    for name, module in network.named_modules():
        if is_linear(module) or isinstance(module, nn.Conv2d):
            handles.append(module.register_forward_hook(note(name)))
    try:
        once()
    finally:
        for handle in handles:
            handle.remove()
    return seen


def multiply_adds(network: Any, inputs: dict[str, LayerInput]) -> int:
    """Return the multiply-adds of the linear and convolution layers in one evaluation, without the products inside attention."""
    total = 0
    for name, module in network.named_modules():
        if name in inputs and (is_linear(module) or isinstance(module, nn.Conv2d)):
            total += inputs[name].positions * math.prod(layer_size(module))
    return total


def slower_by_count(name: str, layer: Any, rank: int) -> str | None:
    """Return why a layer stays dense, or None: its factors need more than :data:`WORTH_COUNTING` of the dense multiply-adds."""
    out, inner = layer_size(layer)
    share = rank * (out + inner) / (out * inner)
    return f"rank {rank} needs {share:.2f} of the multiply-adds, which is not faster" if share > WORTH_COUNTING else None


def slower_when_counted(inputs: dict[str, LayerInput]) -> KeepDense:
    """Return :func:`slower_by_count` that also keeps a layer dense where it saves fewer than :data:`WORTH_STARTING` at its input's size."""

    def keep(name: str, layer: Any, rank: int) -> str | None:
        given, reason = inputs.get(name), slower_by_count(name, layer, rank)
        if reason is not None or given is None:
            return reason
        out, inner = layer_size(layer)
        saved = given.positions * (out * inner - rank * (out + inner))
        return f"rank {rank} saves {saved:,} multiply-adds, less than a second layer costs" if saved < WORTH_STARTING else None

    return keep


def slower_when_measured(inputs: dict[str, LayerInput]) -> KeepDense:
    """Return a :class:`~.plan.KeepDense` that times every layer against factors of its rank on noise of its own input's shape."""

    @torch.no_grad()
    def keep(name: str, layer: Any, rank: int) -> str | None:
        given = inputs.get(name)
        if given is None:
            return "it did not run in the evaluation that was measured"
        box = nn.ModuleDict({"layer": copy.deepcopy(layer).to(given.device)})
        dense, factored = box["layer"], replace_with_factors(box, "layer", rank)
        for parameter in factored.parameters():
            parameter.zero_()  # the time of a product does not depend on its numbers, except perhaps on denormal ones
        x = torch.randn(given.shape, device=given.device).to(given.dtype)
        slow, fast = _interleaved(lambda: dense(x), lambda: factored(x), given.device)
        return f"rank {rank} takes {fast / slow:.2f} of the dense time here" if fast >= slow else None

    return keep


def step_seconds(once: Callable[[], None], device: torch.device, repeats: int = REPEATS) -> float:
    """Return the median seconds of `once()` over `repeats` runs, after one run that is not measured."""
    once()
    return statistics.median(timed(once, device)[1] for _ in range(repeats))


def _interleaved(a: Callable[[], Any], b: Callable[[], Any], device: torch.device) -> tuple[float, float]:
    a(), b()
    pairs = [(timed(a, device)[1], timed(b, device)[1]) for _ in range(REPEATS)]
    return statistics.median(first for first, _ in pairs), statistics.median(second for _, second in pairs)
