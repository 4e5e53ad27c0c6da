"""Time of one picture by component: text encoder, U-Net loop and its blocks, decoder, upscaler (Rapid Diffusion, figure 2, table 3).

Every component first runs `warmup` times without being measured, because a first call compiles, allocates and fills caches. Then it runs
`runs` times. The table gives medians and interquartile ranges, so that one disturbed run does not count. The blocks of the U-Net are
measured inside its own calls.
"""

from __future__ import annotations

import contextlib
import statistics
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from ..device import wait
from ..errors import InputError
from ..progress import Progress
from .blocks import TYPES, Cost, is_transformer, metered, weight_size

if TYPE_CHECKING:
    from torch import Tensor

MAX_SIDE = 4096
LOOPS = ("U-Net loop", "transformer loop")
"""Names of the sampling run's row, by the kind of network that runs in it."""


@dataclass(frozen=True)
class Row:
    """Measures of one component: median and interquartile range in milliseconds, and its share (0..1) of the whole picture's time.

    `inside` marks a part of the row above, which the total does not count again. `parameters` and `megabytes` (2^20 bytes, in the dtype
    they are stored in) are those of its weights, `multiply_adds` those of one run; None where nothing is known.
    """

    component: str
    median_ms: float
    iqr_ms: float
    share: float
    inside: bool = False
    parameters: int | None = None
    megabytes: float | None = None
    multiply_adds: int | None = None


@dataclass(frozen=True)
class Profile:
    """Rows from text to picture, the last one the total, and the environment that they were measured in."""

    rows: tuple[Row, ...]
    environment: dict[str, Any]

    def table(self) -> str:
        """Return the rows as two narrow plain-text tables: times, then sizes."""
        times, sizes = (
            [f"{'component':<24}{'median ms':>11}{'IQR ms':>9}{'share':>8}"],
            [f"{'component':<24}{'params M':>10}{'MB':>9}{'GMAC':>9}"],
        )
        for row in self.rows:
            name = f"  {row.component}" if row.inside else row.component
            size = "" if row.parameters is None else f"{row.parameters / 1e6:.2f}"
            room = "" if row.megabytes is None else f"{row.megabytes:.1f}"
            work = "" if row.multiply_adds is None else f"{row.multiply_adds / 1e9:.2f}"
            times.append(f"{name:<24}{row.median_ms:>11.1f}{row.iqr_ms:>9.1f}{row.share:>8.1%}")
            if size or room or work:
                sizes.append(f"{name:<24}{size:>10}{room:>9}{work:>9}")
        lines = [*times, "", *sizes, "", self.bottleneck()]
        lines.append(", ".join(f"{key} {value}" for key, value in self.environment.items()))
        return "\n".join(lines)

    def bottleneck(self) -> str:
        """Return one line that names the component to make faster first."""
        parts = [row for row in self.rows[:-1] if not row.inside]
        inside = [row for row in self.rows if row.inside]
        if not parts:
            return "bottleneck: nothing was measured"
        worst = max(parts, key=lambda row: row.median_ms)
        line = f"bottleneck: {worst.component}, {worst.share:.0%} of the time"
        if inside and worst.component in LOOPS:
            block = max(inside, key=lambda row: row.median_ms)
            line += f"; in it {block.component}, {block.share:.0%}"
        return line

    def as_dict(self) -> dict[str, Any]:
        """Return the rows as plain data for JSON."""
        return {"rows": [asdict(row) for row in self.rows], "bottleneck": self.bottleneck(), "environment": self.environment}


@dataclass(frozen=True)
class Settings:
    """Numbers of a profile: the decoded picture's size in pixels (16..4096, multiples of 8), sampling steps, guidance, runs, prompt."""

    width: int = 128
    height: int = 128
    steps: int = 20
    cfg: float = 4.0
    runs: int = 3
    warmup: int = 1
    text: str = "a photo of a fruit"

    def check(self) -> None:
        """Raise :class:`InputError` for a number out of range."""
        for name, value, low, high in (
            ("width", self.width, 16, MAX_SIDE), ("height", self.height, 16, MAX_SIDE), ("steps", self.steps, 1, 1000),
            ("runs", self.runs, 1, 100), ("warmup", self.warmup, 0, 20),
        ):  # fmt: skip
            if not low <= value <= high:
                raise InputError(f"{name} is {value}: give a whole number from {low} to {high}")
        if self.width % 8 or self.height % 8:
            raise InputError(f"{self.width} x {self.height} does not fit the latent grid: give multiples of 8")


