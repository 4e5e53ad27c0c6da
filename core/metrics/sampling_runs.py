"""Sampling runs of the same prompts and the same noise under one sampler after another: latents, evaluations and seconds."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ..errors import InputError
from .orchard import AA_ATTRIBUTES, Floats, accuracy_by_picture, evaluation_scenes, prompts_for, to_pictures


@dataclass(frozen=True)
class Drawn:
    """Result of one sampling run: unscaled latents (N, C, h, w), evaluations a picture, calls of the model, seconds."""

    latents: Tensor
    evaluations: int
    calls: int
    seconds: float


class PromptRuns:
    """Sampling runs of `prompts` with `model` under guidance `cfg`: all pictures in one batch, always from the noise of `seed`.

    Works with the embedded host. Raises :class:`InputError` without prompts.
    """

    def __init__(self, host: Any, model: Any, clip: Any, prompts: Sequence[str], cfg: float = 4.0, seed: int = 0, side: int = 128) -> None:
        if not prompts:
            raise InputError("no prompt was given; expected at least one to draw")
        self.host, self.model, self.seed, self.cfg = host, model, seed, cfg
        negative = host.clip.encode(clip, "")[0][0]
        positive = torch.cat([host.clip.encode(clip, prompt)[0][0] for prompt in prompts])
        self.conds: tuple[list[Any], list[Any]] = [[positive, {}]], [[negative.expand(len(prompts), -1, -1), {}]]
        self.guider = host.sampling.make_guider(model, *self.conds, cfg)
        space = model.get_model_object("latent_format")
        self.empty = torch.zeros(len(prompts), space.channels, side // space.factor, side // space.factor)

    def using(self, model: Any = None, cfg: float | None = None) -> PromptRuns:
        """Return runs of the same prompts and noise with another model, or under another guidance."""
        other = copy.copy(self)
        other.model, other.cfg = model or self.model, self.cfg if cfg is None else cfg
        return other._renewed()

    def only(self, index: int) -> PromptRuns:
        """Return runs of the one prompt number `index`, from noise of its own seed."""
        other = copy.copy(self)
        positive, negative = self.conds
        other.conds = [[positive[0][0][index : index + 1], {}]], [[negative[0][0][index : index + 1], {}]]
        other.empty, other.seed = self.empty[:1], self.seed + index
        return other._renewed()

    def _renewed(self) -> PromptRuns:
        self.guider = self.host.sampling.make_guider(self.model, *self.conds, self.cfg)
        return self

    def sigmas(self, scheduler: str, steps: int) -> Tensor:
        """Return the noise levels (steps + 1,) of a schedule."""
        from ..host.embedded.sampling import scheduled_sigmas

        return scheduled_sigmas(self.model, scheduler, steps)

    def draw(self, function: Callable[..., Tensor], sigmas: Tensor, options: Mapping[str, Any] | None = None) -> Drawn:
        """Run a k-diffusion sampler function along `sigmas`."""
        from ..host.embedded.sampling import RandomNoise, sample_latent

        counted: list[int] = []

        def run(model: Any, x: Tensor, levels: Tensor, **more: Any) -> Tensor:
            return function(_Counted(model, counted), x, levels, **more)

        began = time.perf_counter()
        sampler = self.host.sampling.make_sampler(run, dict(options or {}))
        latents = sample_latent(RandomNoise(self.seed), self.guider, sampler, sigmas, {"samples": self.empty})[0]["samples"]
        return Drawn(latents, sum(counted) // len(self.empty), len(counted), time.perf_counter() - began)


class _Counted:
    """A model that notes the size of each call."""

    def __init__(self, model: Any, counted: list[int]) -> None:
        self.model, self.inner_model, self.counted = model, model.inner_model, counted

    def __call__(self, x: Tensor, sigma: Tensor, **more: Any) -> Tensor:
        self.counted.append(len(x))
        return self.model(x, sigma, **more)


def rms(a: Tensor, b: Tensor) -> float:
    """Return the root mean square of the difference."""
    return float((a - b).pow(2).mean().sqrt())


def square_by_picture(a: Tensor, b: Tensor) -> Floats:
    """Return each picture's mean square difference (N,); the root of their mean is :func:`rms`."""
    return (a - b).pow(2).flatten(1).mean(1).double().numpy()


@dataclass(frozen=True)
class OrchardRuns:
    """:class:`PromptRuns` over prompts of the Orchard's seen fruits, with the judge that reads the pictures."""

    runs: PromptRuns
    vae: Any
    judge: Any
    scenes: list[Any]

    def using(self, model: Any, vae: Any) -> OrchardRuns:
        """Return the same prompts, noise and judge with another model and VAE."""
        return replace(self, runs=self.runs.using(model), vae=vae)

    def accuracy(self, latents: Tensor) -> Floats:
        """Return the attribute accuracy (N,) of each picture, from unscaled latents."""
        from ..scoring.judge import judge_pictures

        predicted, _ = judge_pictures(self.judge, to_pictures(self.runs.host.vae.decode(self.vae, latents)))
        return accuracy_by_picture(predicted, self.scenes, AA_ATTRIBUTES)


def open_orchard(count: int, split: str = "seen", seed: int = 5) -> OrchardRuns:
    """Load the shipped model with its knowledge graph, ready to draw `count` scenes.

    Raises :class:`InputError` for a count outside 1..4096.
    """
    from ..bundles.find import resolve_bundle
    from ..host import Host
    from ..knowledge.graph import load_knowledge
    from ..scoring.judge import load_judge

    if isinstance(count, bool) or not 1 <= count <= 4096:
        raise InputError(f"the number of pictures must lie between 1 and 4096, {count!r} was given")
    host = Host("embedded")
    model, clip, vae = host.load_bundles(*(resolve_bundle(f"orchard-{kind}.safetensors", kind) for kind in ("unet", "text", "vae")))
    clip = host.knowledge.attach(clip, load_knowledge(resolve_bundle("orchard-kg.safetensors", "kg")), 1.0)
    judge = load_judge(resolve_bundle("orchard-judge.safetensors", "judge"))
    pairs = evaluation_scenes(split, count, seed)
    return OrchardRuns(PromptRuns(host, model, clip, prompts_for(pairs)), vae, judge, [scene for _, scene in pairs])
