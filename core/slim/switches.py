"""MobileDiffusion's eight changes as switches: for each, the blocks of a U-Net that it is for (slides "Attention Modules", "Conv Modules").

The slides name the changes and what each saves; which levels and how much are recalled from the paper (Zhao et al. 2023) where the slides
do not say.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection
from dataclasses import replace
from typing import Any

from ..errors import InputError
from .blocks import FEED_FORWARD, RESIDUAL, SELF, TRANSFORMER, Block, blocks_of
from .changes import Changes
from .tricks import hidden_width

DEEPER, TRIMMED = 2, 0.75
"""How many transformer blocks are added in the middle; the share of hidden units that a trimmed feed-forward network keeps (8 to 6)."""
_OUTER = 2
"""Levels of high resolution, counted from the outside."""
Switch = Callable[[list[Block]], dict[str, Any]]


def _no_outer_self(blocks: list[Block]) -> dict[str, Any]:
    outer = [block.name for block in blocks if block.kind == SELF and _level(block, blocks) < min(_OUTER, _levels(blocks) - 1)]
    return {"removed": tuple(outer)}


def _deeper_middle(blocks: list[Block]) -> dict[str, Any]:
    return {"copies": {b.name: DEEPER for b in blocks if b.kind == TRANSFORMER and b.level == "mid_block"}}


def _shared(blocks: list[Block]) -> dict[str, Any]:
    return {"shared": tuple(block.name for block in blocks if block.kind == SELF)}


def _swish(blocks: list[Block]) -> dict[str, Any]:
    return {"swish": tuple(block.name for block in blocks if block.kind == FEED_FORWARD)}


def _relu(blocks: list[Block]) -> dict[str, Any]:
    return {"relu": tuple(block.name for block in blocks if block.kind == SELF)}


def _trimmed(blocks: list[Block]) -> dict[str, Any]:
    return {"trimmed": {block.name: int(TRIMMED * hidden_width(block)) for block in blocks if block.kind == FEED_FORWARD}}


def _separable(blocks: list[Block]) -> dict[str, Any]:
    inner = ("mid_block", f"down_blocks.{_levels(blocks) - 1}")
    return {"separable": tuple(block.name for block in blocks if block.kind == RESIDUAL and block.level in inner)}


def _fewer_residual(blocks: list[Block]) -> dict[str, Any]:
    found = []
    for level in dict.fromkeys(block.level for block in blocks if block.level != "mid_block"):
        residuals = [block.name for block in blocks if block.kind == RESIDUAL and block.level == level]
        found += residuals[1:] if level.startswith("down") else residuals[2:]
    return {"removed": tuple(found)}


SWITCHES: dict[str, Switch] = {
    "no self-attention at high resolution": _no_outer_self,
    "more transformers in the middle": _deeper_middle,
    "one projection for keys and values": _shared,
    "swish for gelu": _swish,
    "relu for softmax": _relu,
    "trimmed feed-forward": _trimmed,
    "separable convolutions": _separable,
    "fewer residual blocks": _fewer_residual,
}
"""The eight changes by name. The slides number six of attention and two of convolutions."""


def switched(network: Any, names: Collection[str]) -> Changes:
    """Return the changes that the switches of these names mean for `network`, which stays as it is. Raises :class:`InputError` for an
    unknown name, and where a block would have to be changed twice."""
    blocks = [block for block in blocks_of(network) if not block.is_removed]
    changes = Changes()
    for name in names:
        if name not in SWITCHES:
            raise InputError(f"there is no switch {name!r}; the switches are {', '.join(SWITCHES)}")
        for key, value in SWITCHES[name](blocks).items():
            known = getattr(changes, key)
            more: dict[str, Any] = {key: known | value if isinstance(value, dict) else (*known, *value)}
            changes = replace(changes, **more)
    return settled(changes)


def settled(changes: Changes) -> Changes:
    """Return `changes` without those that are made to a block which is removed in the end."""
    gone = changes.removed + tuple(f"{name}." for name in changes.removed)

    def stays(name: str) -> bool:
        return name not in changes.removed and not name.startswith(gone[len(changes.removed) :])

    kept: dict[str, Any] = {}
    for key in ("copies", "trimmed"):
        kept[key] = {name: count for name, count in getattr(changes, key).items() if stays(name)}
    for key in ("shared", "relu", "swish", "separable"):
        kept[key] = tuple(name for name in getattr(changes, key) if stays(name))
    return replace(changes, **kept)


def _levels(blocks: list[Block]) -> int:
    return len({block.level for block in blocks if block.level.startswith("down")})


def _level(block: Block, blocks: list[Block]) -> int:
    """Return a block's level from the outside: 0 at full size. The middle is as far inside as the last level."""
    side, _, number = block.level.partition(".")
    if side == "mid_block":
        return _levels(blocks) - 1
    index = int(re.sub(r"\D", "", number))
    return index if side == "down_blocks" else _levels(blocks) - 1 - index
