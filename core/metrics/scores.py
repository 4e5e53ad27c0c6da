"""Scores of IMAGEs against maps, texts and other pictures, as the metric nodes show them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from ..bundles.load import load_bundle
from ..control.maps import canny
from ..control.segmenter import image_to_classes, load_segmenter, segment
from ..errors import InputError
from ..knowledge.graph import load_knowledge
from ..scoring.clip_score import ClipScorer
from ..scoring.judge import frechet_distance, judge_pictures, load_judge
from ..text.encoder import load_text_encoder
from ..text.image_tower import load_image_tower
from .control import TOLERANCE, clip_score, edge_f_score, edge_nmse, inception_score, mean_iou
from .orchard import LEAST_FOR_FID

NOT_MEASURED = -1.0
"""Value of a score where nothing was given to measure it against."""


@dataclass(frozen=True)
class Towers:
    """The files of a text encoder and an image tower that were trained into one space, and of a knowledge graph, if names need one."""

    text: Path
    image: Path
    graph: Path | None = None


@dataclass(frozen=True)
class Scores:
    """Numbers by name, each with its meaning, in the order of the report."""

    rows: tuple[tuple[str, float, str], ...]

    def __getitem__(self, name: str) -> float:
        return next(value for row, value, _ in self.rows if row == name)

    def report(self) -> str:
        """Return the scores as text: a line each, and what it means below."""
        return "\n".join(
            f"{name}: {'not measured' if value == NOT_MEASURED else f'{value:.4f}'}\n  {meaning}" for name, value, meaning in self.rows
        )


@torch.no_grad()
def controllability(
    image: Tensor,
    texts: str,
    towers: Towers,
    segmenter: Path | None = None,
    edges: Tensor | None = None,
    segmentation: Tensor | None = None,
    low: float = 0.1,
    high: float = 0.2,
) -> Scores:
    """Score how well pictures (IMAGE) follow their condition maps (IMAGEs of one map, or of one for each picture) and their texts.

    `texts`: one for all pictures, or one a line. Raises :class:`InputError` for what does not fit together.
    """
    pictures = _pictures(image)
    nmse = f_score = iou = score = NOT_MEASURED
    if edges is not None:
        wanted = (_fitted(edges, pictures, "edges").mean(1) > 0.5).float()
        found = canny(pictures, low, high)
        nmse, f_score = _mean(edge_nmse(found, wanted)), _mean(edge_f_score(found, wanted))
    if segmentation is not None:
        if segmenter is None:
            raise InputError("a segmentation is given but no segmenter to find the segments of the pictures with")
        network = load_segmenter(segmenter)
        wanted = image_to_classes(_fitted(segmentation, pictures, "segmentation").movedim(1, -1))
        iou = mean_iou(segment(network, pictures * 2 - 1), wanted, len(network.classes))
    if texts.strip():
        score = _mean(text_scores(pictures, _lines(texts, len(pictures)), towers))
    return Scores((
        ("edge NMSE", nmse, "0: the same edge pixels, 1: as if there were none; lower is better"),
        ("edge F-score", f_score, f"1: the same edges to within {TOLERANCE} pixels, 0: none of them; higher is better"),
        ("IoU", iou, "1: the same segments; higher is better"),
        ("CLIP score", score, "cosine of pictures and texts; higher is better"),
    ))  # fmt: skip


@torch.no_grad()
def evaluation(image: Tensor, judge: Path, texts: str, towers: Towers, reference: Tensor | None = None) -> Scores:
    """Score pictures (IMAGE): FID-A against a `reference` (IMAGE), the judge's inception score, the CLIP score."""
    pictures = _pictures(image)
    network = load_judge(judge)
    features = network.features(pictures * 2 - 1)
    distance = spread = score = NOT_MEASURED
    if reference is not None:
        distance = frechet_distance(features, judge_pictures(network, _pictures(reference) * 2 - 1)[1])
    if len(pictures) > 1:
        spread = inception_score({name: head(features) for name, head in network.heads.items()})
    if texts.strip():
        score = _mean(text_scores(pictures, _lines(texts, len(pictures)), towers))
    few = f"; {len(pictures)} pictures are too few to trust it, take {LEAST_FOR_FID} or more" if len(pictures) < LEAST_FOR_FID else ""
    return Scores((
        ("FID-A", distance, f"distance to the reference in the judge's features, comparable at equal counts only; lower is better{few}"),
        ("inception score", spread, "of the judge's attributes: each surely read, and all of them drawn; higher is better"),
        ("CLIP score", score, "cosine of pictures and texts; higher is better"),
    ))  # fmt: skip


@torch.no_grad()
def text_scores(pictures: Tensor, texts: Sequence[str], towers: Towers) -> Tensor:
    """Return the cosines (B,) of pictures (B, 3, H, W) in [0, 1] and their texts."""
    encoder, tower = load_text_encoder(load_bundle(towers.text, "text")), load_image_tower(load_bundle(towers.image, "image"))
    if encoder.config["projection_dim"] != tower.projection_dim:
        raise InputError(
            f"{towers.text.name} embeds into {encoder.config['projection_dim']} features and {towers.image.name} into "
            f"{tower.projection_dim}: choose two that were trained together"
        )
    scorer = ClipScorer(encoder, tower, None if towers.graph is None else load_knowledge(towers.graph))
    if towers.graph is not None and scorer.table is None:
        raise InputError(
            f"{towers.graph.name} has no vectors that {towers.text.name} can read: choose the graph it was trained with, or none"
        )
    return clip_score(scorer.images(pictures * 2 - 1), scorer.texts(texts))


def _pictures(image: Tensor) -> Tensor:
    if image.dim() != 4 or image.shape[-1] < 3 or not image.numel() or not bool(image.isfinite().all()):
        raise InputError(f"an IMAGE (B, H, W, 3) of finite numbers is expected, not {tuple(image.shape)}")
    return image[..., :3].movedim(-1, 1).float().cpu()


def _fitted(condition: Tensor, pictures: Tensor, name: str) -> Tensor:
    """Return the condition as (B, 3, H, W) at the pictures' size."""
    maps = _pictures(condition)
    if len(maps) not in (1, len(pictures)):
        raise InputError(f"{len(maps)} {name} maps for {len(pictures)} pictures: give one, or as many")
    if maps.shape[-2:] != pictures.shape[-2:]:
        maps = functional.interpolate(maps, pictures.shape[-2:], mode="nearest-exact")
    return maps.expand(len(pictures), -1, -1, -1)


def _lines(texts: str, count: int) -> list[str]:
    lines = [line.strip() for line in texts.splitlines() if line.strip()]
    if len(lines) not in (1, count):
        raise InputError(f"{len(lines)} texts for {count} pictures: give one for all, or one a line for each")
    return lines * (count // len(lines))


def _mean(values: Tensor) -> float:
    return float(values[~values.isnan()].mean()) if bool((~values.isnan()).any()) else NOT_MEASURED
