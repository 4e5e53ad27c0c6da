"""A contact sheet: pictures of prompts drawn by lot, beside the renders of the same scenes, so that nobody chooses what is shown."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from einops import rearrange
from PIL import Image

from ..orchard.entities import Entity
from ..orchard.world import Scene
from ..upscale.tiles import upscale
from .orchard import Parts, evaluation_scenes, prompts_for, render_batch, sample_pictures

SPLITS = ("seen", "rare", "unseen")
SMALL, LARGE = 128, 512


def scenes_by_lot(count: int, seed: int) -> list[tuple[Entity, Scene]]:
    """Return `count` scenes from names seen, rare and unseen by turns, drawn with `seed`."""
    each = -(-count // len(SPLITS))
    drawn = [evaluation_scenes(split, each, seed) for split in SPLITS]
    return [drawn[index % len(SPLITS)][index // len(SPLITS)] for index in range(count)]


def contact_sheet(
    parts: Parts, upscaler: Any, sample: Callable[..., torch.Tensor], count: int = 64, seed: int = 0, columns: int = 4
) -> Image.Image:
    """Draw the sheet. A cell is, from left to right: render and picture at 128 px one above the other, render at 512 px, picture at 512 px.

    `sample` is what :func:`~.orchard.sample_pictures` takes. The 512 px picture is the 128 px one after `upscaler`.
    """
    pairs = scenes_by_lot(count, seed)
    scenes = [scene for _, scene in pairs]
    small = sample_pictures(parts, prompts_for(pairs), sample, SMALL, seed=seed)
    images = rearrange(small.clamp(-1, 1) / 2 + 0.5, "b c h w -> b h w c")
    large = rearrange(upscale(upscaler, images), "b h w c -> b c h w") * 2 - 1
    cells = [_cell(*four) for four in zip(render_batch(scenes, SMALL), small, render_batch(scenes, LARGE), large, strict=True)]
    rows = [torch.cat(_filled(cells[first : first + columns], columns), dim=2) for first in range(0, count, columns)]
    pixels = ((torch.cat(rows, dim=1) / 2 + 0.5).clamp(0, 1) * 255).round().byte()
    return Image.fromarray(rearrange(pixels, "c h w -> h w c").numpy())


def _cell(small_render: torch.Tensor, small: torch.Tensor, large_render: torch.Tensor, large: torch.Tensor) -> torch.Tensor:
    left = torch.ones(3, LARGE, SMALL)
    left[:, :SMALL], left[:, SMALL : 2 * SMALL] = small_render, small
    return torch.cat([left, large_render, large], dim=2)


def _filled(cells: Sequence[torch.Tensor], columns: int) -> list[torch.Tensor]:
    return [*cells, *[torch.ones_like(cells[0])] * (columns - len(cells))]
