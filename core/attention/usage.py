"""Usage of the attention kernels by one patch, as one line for the log and as a report."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass


@dataclass
class Row:
    """Calls of one shape on one kernel. `gain` is the default's time over the kernel's; `own` the default's, in seconds, where measured."""

    kind: str
    shape: str
    rows: int
    backend: str
    gain: float
    own: float | None
    calls: int = 0

    def spared(self) -> float:
        """Return the seconds that all calls together saved against the default."""
        return 0.0 if self.own is None else self.calls * self.own * (1 - 1 / self.gain)


def summary(rows: Iterable[Row]) -> str:
    """Return one line: `self 4096x4096 d40 float32 on sdpa_flash (2.8x), ...`, the largest shapes first."""
    return ", ".join(f"{row.kind} {row.shape} on {row.backend} ({row.gain:.1f}x)" for row in _ordered(rows)) or "no call yet"


def table(backend: str, apply_to: str, rows: Sequence[Row], notes: Sequence[str]) -> str:
    """Return plain text with two short lines for each shape and kernel, which fit a narrow box, and the notes below them."""
    lines = [f"attention patch: {backend}, {apply_to}"]
    for row in _ordered(rows):
        own = "" if row.own is None else f", {row.own * 1000:.2f} ms by default"
        lines += [f"{row.kind} {row.shape}", f"  {row.gain:.2f}x on {row.backend}, {row.calls} calls{own}"]
    if not rows:
        lines.append("no attention call yet: link the sampler's latent, so that the report is written after sampling")
    spared = sum(row.spared() for row in rows)
    if any(row.own is not None for row in rows):
        lines.append(f"saved in all: {spared:.2f} s, from the one measurement of each kernel against the default")
    return "\n".join([*lines, *notes])


def _ordered(rows: Iterable[Row]) -> list[Row]:
    return sorted(rows, key=lambda row: (-(row.own or 0.0) * row.calls, row.kind, row.shape))
