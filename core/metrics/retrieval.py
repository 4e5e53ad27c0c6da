"""Recall@k between texts and images, both ways (Rapid Diffusion, Table 2)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..errors import InputError


def recall_at(similarity: Tensor, k: int) -> float:
    """Return the share of rows of `similarity` (n, n) whose own column, the diagonal, is among the `k` most similar, in percent.

    A tie counts against the query: a constant similarity scores 0 unless `k` covers all. Chance is `100 k / n`.
    """
    if similarity.dim() != 2 or similarity.shape[0] != similarity.shape[1] or not len(similarity):
        raise InputError(f"similarity has shape {tuple(similarity.shape)}; expected (n, n) with the true pairs on the diagonal")
    if k < 1:
        raise InputError(f"k={k}: recall needs at least one place")
    return 100.0 * float((_better(similarity) < k).float().mean())


def first_hits(similarity: Tensor) -> Tensor:
    """Return 1 for each row (n,) of `similarity` (n, n) whose own column is the most similar, else 0; their mean is R@1."""
    return (_better(similarity) < 1).float()


def _better(similarity: Tensor) -> Tensor:
    """Return for each row how many other columns are at least as similar as its own."""
    return (similarity >= similarity.diagonal()[:, None]).sum(dim=1) - 1


def retrieval(texts: Tensor, images: Tensor, ks: Sequence[int] = (1, 5, 10)) -> dict[str, float]:
    """Return recalls of unit vectors (n, d) of texts and of their images, as `text_to_image@k` and `image_to_text@k` in percent."""
    similarity = texts @ images.T
    result: dict[str, float] = {}
    for way, matrix in (("text_to_image", similarity), ("image_to_text", similarity.T)):
        for k in ks:
            result[f"{way}@{k}"] = round(recall_at(matrix, k), 2)
    return result


def mean_of(results: Sequence[dict[str, float]]) -> dict[str, float]:
    """Return the mean of several results with the same keys."""
    return {key: round(float(torch.tensor([r[key] for r in results]).mean()), 2) for key in results[0]}
