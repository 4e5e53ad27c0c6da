"""Where the time of one picture goes: text encoder, U-Net loop and the attention inside it, decoder, upscaler (Rapid Diffusion,
figure 2 and table 3).

Every component runs `warmup` times unmeasured (a first call compiles, allocates and fills caches) and then `runs` times; the table
gives medians and interquartile ranges, so that one disturbed run does not count. Attention is measured inside the U-Net's own calls.
"""

from __future__ import annotations

import contextlib
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from ..errors import InputError
from ..progress import Progress

if TYPE_CHECKING:
    from torch import Tensor

MAX_SIDE = 4096


@dataclass(frozen=True)
class Row:
    """One component: median and interquartile range in milliseconds, and its share (0..1) of the whole picture's time.

    `inside` marks a part of the row above, which the total does not count again.
    """

    component: str
    median_ms: float
    iqr_ms: float
    share: float
    inside: bool = False


@dataclass(frozen=True)
class Profile:
    """Rows from text to picture, the last one the total, and what was measured on."""

    rows: tuple[Row, ...]
    environment: dict[str, Any]

    def table(self) -> str:
        """A plain-text table."""
        lines = [f"{'component':<24}{'median ms':>11}{'IQR ms':>9}{'share':>8}"]
        for row in self.rows:
            name = f"  {row.component}" if row.inside else row.component
            lines.append(f"{name:<24}{row.median_ms:>11.1f}{row.iqr_ms:>9.1f}{row.share:>8.1%}")
        lines.append(", ".join(f"{key} {value}" for key, value in self.environment.items()))
        return "\n".join(lines)

    def as_dict(self) -> dict[str, Any]:
        """The same as plain data."""
        return {"rows": [asdict(row) for row in self.rows], "environment": self.environment}


