"""Pictures of given Orchard scenes, drawn by a loaded model as the benchmarks draw them, and what the judge reads from them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from einops import rearrange

from ..errors import InputError
from ..orchard.captions import name_caption
from ..orchard.entities import Entity, entities
from ..orchard.render import render
from ..orchard.world import Scene
from ..scoring.judge import IGNORE, frechet_distance, labels

Floats = npt.NDArray[np.float64]

AA_ATTRIBUTES = ("shape", "skin", "pattern", "topper", "ground", "sky")
"""The attributes of attribute accuracy (AA). The first four belong to the fruit; the last two stand in every prompt."""
FRUIT = ("shape", "skin", "pattern", "topper")
LEAST_FOR_FID = 1000
"""Pictures from which FID-A is given. It compares covariances of 128 features, which fewer pictures do not determine."""


def evaluation_scenes(split: str, count: int, seed: int = 0) -> list[tuple[Entity, Scene]]:
    """Return `count` scenes that show the entities of `split` (`seen`, `rare`, `unseen`) in turn; the same scenes for the same `seed`."""
    import random

    rng = random.Random(f"evaluation/{split}/{seed}")
    chosen = [e for e in entities() if e.split == split]
    if not chosen:
        raise InputError(f"no entity is in split {split!r}; the splits are seen, rare and unseen")
    rng.shuffle(chosen)
    pairs = []
    for index in range(count):
        entity = chosen[index % len(chosen)]
        pairs.append((entity, entity.scene(rng, style="fine")))
    return pairs


def prompts_for(pairs: Sequence[tuple[Entity, Scene]]) -> list[str]:
    """Return one prompt a scene: the fruit's name, ground and sky, in English and Chinese by turns."""
    return [name_caption(scene, entity, ("en", "zh")[index % 2]) for index, (entity, scene) in enumerate(pairs)]


def render_batch(scenes: Sequence[Scene], size: int) -> torch.Tensor:
    """Draw `scenes` exactly: renders (B, 3, size, size) in [-1, 1]."""
    return torch.stack([torch.from_numpy(render(scene, size)) for scene in scenes]).permute(0, 3, 1, 2).float() / 127.5 - 1


@dataclass(frozen=True)
class Parts:
    """A host and the MODEL, CLIP and VAE that draw a picture in it."""

    host: Any
    model: Any
    clip: Any
    vae: Any


@torch.no_grad()
def sample_pictures(
    parts: Parts,
    prompts: Sequence[str],
    sample: Callable[[Any, list[Any], list[Any], dict[str, Any], int], torch.Tensor],
    side: int = 128,
    batch: int = 32,
    seed: int = 0,
) -> torch.Tensor:
    """Draw pictures (N, 3, side, side) in [-1, 1] of `prompts`. `sample(model, positive, negative, latent, seed)` gives unscaled latents.

    Picture number i starts from the same noise whatever the prompts are, so that two conditions differ in nothing but the condition.
    Only the first row of tokens counts where a prompt is longer than one row of the text encoder.
    """
    host = parts.host
    negative = host.clip.encode(parts.clip, "")
    done = []
    for first in range(0, len(prompts), batch):
        part = prompts[first : first + batch]
        rows = [host.clip.encode(parts.clip, prompt)[0][0] for prompt in part]
        tokens = torch.cat([row[:, : negative[0][0].shape[1]] for row in rows])
        against = [[negative[0][0].expand(len(part), -1, -1), {}]]
        latent = {"samples": torch.zeros(len(part), 4, side // 8, side // 8)}
        samples = sample(parts.model, [[tokens, {}]], against, latent, seed + first)
        done.append(to_pictures(host.vae.decode(parts.vae, samples)))
    return torch.cat(done)


def to_pictures(image: torch.Tensor) -> torch.Tensor:
    """Turn an IMAGE (B, H, W, 3) in [0, 1] into the pictures (B, 3, H, W) in [-1, 1] that the judge reads."""
    return rearrange(image, "b h w c -> b c h w") * 2 - 1


def accuracy_by_picture(predicted: dict[str, torch.Tensor], scenes: list[Scene], attributes: Sequence[str]) -> Floats:
    """Return each picture's share (N,) of `attributes` that the judge reads right. A picture without any of them is NaN.

    Their mean is the attribute accuracy of :func:`attribute_accuracy` where every scene has every attribute.
    """
    truth = labels(scenes)
    known = torch.stack([truth[name] != IGNORE for name in attributes]).double()
    right = torch.stack([predicted[name] == truth[name] for name in attributes]).double() * known
    return np.asarray(right.sum(0) / known.sum(0))


def fid_a(features: torch.Tensor, real: torch.Tensor) -> float | None:
    """Return FID-A of two sets of the judge's features (N, 128), or None where one has fewer than :data:`LEAST_FOR_FID` pictures."""
    return round(frechet_distance(features, real), 2) if min(len(features), len(real)) >= LEAST_FOR_FID else None
