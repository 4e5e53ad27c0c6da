"""Costs of the blocks of a network by type: seconds, weights and multiply-adds, for ComfyUI's networks and for diffusers'."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from ..device import wait
from ..lowrank.layers import FACTORED, is_linear
from ..lowrank.roles import role_of
from ..lowrank.savings import network_size

TYPES = (
    "self-attention", "cross-attention", "attention projections", "attention and feed-forward", "resnet", "feed-forward", "modulation",
    "resampling",
)  # fmt: skip
_TRANSFORMERS = (
    "transformer_blocks", "double_blocks", "joint_blocks", "double_layers", "visual_transformer_blocks", "double_stream_blocks", "layers",
    "blocks",
)  # fmt: skip
"""Names of the list of blocks that a transformer has and a U-Net lacks."""
_ROLES = {"attention": "attention projections", "feed_forward": "feed-forward", "modulation": "modulation"}
_CLASSES = {
    "ResBlock": "resnet", "ResnetBlock": "resnet", "ResnetBlock2D": "resnet", "FeedForward": "feed-forward",
    "Upsample": "resampling", "Downsample": "resampling", "Upsample2D": "resampling", "Downsample2D": "resampling",
}  # fmt: skip
_NAMES = {"attn1": "self-attention", "attn2": "cross-attention"}


@dataclass
class Cost:
    """Costs of one type of block, summed over everything that ran. `bytes` are those of the weights as they are stored."""

    seconds: float = 0.0
    parameters: int = 0
    multiply_adds: int = 0
    bytes: int = 0


def block_type(path: str, module: nn.Module) -> str | None:
    """Return one of :data:`TYPES`, or None. Attention is known by its name in the network, which both libraries share."""
    return _NAMES.get(path.rpartition(".")[2]) or _CLASSES.get(type(module).__name__)


def is_transformer(network: nn.Module | None) -> bool:
    """Return whether a network is a row of transformer blocks, as that of Flux or Wan is, and no U-Net."""
    return any(hasattr(network, name) for name in _TRANSFORMERS)


def blocks_of(network: nn.Module) -> list[tuple[str, nn.Module]]:
    """Return (type, block) for every block that is not inside another one.

    Of a transformer these are its layers by their roles: many families compute attention outside of any module of its own, so that the
    product of queries, keys and values belongs to no row."""
    if is_transformer(network):
        return [(kind, layer) for name, layer in network.named_modules() if (kind := _layer_type(name, layer)) is not None]
    found: list[tuple[str, nn.Module]] = []
    inside: set[int] = set()
    for path, module in network.named_modules():
        kind = block_type(path, module)
        if kind is not None and id(module) not in inside:
            found.append((kind, module))
            inside.update(id(part) for part in module.modules())
    return found


def _layer_type(name: str, layer: nn.Module) -> str | None:
    if not (is_linear(layer) or isinstance(layer, FACTORED)) or name.endswith((".a", ".b")):
        return None
    roles = [role for role in ("attention", "feed_forward", "modulation") if role_of(name, (role,))]
    return "attention and feed-forward" if len(roles) == 2 else _ROLES[roles[0]] if roles else None


def weight_size(module: nn.Module | None) -> tuple[int, int]:
    """Return (parameters, bytes) of a module's weights: 4 bytes a parameter in float32, 2 in half precision, 1 in 8 bits."""
    return (0, 0) if module is None else network_size(module)


@contextlib.contextmanager
def metered(network: nn.Module | None, costs: dict[str, Cost], count: bool = False) -> Iterator[None]:
    """Add to `costs` what the network's blocks cost while the `with` block runs, by type.

    Without `count` seconds are measured. With `count` weights and multiply-adds are counted instead, because counting disturbs the clock;
    `costs["all"]` then has the multiply-adds of the whole network. Afterwards the network is as it was before.
    """
    handles: list[Any] = []
    try:
        for kind, block in blocks_of(network) if network is not None else ():
            cost = costs.setdefault(kind, Cost())
            handles += _counters(block, cost) if count else _clocks(block, cost)
            if count:
                parameters, stored = weight_size(block)
                cost.parameters, cost.bytes = cost.parameters + parameters, cost.bytes + stored
        if count and network is not None:
            handles += _counters(network, costs.setdefault("all", Cost()))
        yield
    finally:
        for handle in handles:
            handle.remove()


def _clocks(block: nn.Module, cost: Cost) -> list[Any]:
    started = 0.0

    def before(module: nn.Module, arguments: Any) -> None:
        nonlocal started
        wait()
        started = time.perf_counter()

    def after(module: nn.Module, arguments: Any, output: Any) -> None:
        wait()
        cost.seconds += time.perf_counter() - started

    return [block.register_forward_pre_hook(before), block.register_forward_hook(after)]


def _counters(block: nn.Module, cost: Cost) -> list[Any]:
    """Return hooks that count the multiply-adds of convolutions, of linear layers and of attention's two matrix products."""

    def layer(module: nn.Module, arguments: Any, output: Any) -> None:
        each = module.weight[0].numel() if isinstance(module.weight, torch.Tensor) else 0
        cost.multiply_adds += output.numel() * each

    def attention(module: Any, arguments: Any, keywords: dict[str, Any], output: Any) -> None:
        queries: Any = arguments[0] if arguments else keywords.get("hidden_states", keywords.get("x"))
        context = next((keywords[name] for name in ("encoder_hidden_states", "context") if keywords.get(name) is not None), None)
        if context is None and len(arguments) > 1 and isinstance(arguments[1], torch.Tensor):
            context = arguments[1]
        keys: Any = queries if context is None else context
        cost.multiply_adds += 2 * queries.shape[0] * queries.shape[1] * keys.shape[1] * module.to_q.weight.shape[0]

    handles = []
    for path, module in block.named_modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            handles.append(module.register_forward_hook(layer))
        elif hasattr(getattr(module, "to_q", None), "weight") and (path == "" or path.rpartition(".")[2] in _NAMES):
            handles.append(module.register_forward_hook(attention, with_kwargs=True))
    return handles
