"""Importance of a U-Net's blocks: what each costs on this machine, and what its removal changes (SnapFusion, Algorithm 1).

The costs are a table of latencies, measured in one evaluation and kept per machine: the paper's lookup table T. A block's time includes
that of the blocks inside it.
"""

from __future__ import annotations

import hashlib
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..attention.memory import Memory, machine_name
from ..device import wait
from ..paths import cache_dir
from ..progress import Progress
from .blocks import Block
from .stand_ins import without

if TYPE_CHECKING:
    import torch
    from torch import Tensor

REPEATS = 5
WHOLE = "all"
"""Name of the whole network in a table of latencies."""


@dataclass(frozen=True)
class Rating:
    """One block: its parameters, its share of the network's time, its milliseconds here, the mean squared `change` of the network's raw
    output without it, and the drop of a picture's score without it (None where no picture was drawn)."""

    name: str
    kind: str
    parameters: int
    milliseconds: float
    share: float
    change: float
    drop: float | None = None

    @property
    def worth(self) -> float:
        """Return the loss for each saved millisecond: of the score where there is one, else of the output. The least is removed first."""
        return (self.change if self.drop is None else self.drop) / max(self.milliseconds, 1e-6)


def latencies(network: Any, blocks: Sequence[Block], once: Callable[[], object], device: torch.device, key: str) -> dict[str, float]:
    """Return the seconds of each block by name, and of the whole evaluation `once()` under :data:`WHOLE`: medians of :data:`REPEATS` runs.

    They are measured once for each machine, network and `key`, which names the size of the input, and kept in `blocks.json` of the cache
    folder."""
    memory, call = Memory(cache_dir() / "blocks.json"), f"{_signature(network)} {key}"
    kept = memory.get(machine_name(device), call)
    known = {name: seconds for name, seconds in kept.items() if seconds is not None}
    if set(known) == {WHOLE, *(block.name for block in blocks)}:
        return known
    taken: dict[str, list[float]] = {block.name: [] for block in blocks}
    whole: list[float] = []
    handles = [handle for block in blocks for handle in _clock(block.module, taken[block.name], device)]
    try:
        with Progress(REPEATS + 1, "measuring blocks", "run") as bar:
            for run in range(REPEATS + 1):
                wait(device)
                started = time.perf_counter()
                once()
                wait(device)
                whole.append(time.perf_counter() - started)
                bar.update()
                if run == 0:  # a first run allocates and compiles
                    whole.clear()
                    for values in taken.values():
                        values.clear()
    finally:
        for handle in handles:
            handle.remove()
    found = {name: statistics.median(values) if values else 1e-9 for name, values in taken.items()}
    found[WHOLE] = statistics.median(whole)
    memory.put(machine_name(device), call, found)
    return found


def changes_without(network: Any, blocks: Sequence[Block], predict: Callable[[], Sequence[Tensor]]) -> dict[str, float]:
    """Return the mean squared change of `predict()`, the raw outputs for fixed inputs, when each block alone is removed and put back."""
    before = [output.clone() for output in predict()]
    found = {}
    with Progress(len(blocks), "removing blocks", "block") as bar:
        for block in blocks:
            with without(network, [block]):
                after = predict()
            found[block.name] = float(sum((a - b).float().square().mean() for a, b in zip(after, before, strict=True)) / len(before))
            bar.update()
    return found


def rated(blocks: Sequence[Block], seconds: dict[str, float], changed: dict[str, float], drops: dict[str, float]) -> list[Rating]:
    """Return the ratings of `blocks`, in their order, from the tables of the functions above. `drops` may be empty."""
    rows = []
    for block in blocks:
        size, taken = sum(p.numel() for p in block.module.parameters()), seconds[block.name]
        share = taken / max(seconds[WHOLE], 1e-12)
        rows.append(Rating(block.name, block.kind, size, 1000 * taken, share, changed[block.name], drops.get(block.name)))
    return rows


def table(rows: Sequence[Rating]) -> str:
    """Return plain text: a line a block in the network's order; the least loss for a saved millisecond is marked."""
    least = min(rows, key=lambda row: row.worth, default=None)
    head = f"{'block':<56}{'kind':<17}{'params M':>9}{'ms':>9}{'share':>7}{'change':>10}{'score':>8}{'change/ms':>12}"
    lines = [head]
    for row in rows:
        drop = "" if row.drop is None else f"{-row.drop:+.3f}"
        mark = "  <- first to remove" if row is least else ""
        lines.append(
            f"{row.name:<56}{row.kind:<17}{row.parameters / 1e6:>9.2f}{row.milliseconds:>9.2f}{row.share:>7.1%}{row.change:>10.4f}{drop:>8}"
            f"{row.worth:>12.3g}{mark}"
        )
    return "\n".join(lines)


def draw(rows: Sequence[Rating], width: int = 720) -> Tensor:
    """Return an IMAGE (1, H, `width`, 3): for each block a bar for its time, and one below for the change without it."""
    import numpy as np
    import torch
    from PIL import Image, ImageDraw, ImageFont

    line, label = 18, 330
    canvas = Image.new("RGB", (width, line * len(rows) + 44), (250, 250, 247))
    pen, font = ImageDraw.Draw(canvas), ImageFont.load_default()
    pen.text((12, 10), "orange: time here; blue: change of the prediction without the block", fill=(30, 30, 30), font=font)
    longest, largest = (max((value(row) for row in rows), default=0) or 1 for value in (lambda r: r.milliseconds, lambda r: r.change))
    for index, row in enumerate(rows):
        y = 34 + index * line
        pen.text((12, y + 2), row.name[-52:], fill=(30, 30, 30), font=font)
        for top, share, colour in ((2, row.milliseconds / longest, (236, 150, 66)), (9, row.change / largest, (66, 120, 214))):
            pen.rectangle((label, y + top, label + max(1, round((width - label - 16) * share)), y + top + 5), fill=colour)
    return torch.from_numpy(np.asarray(canvas, dtype=np.float32) / 255.0)[None]


def _clock(module: Any, taken: list[float], device: torch.device) -> list[Any]:
    started = 0.0

    def before(*_: Any) -> None:
        nonlocal started
        wait(device)
        started = time.perf_counter()

    def after(*_: Any) -> None:
        wait(device)
        taken.append(time.perf_counter() - started)

    return [module.register_forward_pre_hook(before), module.register_forward_hook(after)]


def _signature(network: Any) -> str:
    """Return a hash of the names, shapes and dtypes of a network's weights."""
    listed = ";".join(f"{name} {tuple(weight.shape)} {weight.dtype}" for name, weight in network.named_parameters())
    return hashlib.sha256(listed.encode()).hexdigest()[:16]