def profile_pipeline(
    model: Any,
    clip: Any,
    vae: Any,
    upscale_model: Any = None,
    *,
    width: int = 128,
    height: int = 128,
    steps: int = 20,
    cfg: float = 4.0,
    runs: int = 3,
    warmup: int = 1,
    text: str = "a photo of a fruit",
) -> Profile:
    """Draw the same picture `warmup + runs` times through the current host and measure each part.

    `width` and `height` are pixels of the decoded picture (16..4096, multiples of 8). Raises :class:`InputError` for numbers out of
    range and :class:`~rapiddraw.core.errors.Cancelled` between parts.
    """
    import torch

    from ..host import current
    from ..upscale.tiles import upscale

    _check(width, height, steps, runs, warmup)
    host = current()
    latent = {"samples": torch.zeros(1, 4, height // 8, width // 8), "downscale_ratio_spacial": 8}
    network = getattr(getattr(model, "model", None), "diffusion_model", None)
    taken: dict[str, list[float]] = {}
    with Progress(warmup + runs, "profiling", "run") as bar:
        for number in range(warmup + runs):
            times: dict[str, float] = {}
            with _measured(times, "text encoder"):
                positive, negative = host.encode_text(clip, text), host.encode_text(clip, "")
            with _attention_times(network, times), _measured(times, "U-Net loop"):
                drawn = host.sample(model, positive, negative, latent, number, steps, cfg, "euler", "simple")
            with _measured(times, "VAE decoder"):
                image = host.vae_decode(vae, drawn["samples"])
            if upscale_model is not None:
                with _measured(times, "upscaler"):
                    upscale(upscale_model, image, device=host.upscale_device(upscale_model, 512))
            if number >= warmup:
                for part, seconds in times.items():
                    taken.setdefault(part, []).append(seconds * 1000)
            bar.update()
    return Profile(_rows(taken), _environment(network, width, height, steps, runs))


def draw_chart(profile: Profile, width: int = 640) -> Tensor:
    """The rows as horizontal bars: an IMAGE (1, H, `width`, 3)."""
    import numpy as np
    import torch
    from PIL import Image, ImageDraw, ImageFont

    line, label = 34, 190
    canvas = Image.new("RGB", (width, line * len(profile.rows) + 20), (250, 250, 247))
    draw = ImageDraw.Draw(canvas)
    font = ImageFont.load_default()
    longest = max(row.median_ms for row in profile.rows) or 1.0
    for index, row in enumerate(profile.rows):
        y = 10 + index * line
        last = index == len(profile.rows) - 1
        colour = (70, 70, 70) if last else (236, 176, 96) if row.inside else (214, 93, 66)
        length = max(1, round((width - label - 110) * row.median_ms / longest))
        draw.rectangle((label, y + 4, label + length, y + line - 8), fill=colour)
        draw.text((28 if row.inside else 12, y + 9), row.component, fill=(30, 30, 30), font=font)
        draw.text((label + length + 6, y + 9), f"{row.median_ms:.1f} ms ({row.share:.0%})", fill=(30, 30, 30), font=font)
    return torch.from_numpy(np.asarray(canvas, dtype=np.float32) / 255.0)[None]


def _check(width: int, height: int, steps: int, runs: int, warmup: int) -> None:
    for name, value, low, high in (
        ("width", width, 16, MAX_SIDE), ("height", height, 16, MAX_SIDE), ("steps", steps, 1, 1000), ("runs", runs, 1, 100),
        ("warmup", warmup, 0, 20),
    ):  # fmt: skip
        if not low <= value <= high:
            raise InputError(f"{name} is {value}: give a whole number from {low} to {high}")
    if width % 8 or height % 8:
        raise InputError(f"{width} x {height} does not fit the latent grid: give multiples of 8")


def _rows(taken: dict[str, list[float]]) -> tuple[Row, ...]:
    parts = [name for name in taken if name not in _INSIDE]
    totals = [sum(values) for values in zip(*(taken[name] for name in parts), strict=True)]
    whole = statistics.median(totals) or 1.0
    rows = []
    for name in parts:
        rows.append(_row(name, taken[name], whole))
        if name == "U-Net loop":
            rows += [_row(part, taken[part], whole, inside=True) for part in _INSIDE if part in taken]
    return (*rows, _row("total", totals, whole))


def _row(name: str, values: list[float], whole: float, inside: bool = False) -> Row:
    median = statistics.median(values)
    quartiles = statistics.quantiles(values, n=4, method="inclusive") if len(values) > 1 else [median] * 3
    return Row(name, median, quartiles[2] - quartiles[0], median / whole, inside)


def _environment(network: Any, width: int, height: int, steps: int, runs: int) -> dict[str, Any]:
    import torch

    found: dict[str, Any] = {"size": f"{width}x{height}", "steps": steps, "runs": runs}
    weights = next(network.parameters(), None) if network is not None else None
    if weights is not None:
        found["U-Net parameters"] = sum(parameter.numel() for parameter in network.parameters())
        found |= {"device": str(weights.device), "dtype": str(weights.dtype).removeprefix("torch.")}
    return found | {"threads": torch.get_num_threads(), "torch": torch.__version__}


@contextlib.contextmanager
def _measured(times: dict[str, float], name: str) -> Iterator[None]:
    _wait()
    started = time.perf_counter()
    yield
    _wait()
    times[name] = times.get(name, 0.0) + time.perf_counter() - started


_INSIDE = {"cross-attention": "attn2", "self-attention": "attn1"}
"""What is measured inside the U-Net, by the name its modules have in diffusers and in ComfyUI alike."""


@contextlib.contextmanager
def _attention_times(network: Any, times: dict[str, float]) -> Iterator[None]:
    """Add up the time in each kind of attention while the block runs. The network is as before afterwards."""
    handles: list[Any] = []
    starts: dict[int, float] = {}

    def before(module: Any, arguments: Any) -> None:
        _wait()
        starts[id(module)] = time.perf_counter()

    def after(name: str) -> Callable[..., None]:
        def add(module: Any, arguments: Any, output: Any) -> None:
            _wait()
            times[name] = times.get(name, 0.0) + time.perf_counter() - starts.pop(id(module))

        return add

    for name, suffix in _INSIDE.items():
        for path, module in network.named_modules() if network is not None else ():
            if path.rpartition(".")[2] == suffix:
                handles += [module.register_forward_pre_hook(before), module.register_forward_hook(after(name))]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _wait() -> None:
    """Let a GPU finish what was asked of it; otherwise only the asking would be measured."""
    import torch

    if torch.cuda.is_available():
        torch.cuda.synchronize()
