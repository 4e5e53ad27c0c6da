"""The same prompts and the same noise, drawn by one sampler after another: latents, evaluations and seconds, for the benchmarks."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..errors import InputError


@dataclass(frozen=True)
class Walk:
    """What one sampler made of it. `latents` (N, C, h, w) unscaled; `evaluations` and `calls` of the model a picture's walk took."""

    latents: Tensor
    evaluations: int
    calls: int
    seconds: float


class Walks:
    """Draws `prompts` with `model` under guidance `cfg`, all pictures in one batch, always from the noise of `seed`.

    Works with the embedded host. Raises :class:`InputError` without prompts.
    """

    def __init__(self, host: Any, model: Any, clip: Any, prompts: Sequence[str], cfg: float = 4.0, seed: int = 0, side: int = 128) -> None:
        if not prompts:
            raise InputError("at least one prompt is needed to draw")
        self.host, self.model, self.seed, self.cfg = host, model, seed, cfg
        negative = host.clip.encode(clip, "")[0][0]
        positive = torch.cat([host.clip.encode(clip, prompt)[0][0] for prompt in prompts])
        self.conds = [[positive, {}]], [[negative.expand(len(prompts), -1, -1), {}]]
        self.guider = host.sampling.make_guider(model, *self.conds, cfg)
        space = model.get_model_object("latent_format")
        self.empty = torch.zeros(len(prompts), space.channels, side // space.factor, side // space.factor)

    def using(self, model: Any = None, cfg: float | None = None) -> Walks:
        """The same prompts and noise with another model, or under another guidance."""
        other = copy.copy(self)
        other.model, other.cfg = model or self.model, self.cfg if cfg is None else cfg
        other.guider = self.host.sampling.make_guider(other.model, *self.conds, other.cfg)
        return other

    def sigmas(self, scheduler: str, steps: int) -> Tensor:
        """The noise levels (steps + 1,) of a schedule."""
        from ..host.embedded.sampling import scheduled_sigmas

        return scheduled_sigmas(self.model, scheduler, steps)

    def draw(self, function: Callable[..., Tensor], sigmas: Tensor, options: Mapping[str, Any] | None = None) -> Walk:
        """Run a k-diffusion function along `sigmas`."""
        from ..host.embedded.sampling import RandomNoise, sample_latent

        counted: list[int] = []

        def run(model: Any, x: Tensor, levels: Tensor, **more: Any) -> Tensor:
            return function(_Counted(model, counted), x, levels, **more)

        began = time.perf_counter()
        sampler = self.host.sampling.make_sampler(run, dict(options or {}))
        latents = sample_latent(RandomNoise(self.seed), self.guider, sampler, sigmas, {"samples": self.empty})[0]["samples"]
        return Walk(latents, sum(counted) // len(self.empty), len(counted), time.perf_counter() - began)


class _Counted:
    """A model that notes the size of each call."""

    def __init__(self, model: Any, counted: list[int]) -> None:
        self.model, self.inner_model, self.counted = model, model.inner_model, counted

    def __call__(self, x: Tensor, sigma: Tensor, **more: Any) -> Tensor:
        self.counted.append(len(x))
        return self.model(x, sigma, **more)


def rms(a: Tensor, b: Tensor) -> float:
    """Root mean square of the difference."""
    return float((a - b).pow(2).mean().sqrt())


@dataclass(frozen=True)
class OrchardWalks:
    """:class:`Walks` over prompts of the Orchard's seen fruits, and what its judge says of the pictures."""

    walks: Walks
    vae: Any
    judge: Any
    scenes: list[Any]
    real: Tensor

    def quality(self, latents: Tensor) -> dict[str, float]:
        """AA and FID-A (against renders of the same scenes) of unscaled latents. FID-A needs two pictures."""
        from ..scoring.judge import attribute_accuracy, frechet_distance, judge_pictures
        from .orchard import AA_ATTRIBUTES

        pictures = self.walks.host.vae.decode(self.vae, latents).permute(0, 3, 1, 2) * 2 - 1
        predicted, features = judge_pictures(self.judge, pictures)
        found = {"AA": round(attribute_accuracy(predicted, self.scenes, AA_ATTRIBUTES)["AA"], 3)}
        return found | ({"FID-A": round(frechet_distance(features, self.real), 2)} if len(features) > 1 else {})


def open_orchard(count: int, split: str = "seen", seed: int = 5) -> OrchardWalks:
    """The shipped model with its knowledge graph, ready to draw `count` scenes. Raises :class:`InputError` for a count outside 1..4096."""
    from ..bundles.find import resolve_bundle
    from ..host import Host
    from ..knowledge.graph import load_knowledge
    from ..scoring.judge import judge_pictures, load_judge
    from .orchard import evaluation_scenes, prompts_for, render_batch

    if isinstance(count, bool) or not 1 <= count <= 4096:
        raise InputError(f"the number of pictures must lie between 1 and 4096, {count!r} was given")
    host = Host("embedded")
    model, clip, vae = host.load_bundles(*(resolve_bundle(f"orchard-{kind}.safetensors", kind) for kind in ("unet", "text", "vae")))
    clip = host.knowledge.attach(clip, load_knowledge(resolve_bundle("orchard-kg.safetensors", "kg")), 1.0)
    judge = load_judge(resolve_bundle("orchard-judge.safetensors", "judge"))
    pairs = evaluation_scenes(split, count, seed)
    scenes = [scene for _, scene in pairs]
    walks = Walks(host, model, clip, prompts_for(pairs))
    return OrchardWalks(walks, vae, judge, scenes, judge_pictures(judge, render_batch(scenes, 128))[1])


def line_plots(path: Any, panels: Sequence[tuple[str, str, str, str, Mapping[str, Sequence[tuple[float, float]]]]]) -> None:
    """Write a PNG of panels side by side: (x label, y label, x scale, y scale, points by line)."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6 * len(panels), 4.5), layout="constrained")
    for place, (x_label, y_label, x_scale, y_scale, lines) in enumerate(panels, 1):
        axes = figure.add_subplot(1, len(panels), place)
        for number, (name, points) in enumerate(lines.items()):
            axes.plot(*zip(*points, strict=True), marker="osv^Dx*Ph+<>"[number % 12], label=name)
        axes.set(xlabel=x_label, ylabel=y_label, xscale=x_scale, yscale=y_scale)
        axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    figure.savefig(path, format="png", dpi=110)
