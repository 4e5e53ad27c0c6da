"""Readers of pictures: a user's CLIP_VISION, or an image tower of this pack, as one function from an IMAGE to embeddings."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..bundles.load import load_bundle
from ..errors import InputError
from ..paths import file_sha256
from .image_tower import load_image_tower

MOST_FEATURES = 8192
_MARK, _NEAR = 16, 0.3
"""Features of an embedding of :func:`_test_picture` that tell a CLIP_VISION from others, and how near they are by the same CLIP_VISION: in
half precision each differs by less than 0.05, by another CLIP_VISION by about 1."""


@dataclass(frozen=True)
class PictureReader:
    """A network that reads pictures: `read(image)` returns (B, width), in float32 on the CPU, of an IMAGE (B, H, W, 3) in [0, 1].

    `told` is what a bundle says of it: `kind` (`image` or `clip_vision`), and what tells it from others of its kind."""

    read: Callable[[Tensor], Tensor]
    width: int
    told: Mapping[str, Any]


def tower_reader(path: Path) -> PictureReader:
    """Return the reader by the image tower in `path`. Raises :class:`BundleError` for another file."""
    tower = load_image_tower(load_bundle(path, "image")).requires_grad_(False)
    told = {"kind": "image", "sha256": file_sha256(path), "name": path.name}
    return PictureReader(lambda image: tower(image[..., :3].movedim(-1, 1).float() * 2 - 1), tower.projection_dim, told)


def clip_vision_reader(clip_vision: Any) -> PictureReader:
    """Return the reader by a host's CLIP_VISION. Raises :class:`InputError` for one that gives no vector a picture, or one too long."""
    width = int(embed_by_clip_vision(clip_vision, _test_picture()).shape[-1])
    if width > MOST_FEATURES:
        raise InputError(f"this CLIP_VISION gives embeddings of {width} features; expected at most {MOST_FEATURES}")
    told = {"kind": "clip_vision", "mark": clip_vision_mark(clip_vision)}
    return PictureReader(lambda image: embed_by_clip_vision(clip_vision, image), width, told)


@torch.no_grad()
def embed_by_clip_vision(clip_vision: Any, image: Tensor) -> Tensor:
    """Return the embeddings (B, width) of an IMAGE. Raises :class:`InputError` where the CLIP_VISION gives none."""
    answer = clip_vision.encode_image(image[..., :3])
    try:
        made = answer["image_embeds"]
    except (KeyError, TypeError, AttributeError):
        made = None
    if not isinstance(made, Tensor) or made.dim() != 2 or len(made) != len(image):
        given = f"embeddings of shape {tuple(made.shape)}" if isinstance(made, Tensor) else "no embedding"
        raise InputError(f"this CLIP_VISION gives {given}, not one vector a picture; load a CLIP Vision model such as ViT-L/14 or ViT-H/14")
    return made.float().cpu()


def clip_vision_mark(clip_vision: Any) -> list[float]:
    """Return numbers that tell this CLIP_VISION from others: the first of its embedding of a test picture, in units of their spread."""
    (embedding,) = embed_by_clip_vision(clip_vision, _test_picture())
    scaled = embedding * len(embedding) ** 0.5 / embedding.norm().clamp(min=1e-12)
    return [round(float(number), 2) for number in scaled[:_MARK]]


def same_mark(kept: Any, made: list[float]) -> bool:
    """Return whether two marks of :func:`clip_vision_mark`, one of them from a file, are of one CLIP_VISION."""
    if not isinstance(kept, list) or len(kept) != len(made) or not all(isinstance(one, int | float) for one in kept):
        return False
    return all(abs(one - other) <= _NEAR for one, other in zip(kept, made, strict=True))


def _test_picture() -> Tensor:
    """Return an IMAGE (1, 64, 64, 3) with a gradient in each channel."""
    ramp = torch.linspace(0, 1, 64)
    rows, columns = ramp[:, None].expand(64, 64), ramp[None].expand(64, 64)
    return torch.stack([rows, columns, (rows - columns).abs()], dim=-1)[None]
