"""Pictures of `bench time_decoupled`: drawn by a pair or by a cascade of two sizes, and judged."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

CFG, STEPS, TIMESTEPS = 3.0, 20, 1000


@dataclass(frozen=True)
class Judged:
    """The attribute accuracy (N,) of pictures, and FID-A from 1000 of them."""

    accuracy: Any
    fid_a: float | None


def judging(count: int, size: int) -> Callable[[Path, Path, int, bool], Judged]:
    """Return a function `judged(structure, texture, t_struct, is_cascade)` that draws `count` pictures of `size` px and judges them.

    A cascade's `structure` draws at half the size; `texture` goes on from its enlarged picture at the noise level of `t_struct`.
    """
    from ..core.metrics.orchard import (
        AA_ATTRIBUTES,
        accuracy_by_picture,
        evaluation_scenes,
        fid_a,
        prompts_for,
        render_batch,
        sample_pictures,
    )  # fmt: skip
    from ..core.scoring.judge import judge_pictures
    from .shipped import shipped_judge, shipped_parts

    judge = shipped_judge()
    pairs = evaluation_scenes("seen", count)
    scenes, prompts = [scene for _, scene in pairs], prompts_for(pairs)
    real = judge_pictures(judge, render_batch([scene for _, scene in evaluation_scenes("seen", count, 1)], size))[1]

    def judged(structure: Path, texture: Path, t_struct: int, is_cascade: bool) -> Judged:
        parts, second = shipped_parts(structure), shipped_parts(texture, knowledge=False).model
        sample = (_cascade if is_cascade else _pair)(parts, second, t_struct)
        predicted, features = judge_pictures(judge, sample_pictures(parts, prompts, sample, size))
        return Judged(accuracy_by_picture(predicted, scenes, AA_ATTRIBUTES), fid_a(features, real))

    return judged


def _pair(parts: Any, second: Any, t_struct: int) -> Callable[..., Any]:
    """Return a function that samples with one model above the switch and another below."""
    from ..core.host import SamplingRun, Stage

    topic = parts.host.time_decoupled

    def sample(model: Any, positive: Any, negative: Any, latent: dict[str, Any], seed: int) -> Any:
        guider = topic.make_guider([Stage(model, positive, negative, CFG, t_struct), Stage(second, None, None, CFG)])
        return topic.sample(guider, latent, SamplingRun(seed, STEPS, "dpmpp_2m", "simple"), "keep")["samples"]

    return sample


def _cascade(parts: Any, second: Any, t_struct: int) -> Callable[..., Any]:
    """Return a function that samples at half the size, enlarges the picture, and goes on from it with `second`."""
    from ..core.bridge.resample import enlarge
    from ..core.host import SamplingRun

    host, start = parts.host, round(STEPS * (1 - t_struct / TIMESTEPS))

    def sample(model: Any, positive: Any, negative: Any, latent: dict[str, Any], seed: int) -> Any:
        half = {**latent, "samples": latent["samples"][..., ::2, ::2]}
        first, last = (host.sampling.make_guider(one, positive, negative, CFG) for one in (model, second))
        small = host.sampling.sample(first, half, SamplingRun(seed, STEPS, "dpmpp_2m", "simple"))["samples"]
        image = host.vae.decode(parts.vae, small)
        larger = enlarge(image, (2 * image.shape[1], 2 * image.shape[2]), "bicubic", None)
        run = SamplingRun(seed + 1, STEPS, "dpmpp_2m", "simple", start_step=start)
        return host.sampling.sample(last, {"samples": host.vae.encode(parts.vae, larger)}, run)["samples"]

    return sample
