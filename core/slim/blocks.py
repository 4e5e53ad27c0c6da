"""Blocks of a U-Net by name and kind, for diffusers' `UNet2DConditionModel` and for ComfyUI's `UNetModel`.

A block has one name in both: the one that diffusers gives it, such as `down_blocks.1.attentions.0`. A residual block changes a picture's
features at each point, a transformer lets points attend to each other and to the text. A transformer holds smaller blocks: in each of its
`transformer_blocks`, self-attention (`attn1`), cross-attention (`attn2`) and a feed-forward network (`ff`).
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from torch import nn

from ..errors import InputError

RESIDUAL, TRANSFORMER = "residual", "transformer"
SELF, CROSS, FEED_FORWARD = "self-attention", "cross-attention", "feed-forward"
KINDS = (RESIDUAL, TRANSFORMER, SELF, CROSS, FEED_FORWARD)
INNER = {"attn1": SELF, "attn2": CROSS, "ff": FEED_FORWARD}
"""Names of the blocks inside a transformer, in both libraries, and their kinds."""
LIST = "transformer_blocks"
_CLASSES = {"ResBlock": RESIDUAL, "ResnetBlock2D": RESIDUAL, "SpatialTransformer": TRANSFORMER, "Transformer2DModel": TRANSFORMER}
_BETWEEN = ("Downsample", "Upsample")


@dataclass(frozen=True)
class Block:
    """One block: its `name` (diffusers'), its `path` in the network at hand, one of :data:`KINDS`, and the module itself."""

    name: str
    path: str
    kind: str
    module: nn.Module

    @property
    def level(self) -> str:
        """The stage that the block belongs to, such as `down_blocks.0`, `mid_block` or `up_blocks.2`."""
        return re.split(r"\.(?:resnets|attentions)\.", self.name)[0]

    @property
    def is_removed(self) -> bool:
        """Whether a stand-in is in the block's place (:mod:`.stand_ins`)."""
        return hasattr(self.module, "stands_for")

    @property
    def changes_channels(self) -> bool:
        """Whether this is a residual block with another number of channels behind it than before it. Its shortcut is a convolution."""
        shortcut = shortcut_of(self.module)[1]
        return self.kind == RESIDUAL and shortcut is not None and not isinstance(shortcut, nn.Identity)


def blocks_of(network: Any) -> list[Block]:
    """Return every residual block and transformer of a U-Net in the order in which they run, each transformer followed by the blocks inside
    it. Raises :class:`InputError` for a network that is no U-Net of Stable Diffusion's kind."""
    found: list[Block] = []
    for name, path in _units(network):
        module = network.get_submodule(path)
        kind = getattr(module, "stands_for", None) or _CLASSES.get(type(module).__name__)
        if kind is None:
            raise InputError(f"this U-Net has a {type(module).__name__} at {path}, which no block of Stable Diffusion's U-Nets is")
        found.append(Block(name, path, kind, module))
        for i, inner in enumerate(getattr(module, LIST, ())):
            for part, inner_kind in INNER.items():
                if getattr(inner, part, None) is not None:
                    end = f"{LIST}.{i}.{part}"
                    found.append(Block(f"{name}.{end}", f"{path}.{end}", inner_kind, getattr(inner, part)))
    return found


def shortcut_of(residual: Any) -> tuple[str, Any]:
    """Return (name, module) of a residual block's way around its convolutions; None where it is the identity in diffusers."""
    name = "skip_connection" if hasattr(residual, "skip_connection") else "conv_shortcut"
    return name, getattr(residual, name, None)


def choose(blocks: Sequence[Block], patterns: str | Iterable[str]) -> list[Block]:
    """Return the blocks that `patterns` name, in the order of `blocks`. A text has one name or pattern a line, or commas between them; `*`
    stands for any characters. Raises :class:`InputError` for one that names no block, with the nearest names."""
    listed = re.split(r"[\s,]+", patterns) if isinstance(patterns, str) else list(patterns)
    listed = [one for one in listed if one]
    names = [block.name for block in blocks]
    for pattern in listed:
        if not any(fnmatchcase(name, pattern) for name in names):
            near = difflib.get_close_matches(pattern, names, n=3, cutoff=0.3) or names[:3]
            raise InputError(f"no block of this U-Net is named {pattern[:120]!r}; the nearest names are {', '.join(near)}")
    return [block for block in blocks if any(fnmatchcase(block.name, pattern) for pattern in listed)]


def _units(network: Any) -> Iterator[tuple[str, str]]:
    """Yield (diffusers' name, path) of the residual blocks and transformers of a U-Net."""
    if all(hasattr(network, name) for name in ("down_blocks", "mid_block", "up_blocks")):
        yield from _units_of_diffusers(network)
    elif all(hasattr(network, name) for name in ("input_blocks", "middle_block", "output_blocks")):
        yield from _units_of_comfyui(network)
    else:
        raise InputError(
            f"a {type(network).__name__} is no U-Net: only U-Nets such as SD 1.5 and SDXL have blocks to skip, remove and copy"
        )


def _units_of_diffusers(network: Any) -> Iterator[tuple[str, str]]:
    stages = [(f"{side}.{i}", stage) for side in ("down_blocks", "up_blocks") for i, stage in enumerate(getattr(network, side))]
    middle = [("mid_block", network.mid_block)] if network.mid_block is not None else []
    downs = len(network.down_blocks)
    for name, stage in [*stages[:downs], *middle, *stages[downs:]]:
        residuals, transformers = getattr(stage, "resnets", None), getattr(stage, "attentions", None) or ()
        if residuals is None:
            raise InputError(f"this U-Net has a {type(stage).__name__}, which no stage of Stable Diffusion's U-Nets is")
        if name == "mid_block":  # residual, then (transformer, residual) for each transformer
            yield f"{name}.resnets.0", f"{name}.resnets.0"
        for j in range(len(residuals) - (name == "mid_block")):
            order = ("attentions", "resnets") if name == "mid_block" else ("resnets", "attentions")
            for part in order:
                index = j + (name == "mid_block" and part == "resnets")
                if part == "resnets" or j < len(transformers):
                    yield f"{name}.{part}.{index}", f"{name}.{part}.{index}"


def _units_of_comfyui(network: Any) -> Iterator[tuple[str, str]]:
    def inside(path: str, layers: Any, name: str, number: int) -> Iterator[tuple[str, str]]:
        counts = {"resnets": number, "attentions": number}
        for k, layer in enumerate(layers):
            kind = getattr(layer, "stands_for", None) or _CLASSES.get(type(layer).__name__)
            if type(layer).__name__ not in _BETWEEN:
                part = "attentions" if kind == TRANSFORMER else "resnets"
                yield f"{name}.{part}.{counts[part]}", f"{path}.{k}"
                counts[part] += 1

    level, number = 0, 0
    for i, layers in enumerate(network.input_blocks):
        if i == 0:  # the first convolution
            continue
        if type(layers[0]).__name__ in _BETWEEN:
            level, number = level + 1, 0
            continue
        yield from inside(f"input_blocks.{i}", layers, f"down_blocks.{level}", number)
        number += 1
    yield from inside("middle_block", network.middle_block, "mid_block", 0)
    level, number = 0, 0
    for i, layers in enumerate(network.output_blocks):
        yield from inside(f"output_blocks.{i}", layers, f"up_blocks.{level}", number)
        number += 1
        if type(layers[-1]).__name__ in _BETWEEN:
            level, number = level + 1, 0
