"""Measures of control and of quality: edges, segments, texts and variety of pictures (ELR-Diffusion, tables 2 and 3).

* edge NMSE: ||E_g - E_c||^2 / ||E_c||^2 of the edges of a generated picture and those of its condition. 0 is the same, 1 is what no edges
  at all would score. It asks for the very same pixels: edges that are right but one pixel beside score above 1.
* edge F-score: the harmonic mean of precision and recall of edge pixels, where an edge counts as met if the other map has one within
  `TOLERANCE` pixels. 1 is the same, 0 is none.
* IoU: intersection over union, the mean over the classes that occur.
* CLIP score: the raw cosine of a picture and its text in a space that both were trained into (Hessel et al. 2021 multiply it by 2.5).
* Inception score (Salimans et al. 2016): exp of the mean KL(p(y|x) || p(y)), with the judge's attributes for Inception's classes.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional

from ..errors import InputError

TOLERANCE = 2
"""Pixels by which an edge may be displaced, in either direction."""


def edge_nmse(generated: Tensor, condition: Tensor) -> Tensor:
    """Return the NMSE (B,) of edges (B, H, W) in [0, 1]. NaN where the condition has no edge.

    Raises :class:`InputError` for unequal shapes.
    """
    _same(generated, condition)
    found, wanted = generated.float().flatten(1), condition.float().flatten(1)
    return (found - wanted).square().sum(1) / wanted.square().sum(1).where(wanted.any(1), torch.nan)


def edge_f_score(generated: Tensor, condition: Tensor, tolerance: int = TOLERANCE) -> Tensor:
    """Return the F-scores (B,) of edges (B, H, W) in {0, 1}, met within `tolerance` pixels. NaN where the condition has no edge.

    Raises :class:`InputError` for unequal shapes or a tolerance below 0.
    """
    _same(generated, condition)
    if tolerance < 0:
        raise InputError(f"a tolerance of {tolerance} pixels was given; expected 0 or more")
    found, wanted = (edges.float() for edges in (generated, condition))
    near_found, near_wanted = (functional.max_pool2d(edges[:, None], 2 * tolerance + 1, 1, tolerance)[:, 0] for edges in (found, wanted))
    precision = (found * near_wanted).sum((1, 2)) / found.sum((1, 2)).clamp(min=1)
    recall = (wanted * near_found).sum((1, 2)) / wanted.sum((1, 2)).where(wanted.flatten(1).any(1), torch.nan)
    return 2 * precision * recall / (precision + recall).clamp(min=1e-9)


def mean_iou(found: Tensor, truth: Tensor, classes: int) -> float:
    """Return the mean IoU of class maps (B, H, W) over all pixels of the batch. A class that occurs in neither map does not count."""
    _same(found, truth)
    scores = []
    for index in range(classes):
        one, other = found == index, truth == index
        union = (one | other).sum()
        if union:
            scores.append(float((one & other).sum() / union))
    return sum(scores) / len(scores) if scores else float("nan")


def clip_score(pictures: Tensor, texts: Tensor) -> Tensor:
    """Return the cosines (B,) of embeddings (B, d) of pictures and of their texts (or of other pictures)."""
    _same(pictures, texts)
    return functional.cosine_similarity(pictures.float(), texts.float(), dim=-1)


def inception_score(logits: Mapping[str, Tensor]) -> float:
    """Return the geometric mean of the attributes' scores from logits (B, values).

    It runs from 1 (all pictures alike, or nothing recognised) to the geometric mean of the numbers of values. The judge takes the place of
    Inception, so the score is not comparable with others. Raises :class:`InputError` without an attribute or with one picture.
    """
    if not logits or any(rows.dim() != 2 or len(rows) < 2 for rows in logits.values()):
        raise InputError("the score needs the logits (B, values) of at least one attribute and two pictures")
    divergences = []
    for rows in logits.values():
        each = rows.double().log_softmax(1)
        whole = each.exp().mean(0).clamp(min=1e-12).log()
        divergences.append((each.exp() * (each - whole)).sum(1).mean())
    return float(torch.stack(divergences).mean().exp())


def _same(first: Tensor, second: Tensor) -> None:
    if first.shape != second.shape:
        raise InputError(f"shapes {tuple(first.shape)} and {tuple(second.shape)} cannot be compared; they must be equal")
