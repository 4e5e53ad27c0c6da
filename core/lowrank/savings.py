"""Savings by factoring a network: parameters, bytes, multiply-adds and the error of each layer, as a table and a plot."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .plan import LayerPlan

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Report:
    """`parameters` and `bytes` of the whole network, (dense, factored); `step_ms` (dense, factored) where it was measured."""

    plan: tuple[LayerPlan, ...]
    parameters: tuple[int, int]
    bytes: tuple[int, int]
    macs: tuple[int, int] | None = None
    step_ms: tuple[float, float] | None = None

    @property
    def ratio(self) -> float:
        """Share of the dense network's parameters that is left."""
        return self.parameters[1] / self.parameters[0]

    def table(self, layers: bool = True) -> str:
        """Return plain text: the totals, then a line for each layer."""
        factored = [layer for layer in self.plan if layer.rank is not None]
        lines = [f"{'':<16}{'dense':>16}{'low-rank':>16}{'ratio':>9}"]
        rows: list[tuple[str, tuple[float, float] | None, str]] = [
            ("parameters", self.parameters, ",.0f"), ("bytes", self.bytes, ",.0f"), ("multiply-adds", self.macs, ",.0f"),
            ("step ms", self.step_ms, ".1f"),
        ]  # fmt: skip
        for name, pair, how in rows:
            if pair is not None:
                lines.append(f"{name:<16}{pair[0]:>16{how}}{pair[1]:>16{how}}{pair[1] / max(pair[0], 1e-12):>9.3f}")
        lines.append(f"{len(factored)} of {len(self.plan)} targeted layers are factored")
        if layers:
            lines.append(f"{'layer':<64}{'weight':>14}{'rank':>6}{'error':>8}  why")
            for layer in self.plan:
                rank = "dense" if layer.rank is None else str(layer.rank)
                lines.append(f"{layer.name:<64}{f'{layer.out}x{layer.inner}':>14}{rank:>6}{layer.error:>8.3f}  {layer.reason}")
        return "\n".join(lines)


def network_size(network: Any) -> tuple[int, int]:
    """Return (parameters, bytes) of `network`."""
    parameters = list(network.parameters())
    return sum(p.numel() for p in parameters), sum(p.numel() * p.element_size() for p in parameters)


def draw_report(report: Report, width: int = 640) -> Tensor:
    """Return an IMAGE (1, H, `width`, 3) with the error of every targeted layer as a bar, in the network's order; dense layers have
    none."""
    import numpy as np
    import torch
    from PIL import Image, ImageDraw, ImageFont

    line, label = 14, 300
    canvas = Image.new("RGB", (width, line * len(report.plan) + 44), (250, 250, 247))
    draw, font = ImageDraw.Draw(canvas), ImageFont.load_default()
    kept = f"{report.parameters[1]:,} of {report.parameters[0]:,} parameters ({report.ratio:.2f})"
    draw.text((12, 10), f"{kept}; bars: relative error of a weight", fill=(30, 30, 30), font=font)
    for index, layer in enumerate(report.plan):
        y = 34 + index * line
        draw.text((12, y), layer.name[-46:], fill=(30, 30, 30), font=font)
        length = round((width - label - 70) * min(layer.error, 1.0))
        draw.rectangle((label, y + 2, label + length, y + line - 3), fill=(214, 93, 66))
        text = "dense" if layer.rank is None else f"{layer.error:.2f}, rank {layer.rank}"
        draw.text((label + length + 5, y), text, fill=(90, 90, 90), font=font)
    return torch.from_numpy(np.asarray(canvas, dtype=np.float32) / 255.0)[None]
