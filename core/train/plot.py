"""The picture of a run's loss, drawn with PIL so that no plotting package is needed."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image, ImageDraw, ImageFont

from ..files import replacing

if TYPE_CHECKING:
    from torch import Tensor

SIZE = (960, 540)
_MARGIN = (90, 50, 30, 60)  # left, top, right, bottom


def plot_losses(losses: list[tuple[int, float]], path: Path, title: str = "loss") -> Path:
    """Write a PNG of (step, loss) points: the raw curve in grey, a running mean in blue, a logarithmic axis where the range is wide."""
    image = draw_losses(losses, title)
    with replacing(path) as temporary:
        image.save(temporary, format="PNG")
    return path


def loss_image(losses: list[tuple[int, float]], title: str = "loss") -> Tensor:
    """Return what :func:`draw_losses` draws as an IMAGE (1, H, W, 3) with values from 0 to 1."""
    import numpy as np
    import torch

    return torch.from_numpy(np.asarray(draw_losses(losses, title), dtype=np.float32) / 255.0)[None]


def draw_losses(losses: list[tuple[int, float]], title: str = "loss") -> Image.Image:
    """Draw what :func:`plot_losses` writes: an RGB picture of `SIZE` pixels. An empty list gives empty axes."""
    image = Image.new("RGB", SIZE, "white")
    draw = ImageDraw.Draw(image)
    font, small = ImageFont.load_default(20), ImageFont.load_default(15)
    left, top, right, bottom = _MARGIN[0], _MARGIN[1], SIZE[0] - _MARGIN[2], SIZE[1] - _MARGIN[3]
    draw.text((left, 14), title, fill="black", font=font)
    points = [(step, loss) for step, loss in losses if math.isfinite(loss)] or [(0, 1.0)]
    low, high = min(loss for _, loss in points), max(loss for _, loss in points)
    logarithmic = low > 0 and high / low > 20
    last = max(1, points[-1][0])

    def scaled(value: float) -> float:
        return math.log10(value) if logarithmic else value

    bottom_value, top_value = scaled(low), scaled(high)
    if top_value - bottom_value <= 1e-12 * max(1.0, abs(top_value)):  # a flat curve stands in the middle
        room = max(0.5, abs(top_value) / 2)
        bottom_value, top_value = bottom_value - room, top_value + room

    def at(step: float, loss: float) -> tuple[float, float]:
        fraction = (scaled(loss) - bottom_value) / (top_value - bottom_value)
        return left + (right - left) * step / last, bottom - (bottom - top) * fraction

    for i in range(6):
        y = bottom - (bottom - top) * i / 5
        value = bottom_value + (top_value - bottom_value) * i / 5
        draw.line([(left, y), (right, y)], fill="#e4e4e4")
        label = f"{10**value if logarithmic else value:.3g}"
        draw.text((left - 10, y), label, fill="#444444", font=small, anchor="rm")
        x = left + (right - left) * i / 5
        draw.text((x, bottom + 10), f"{round(last * i / 5)}", fill="#444444", font=small, anchor="ma")
    draw.text(((left + right) / 2, SIZE[1] - 14), "step", fill="#444444", font=small, anchor="ms")
    if len(points) > 1:
        draw.line([at(*point) for point in points], fill="#c8c8c8", width=1)
        draw.line([at(*point) for point in _smoothed(points)], fill="#1f5fbf", width=3, joint="curve")
    else:
        x, y = at(*points[0])
        draw.ellipse((x - 3, y - 3, x + 3, y + 3), fill="#1f5fbf")
    return image


def _smoothed(points: list[tuple[int, float]]) -> list[tuple[int, float]]:
    """Return the centred running mean over a twentieth of the run; at the edges the mean is over the points that are there."""
    reach = max(1, len(points) // 40)
    out = []
    for i, (step, _) in enumerate(points):
        window = [loss for _, loss in points[max(0, i - reach) : i + reach + 1]]
        out.append((step, sum(window) / len(window)))
    return out
