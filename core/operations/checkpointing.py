"""Gradient checkpointing of any network (Chen et al. 2016): its blocks are computed again in the backward pass instead of being kept."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from ..device import free_memory

_SHARE = 0.7
"""Of free memory, that what a step keeps may take."""


def checkpoint_blocks(network: nn.Module) -> Callable[[], None]:
    """Compute every block of `network` again in the backward pass. The returned function undoes that.

    Blocks are the modules in the network's lists of modules. A block may change its inputs in place, so it is given copies.
    """
    blocks = list(blocks_of(network))
    for block in blocks:
        block.forward = _twice(block.forward)

    def undo() -> None:
        for block in blocks:
            del block.forward

    return undo


def blocks_of(network: nn.Module) -> Iterator[Any]:
    """Yield the modules with weights that stand in a list or sequence of modules of `network`, and in none of those inside them."""
    for child in network.children():
        if isinstance(child, nn.ModuleList | nn.Sequential):
            for member in child.children():
                if isinstance(member, nn.ModuleList | nn.Sequential):
                    yield from blocks_of(nn.ModuleList([member]))
                elif any(True for _ in member.parameters()):
                    yield member


def needs_checkpoints(network: nn.Module, once: Callable[[], None], device: torch.device, batch: int) -> bool:
    """Return whether `batch` times what one evaluation (`once()`) makes does not fit into the free memory of `device`."""
    taken = 0

    def note(_: nn.Module, __: Any, output: Any) -> None:
        nonlocal taken
        for one in output if isinstance(output, tuple | list) else (output,):
            taken += one.nbytes if isinstance(one, torch.Tensor) else 0

    hooks = [module.register_forward_hook(note) for module in network.modules() if not any(True for _ in module.children())]
    try:
        with torch.no_grad():
            once()
    finally:
        for hook in hooks:
            hook.remove()
    free = free_memory(device)
    return free is not None and 2 * taken * batch > _SHARE * free


def _twice(forward: Callable[..., Any]) -> Callable[..., Any]:
    def run(*args: Any, **kwargs: Any) -> Any:
        def inner(*given: Any, **more: Any) -> Any:
            return forward(*(one.clone() if isinstance(one, torch.Tensor) else one for one in given), **more)

        return checkpoint(inner, *args, use_reentrant=False, **kwargs) if torch.is_grad_enabled() else forward(*args, **kwargs)

    return run
