"""Stand-ins for removed blocks, which a U-Net of either library calls as it called the block."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from ..errors import InputError
from ..lowrank.factorize import owner
from .blocks import CROSS, FEED_FORWARD, RESIDUAL, SELF, TRANSFORMER, Block, blocks_of, choose, shortcut_of

_NORMS = {"attn1": "norm1", "attn2": "norm2", "ff": "norm3"}
"""The norm before each block inside a transformer, under the same names in both libraries."""


class Identity(nn.Module):
    """A removed residual block or transformer: what comes in goes out."""

    def __init__(self, stands_for: str) -> None:
        super().__init__()
        self.stands_for = stands_for

    def forward(self, x: torch.Tensor, *_: Any, return_dict: bool | None = None, **__: Any) -> Any:
        return x if return_dict is None else (x,)  # diffusers' transformers return a tuple


class Shortcut(nn.Module):
    """A removed residual block that changes the number of channels: its shortcut alone, a 1 x 1 convolution."""

    stands_for = RESIDUAL

    def __init__(self, residual: Any) -> None:
        super().__init__()
        self.name, shortcut = shortcut_of(residual)
        setattr(self, self.name, shortcut)

    def forward(self, x: torch.Tensor, *_: Any, **__: Any) -> torch.Tensor:
        return getattr(self, self.name)(x)


class Nothing(nn.Module):
    """A removed attention or feed-forward network, to whose output the transformer adds its input: it gives zeros."""

    def __init__(self, stands_for: str) -> None:
        super().__init__()
        self.stands_for = stands_for
        if stands_for != FEED_FORWARD:  # functions that replace attention in ComfyUI go through these
            self.to_q, self.to_k, self.to_v, self.to_out = nn.Identity(), nn.Identity(), nn.Identity(), Nothing(FEED_FORWARD)

    def forward(self, x: torch.Tensor, *_: Any, **__: Any) -> torch.Tensor:
        return torch.zeros_like(x)


def remove(network: Any, blocks: Sequence[Block]) -> list[tuple[nn.Module, str, nn.Module]]:
    """Put a stand-in in the place of each block of `network`, in place. Returns what :func:`put_back` needs.

    A residual block that changes the number of channels leaves its shortcut. A block inside a transformer takes the norm before it along.
    Blocks that are removed already, or that lie inside a removed transformer, stay as they are."""
    taken: list[tuple[nn.Module, str, nn.Module]] = []

    def replace(parent: nn.Module, name: str, made: nn.Module) -> None:
        taken.append((parent, name, getattr(parent, name)))
        setattr(parent, name, made.train(parent.training))

    whole = tuple(f"{block.path}." for block in blocks if block.kind == TRANSFORMER)
    for block in blocks:
        if block.is_removed or block.path.startswith(whole):
            continue
        parent, name = owner(network, block.path)
        if block.kind in (SELF, CROSS, FEED_FORWARD):
            replace(parent, name, Nothing(block.kind))
            replace(parent, _NORMS[name], nn.Identity())
        else:
            replace(parent, name, Shortcut(block.module) if block.changes_channels else Identity(block.kind))
    return taken


def put_back(taken: Sequence[tuple[nn.Module, str, nn.Module]]) -> None:
    """Undo :func:`remove`, in place."""
    for parent, name, module in reversed(taken):
        setattr(parent, name, module)


@contextmanager
def without(network: Any, blocks: Sequence[Block]) -> Iterator[None]:
    """Remove blocks while the `with` block runs, and put them back then, after an error too. Nobody else may use `network` meanwhile."""
    taken = remove(network, blocks)
    try:
        yield
    finally:
        put_back(taken)


def remove_named(network: Any, patterns: str | Sequence[str]) -> list[Block]:
    """Remove the blocks that `patterns` name (:func:`~.blocks.choose`), in place, and return them. Raises :class:`InputError` where they
    name none."""
    chosen = choose(blocks_of(network), patterns)
    if not chosen:
        raise InputError("no block is named: give names such as down_blocks.0.attentions.0, one a line; Block Importance lists them")
    remove(network, chosen)
    return chosen
