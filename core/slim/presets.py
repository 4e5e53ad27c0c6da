"""U-Nets of the papers by name: Stable Diffusion 1.5, SnapFusion's (Table 3 of the slides) and MobileDiffusion's two (Table 1).

Each is a config of diffusers' `UNet2DConditionModel` and the changes that make the paper's network of it. The slides give channels and
counts of blocks; the presets reproduce the counts. Which blocks of SnapFusion's middle are gone is not said: those without which the rest
still fits. Depths of MobileDiffusion's transformers are ours: 15 (12) in all, most of them in the middle.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from ..errors import InputError
from .blocks import LIST, TRANSFORMER, blocks_of
from .changes import Changes, apply_changes
from .switches import settled, switched

_CROSS, _PLAIN = ("CrossAttnDownBlock2D", "CrossAttnUpBlock2D"), ("DownBlock2D", "UpBlock2D")
SNAPFUSION = Changes(
    copies={f"up_blocks.2.attentions.{j}": 1 for j in range(3)},
    removed=(
        *(f"down_blocks.0.attentions.{j}" for j in range(2)),
        "down_blocks.2.resnets.1",
        "down_blocks.3.resnets.0", "down_blocks.3.resnets.1", "mid_block.resnets.1",
        "up_blocks.1.resnets.1",
        *(f"up_blocks.3.attentions.{j}" for j in range(3)),
    ),
)  # fmt: skip
"""Table 3: no cross-attention in Down-1 and Up-3, six for three in Up-2; residual blocks 2 to 1 in Down-3, 7 to 4 in the middle (which
counts the last level of both sides), 3 to 2 in Up-1."""
_MOBILE = (
    "no self-attention at high resolution", "one projection for keys and values", "swish for gelu", "relu for softmax",
    "trimmed feed-forward", "separable convolutions",
)  # fmt: skip


@dataclass(frozen=True)
class Preset:
    """A network of a paper: its `widths` from the outside, which levels have `transformers`, residual blocks a level, and the changes.

    `tokens` is the width of the text that it attends to. `changes` are made from the network that the config alone gives."""

    widths: tuple[int, ...]
    transformers: tuple[bool, ...]
    residuals: int
    changes: Callable[[Any], Changes]
    tokens: int = 768

    def config(self, channels: int = 4, share: float = 1.0) -> dict[str, Any]:
        """Return the arguments of `UNet2DConditionModel` for latents of `channels`; widths are times `share`, in steps of 32."""
        widths = [max(32, round(width * share / 32) * 32) for width in self.widths]
        kinds = [_CROSS if has else _PLAIN for has in self.transformers]
        return {
            "in_channels": channels, "out_channels": channels, "block_out_channels": widths, "layers_per_block": self.residuals,
            "down_block_types": [down for down, _ in kinds], "up_block_types": [up for _, up in reversed(kinds)],
            "cross_attention_dim": self.tokens, "attention_head_dim": 8,
        }  # fmt: skip


def build(name: str, channels: int = 4, share: float = 1.0) -> Any:
    """Return the network of a preset with random weights: under `torch.device("meta")` without memory. Raises :class:`InputError`."""
    from diffusers import UNet2DConditionModel

    if name not in PRESETS:
        raise InputError(f"there is no preset {name!r}; the presets are {', '.join(PRESETS)}")
    preset = PRESETS[name]
    network: Any = UNet2DConditionModel(**preset.config(channels, share))
    apply_changes(network, preset.changes(network), values=not next(network.parameters()).is_meta)
    return network.eval()


def snapfusion_changes(network: Any) -> Changes:
    """Return :data:`SNAPFUSION`. Raises :class:`InputError` for a U-Net that has not the blocks of SD 1.5, from which the table starts."""
    missing = {*SNAPFUSION.removed, *SNAPFUSION.copies} - {block.name for block in blocks_of(network) if not block.is_removed}
    if missing:
        raise InputError(
            f"SnapFusion's table starts from SD 1.5's blocks, and this U-Net lacks {min(missing)}; set a budget instead of the preset"
        )
    return SNAPFUSION


def _mobile_changes(depth: int, middle: int) -> Callable[[Any], Changes]:
    def changes(network: Any) -> Changes:
        blocks, last = blocks_of(network), f"down_blocks.{len(network.down_blocks) - 1}"
        inner = {b.name: depth for b in blocks if b.kind == TRANSFORMER and b.level in (last, "up_blocks.0")}
        inner["mid_block.attentions.0"] = middle
        made = switched(network, _MOBILE)
        grown = replace(made, copies={name: count - 1 for name, count in inner.items()})
        for key in ("shared", "relu", "swish"):
            more: dict[str, Any] = {key: tuple(one for name in getattr(grown, key) for one in _with_copies(name, inner))}
            grown = replace(grown, **more)
        return settled(replace(grown, trimmed={one: width for name, width in grown.trimmed.items() for one in _with_copies(name, inner)}))

    return changes


def _with_copies(name: str, depths: dict[str, int]) -> list[str]:
    """Return the names of a block inside a transformer and of the same one in each of the transformer's later copies."""
    head, _, tail = name.partition(f".{LIST}.")
    return [f"{head}.{LIST}.{i}.{tail.partition('.')[2]}" for i in range(depths.get(head, 1))]


_SD = {"widths": (320, 640, 1280, 1280), "transformers": (True, True, True, False), "residuals": 2}
PRESETS = {
    "sd15": Preset(**_SD, changes=lambda _: Changes()),  # type: ignore[arg-type]
    "snapfusion": Preset(**_SD, changes=snapfusion_changes),  # type: ignore[arg-type]
    "mobile": Preset((320, 640, 1024), (False, True, True), 1, _mobile_changes(3, 6)),
    "mobile-lite": Preset((320, 640, 896), (False, True, True), 1, _mobile_changes(2, 6)),
}
"""Networks by name, at their papers' sizes."""
