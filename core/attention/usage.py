"""Usage of the attention kernels by one patch, as one line for the log and as a table."""

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
    """Return a plain-text table with one line for each shape and kernel, and the notes below it."""
    lines = [f"attention patch: {backend}, {apply_to}", f"{'attention':<36}{'backend':<16}{'calls':>7}{'default ms':>12}{'gain':>8}"]
    for row in _ordered(rows):
        own = "" if row.own is None else f"{row.own * 1000:.2f}"
        lines.append(f"{row.kind + ' ' + row.shape:<36}{row.backend:<16}{row.calls:>7}{own:>12}{row.gain:>7.2f}x")
    if not rows:
        lines.append("no attention call yet: link the sampler's latent, so that the report is written after sampling")
    spared = sum(row.spared() for row in rows)
    if any(row.own is not None for row in rows):
        lines.append(f"saved in all: {spared:.2f} s, from the one measurement of each kernel against the default")
    return "\n".join([*lines, *notes])


def _ordered(rows: Iterable[Row]) -> list[Row]:
    return sorted(rows, key=lambda row: (-(row.own or 0.0) * row.calls, row.kind, row.shape))