def profile_pipeline(model: Any, clip: Any, vae: Any, upscale_model: Any = None, settings: Settings | None = None) -> Profile:
    """Draw the same picture `warmup + runs` times through the current host and measure each part.

    Raises :class:`InputError` for numbers out of range and :class:`~rapiddraw.core.errors.Cancelled` between parts.
    """
    import torch

    from ..host import SamplingRun, current
    from ..upscale.tiles import upscale

    settings = settings or Settings()
    settings.check()
    host = current()
    latent = {"samples": torch.zeros(1, 4, settings.height // 8, settings.width // 8), "downscale_ratio_spacial": 8}
    network = getattr(getattr(model, "model", None), "diffusion_model", None)
    loop = LOOPS[is_transformer(network)]
    parts = {"text encoder": clip, loop: model, "VAE decoder": vae, "upscaler": upscale_model}
    taken: dict[str, list[float]] = {}
    with Progress(settings.warmup + settings.runs, "profiling", "run") as bar:
        for number in range(settings.warmup + settings.runs):
            times: dict[str, float] = {}
            with _measured(times, "text encoder"):
                positive, negative = host.clip.encode(clip, settings.text), host.clip.encode(clip, "")
            costs: dict[str, Cost] = {}
            with metered(network, costs), _measured(times, loop):
                guider = host.sampling.make_guider(model, positive, negative, settings.cfg)
                drawn = host.sampling.sample(guider, latent, SamplingRun(number, settings.steps, "euler", "simple"))
            times |= {kind: costs[kind].seconds for kind in TYPES if kind in costs}
            with _measured(times, "VAE decoder"):
                image = host.vae.decode(vae, drawn["samples"])
            if upscale_model is not None:
                with _measured(times, "upscaler"):
                    upscale(upscale_model, image, device=host.upscale.device_for(upscale_model, 512))
            if number >= settings.warmup:
                for part, seconds in times.items():
                    taken.setdefault(part, []).append(seconds * 1000)
            bar.update()
    counted = _count(host, parts, (positive, negative), latent, settings)
    return Profile(_rows(taken, counted), _environment(network, settings))


def _count(host: Any, parts: dict[str, Any], conds: tuple[Any, Any], latent: Any, settings: Settings) -> dict[str, Cost]:
    """Return weights and multiply-adds by row, from one more picture whose products are counted and whose time is not measured."""
    from ..host import SamplingRun
    from ..upscale.tiles import upscale

    networks = {name: _network(name, whole) for name, whole in parts.items() if whole is not None}
    found: dict[str, dict[str, Cost]] = {name: {} for name in networks}
    with contextlib.ExitStack() as stack:
        for name, network in networks.items():
            stack.enter_context(metered(network, found[name], count=True))
        if "text encoder" in networks:
            host.clip.encode(parts["text encoder"], "")
        loop = next(name for name in LOOPS if name in parts)
        guider = host.sampling.make_guider(parts[loop], *conds, settings.cfg)
        drawn = host.sampling.sample(guider, latent, SamplingRun(0, 1, "euler", "simple"))
        image = host.vae.decode(parts["VAE decoder"], drawn["samples"])
        if "upscaler" in networks:
            upscale(parts["upscaler"], image)
    counted = {}
    for name, network in networks.items():
        every = found[name].get("all", Cost())
        runs = settings.steps if name in LOOPS else 2 if name == "text encoder" else 1
        decoder = getattr(network, "decoder", network) if name == "VAE decoder" else network
        parameters, stored = weight_size(decoder)
        counted[name] = Cost(0.0, parameters, every.multiply_adds * runs, stored)
    for kind, cost in found.get(loop, {}).items():
        if kind in TYPES:
            counted[kind] = Cost(0.0, cost.parameters, cost.multiply_adds * settings.steps, cost.bytes)
    return counted


def _network(name: str, whole: Any) -> Any:
    """Return the torch module inside a part, or None where none is found."""
    from torch import nn

    where = {
        **dict.fromkeys(LOOPS, ("model.diffusion_model",)), "text encoder": ("encoder.text_model", "cond_stage_model"),
        "VAE decoder": ("first_stage_model",), "upscaler": ("model",),
    }[name]  # fmt: skip
    for path in where:
        found = whole
        for attribute in path.split("."):
            found = getattr(found, attribute, None)
        if isinstance(found, nn.Module):
            return found
    return None


def draw_chart(profile: Profile, width: int = 640) -> Tensor:
    """Draw the rows as horizontal bars: an IMAGE (1, H, `width`, 3)."""
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


def _rows(taken: dict[str, list[float]], counted: dict[str, Cost] | None = None) -> tuple[Row, ...]:
    parts = [name for name in taken if name not in TYPES]
    totals = [sum(values) for values in zip(*(taken[name] for name in parts), strict=True)]
    whole = statistics.median(totals) or 1.0
    counted = counted or {}
    rows = []
    for name in parts:
        rows.append(_row(name, taken[name], whole, counted.get(name)))
        if name in LOOPS:
            rows += [_row(part, taken[part], whole, counted.get(part), inside=True) for part in TYPES if part in taken]
    return (*rows, _row("total", totals, whole))


def _row(name: str, values: list[float], whole: float, cost: Cost | None = None, inside: bool = False) -> Row:
    median = statistics.median(values)
    quartiles = statistics.quantiles(values, n=4, method="inclusive") if len(values) > 1 else [median] * 3
    known = (None, None, None) if cost is None else (cost.parameters, cost.bytes / 2**20, cost.multiply_adds)
    return Row(name, median, quartiles[2] - quartiles[0], median / whole, inside, *known)


def _environment(network: Any, settings: Settings) -> dict[str, Any]:
    import torch

    found: dict[str, Any] = {"size": f"{settings.width}x{settings.height}", "steps": settings.steps, "runs": settings.runs}
    weights = next(network.parameters(), None) if network is not None else None
    if weights is not None:
        found["transformer parameters" if is_transformer(network) else "U-Net parameters"] = weight_size(network)[0]
        found |= {"device": str(weights.device), "dtype": str(weights.dtype).removeprefix("torch.")}
    return found | {"threads": torch.get_num_threads(), "torch": torch.__version__}


@contextlib.contextmanager
def _measured(times: dict[str, float], name: str) -> Iterator[None]:
    wait()
    started = time.perf_counter()
    yield
    wait()
    times[name] = times.get(name, 0.0) + time.perf_counter() - started
