"""Plots of benchmarks: lines over a number, and bars, as PNG files. Needs matplotlib."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

Points = Sequence[tuple[float, float]]


@dataclass(frozen=True)
class Panel:
    """One plot of a row of plots: labels and scales (`linear`, `log`) of both axes, and points by line."""

    x_label: str
    y_label: str
    x_scale: str = "linear"
    y_scale: str = "linear"
    lines: Mapping[str, Points] = field(default_factory=dict)


def line_plots(path: Any, panels: Sequence[Panel]) -> None:
    """Write panels side by side as a PNG."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6 * len(panels), 4.5), layout="constrained")
    for place, panel in enumerate(panels, 1):
        axes = figure.add_subplot(1, len(panels), place)
        for number, (name, points) in enumerate(panel.lines.items()):
            axes.plot(*zip(*points, strict=True), marker="osv^Dx*Ph+<>"[number % 12], label=name)
        axes.set(xlabel=panel.x_label, ylabel=panel.y_label, xscale=panel.x_scale, yscale=panel.y_scale)
        axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    figure.savefig(path, format="png", dpi=110)


def bars(path: Any, rows: Mapping[str, Mapping[str, float]], x_label: str, line: float | None = None) -> None:
    """Write horizontal bars as a PNG, one for each of `rows`, its parts end to end; `line` is drawn upright at a value."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 0.5 * len(rows) + 1.2), layout="constrained")
    axes = figure.add_subplot()
    left = [0.0] * len(rows)
    parts = list(dict.fromkeys(part for row in rows.values() for part in row))
    for part in parts:
        widths = [row.get(part, 0.0) for row in rows.values()]
        axes.barh(list(rows), widths, left=left, label=part)
        left = [start + width for start, width in zip(left, widths, strict=True)]
    if line is not None:
        axes.axvline(line, color="grey", linewidth=0.8)
    axes.invert_yaxis()
    axes.set_xlabel(x_label)
    if len(parts) > 1:
        axes.legend(fontsize=8)
    figure.savefig(path, format="png", dpi=110)
