"""Sample pictures of given Orchard scenes from a loaded model, as the benchmarks do: one prompt a picture, many pictures a batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from ..errors import InputError
from ..orchard.captions import name_caption
from ..orchard.entities import Entity, entities
from ..orchard.render import render
from ..orchard.world import Scene

AA_ATTRIBUTES = ("shape", "skin", "pattern", "topper", "ground", "sky")
"""The attributes whose mean is called AA. The first four belong to the fruit, the last two are in every prompt."""
FRUIT = ("shape", "skin", "pattern", "topper")


def evaluation_scenes(split: str, count: int, seed: int = 0) -> list[tuple[Entity, Scene]]:
    """`count` scenes that show the entities of `split` (`seen`, `rare`, `unseen`) in turn; the same for the same `seed`."""
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
    """One prompt a scene: the fruit's name, ground and sky; English and Chinese in turn."""
    return [name_caption(scene, entity, ("en", "zh")[index % 2]) for index, (entity, scene) in enumerate(pairs)]


def render_batch(scenes: Sequence[Scene], size: int) -> torch.Tensor:
    """Renders of `scenes`, (B, 3, size, size) in [-1, 1]."""
    return torch.stack([torch.from_numpy(render(scene, size)) for scene in scenes]).permute(0, 3, 1, 2).float() / 127.5 - 1


@torch.no_grad()
def sample_pictures(
    host: Any,
    model: Any,
    clip: Any,
    vae: Any,
    prompts: Sequence[str],
    sample: Callable[[Any, list[Any], list[Any], dict[str, Any], int], torch.Tensor],
    side: int = 128,
    batch: int = 32,
    seed: int = 0,
) -> torch.Tensor:
    """Pictures (N, 3, side, side) in [-1, 1] of `prompts`. `sample(model, positive, negative, latent, seed)` returns unscaled latents.

    Picture number i starts from the same noise whatever the prompts are, so that two conditions differ in nothing but the condition.
    Of a prompt that is longer than one row of the text encoder, the first row counts.
    """
    negative = host.clip.encode(clip, "")
    done = []
    for first in range(0, len(prompts), batch):
        part = prompts[first : first + batch]
        rows = [host.clip.encode(clip, prompt)[0][0] for prompt in part]
        tokens = torch.cat([row[:, : negative[0][0].shape[1]] for row in rows])
        against = [[negative[0][0].expand(len(part), -1, -1), {}]]
        latent = {"samples": torch.zeros(len(part), 4, side // 8, side // 8)}
        samples = sample(model, [[tokens, {}]], against, latent, seed + first)
        done.append(host.vae.decode(vae, samples).permute(0, 3, 1, 2) * 2 - 1)
    return torch.cat(done)
