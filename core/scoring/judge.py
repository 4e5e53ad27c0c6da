"""The judge: an attribute classifier for Orchard pictures, trained on renders that no other model sees.

It gives the two measures of the benchmarks. Attribute accuracy (AA) is the share of a scene's attributes that the judge reads back from a
picture. FID-A is the Frechet distance (Heusel et al. 2017, eq. 6) between two sets of pictures in the judge's 128 features. FID-A is not
FID, and two values compare only at equal set sizes; hence the distance between two sets of real pictures of the same size is reported as
its floor.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from ..bundles.format import Bundle
from ..bundles.load import load_bundle
from ..errors import InputError
from ..networks import network_of
from ..orchard.world import ATTRIBUTES, Scene

SIDE = 64
"""Pictures are reduced to this many pixels a side before they are judged."""
IGNORE = -100


class Judge(nn.Module):
    """Five convolutions, 128 features, one linear head for each attribute. `operations` is the module that layers come from, as in
    ComfyUI."""

    def __init__(self, width: int = 32, features: int = 128, operations: Any = nn) -> None:
        super().__init__()
        widths = (width, 2 * width, 3 * width, 4 * width, 4 * width)
        layers: list[nn.Module] = []
        channels = 3
        for index, out in enumerate(widths):
            layers += [operations.Conv2d(channels, out, 3, padding=1, bias=False), nn.BatchNorm2d(out), nn.ReLU()]
            if index < len(widths) - 1:
                layers.append(nn.MaxPool2d(2))
            channels = out
        self.body = nn.Sequential(*layers)
        self.squeeze = operations.Linear(channels * (SIDE // 16) ** 2, features)
        self.heads = nn.ModuleDict({name: operations.Linear(features, len(values)) for name, values in ATTRIBUTES.items()})

    def features(self, pictures: torch.Tensor) -> torch.Tensor:
        """Return the features (B, 128) of pictures (B, 3, H, W) in [-1, 1] of any size."""
        if pictures.shape[-2:] != (SIDE, SIDE):
            pictures = functional.interpolate(pictures, (SIDE, SIDE), mode="bilinear", antialias=True, align_corners=False)
        return functional.relu(self.squeeze(self.body(pictures).flatten(1)))

    def forward(self, pictures: torch.Tensor) -> dict[str, torch.Tensor]:
        """Return logits (B, values) by attribute."""
        features = self.features(pictures)
        return {name: head(features) for name, head in self.heads.items()}


def load_judge(path: str | Path) -> Judge:
    """Load the judge in a bundle of kind `judge`, in evaluation mode. Raises :class:`BundleError`."""
    return judge_from(load_bundle(path, "judge"))


def judge_from(bundle: Bundle) -> Judge:
    """Build the judge that `bundle` holds, in evaluation mode. Raises :class:`BundleError` where its config and its tensors do not fit."""
    # Bundles leave out the norms' counters, which only training reads.
    norms = [name.removesuffix("running_mean") for name in bundle.tensors if name.endswith("running_mean")]
    counters = {f"{norm}num_batches_tracked": torch.tensor(0) for norm in norms}
    judge: Judge = network_of(Judge, replace(bundle, tensors={**counters, **bundle.tensors}))
    return judge


def labels(scenes: list[Scene]) -> dict[str, torch.Tensor]:
    """Return class indices (B,) by attribute; :data:`IGNORE` where a scene lacks the attribute (a plain fruit has no pattern colour)."""
    rows: dict[str, list[int]] = {name: [] for name in ATTRIBUTES}
    for scene in scenes:
        for name, value in scene.attributes().items():
            rows[name].append(IGNORE if value is None else ATTRIBUTES[name].index(value))
    return {name: torch.tensor(row) for name, row in rows.items()}


@torch.no_grad()
def judge_pictures(judge: Judge, pictures: torch.Tensor, batch: int = 128) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """Return (the predicted class indices (B,) by attribute, the features (B, 128)) of pictures (B, 3, H, W) in [-1, 1]."""
    logits: dict[str, list[torch.Tensor]] = {name: [] for name in ATTRIBUTES}
    features = []
    for part in pictures.split(batch):
        found = judge.features(part)
        features.append(found)
        for name, head in judge.heads.items():
            logits[name].append(head(found).argmax(1))
    return {name: torch.cat(parts) for name, parts in logits.items()}, torch.cat(features)


def attribute_accuracy(predicted: dict[str, torch.Tensor], scenes: list[Scene], names: tuple[str, ...] | None = None) -> dict[str, float]:
    """Return the share of right readings by attribute, in [0, 1], and their mean under `"AA"`. Attributes that a scene lacks do not
    count."""
    truth = labels(scenes)
    result = {}
    for name in names or tuple(ATTRIBUTES):
        known = truth[name] != IGNORE
        if known.any():
            result[name] = float((predicted[name][known] == truth[name][known]).float().mean())
    result["AA"] = sum(result.values()) / len(result)
    return result


def frechet_distance(a: torch.Tensor | np.ndarray, b: torch.Tensor | np.ndarray) -> float:
    """Return the Frechet distance of two Gaussians fitted to features (N, d) and (M, d): |m_a - m_b|^2 + tr(S_a + S_b - 2 (S_a S_b)^(1/2)).

    Raises :class:`InputError` with fewer than two rows or unequal widths.
    """
    x, y = (np.asarray(v, np.float64) for v in (a, b))
    if x.ndim != 2 or y.ndim != 2 or x.shape[1] != y.shape[1] or min(len(x), len(y)) < 2:
        raise InputError(f"two feature tables (N, d) with N of at least 2 are expected, got {x.shape} and {y.shape}")
    difference = x.mean(0) - y.mean(0)
    cov_x, cov_y = np.cov(x, rowvar=False), np.cov(y, rowvar=False)
    # tr((S_x S_y)^(1/2)) = the nuclear norm of S_x^(1/2) S_y^(1/2): symmetric square roots need no complex numbers.
    cross = np.linalg.norm(_root(cov_x) @ _root(cov_y), "nuc")
    return float(difference @ difference + np.trace(cov_x) + np.trace(cov_y) - 2 * cross)


def _root(matrix: np.ndarray) -> Any:
    values, vectors = np.linalg.eigh(matrix)
    return (vectors * np.sqrt(values.clip(min=0))) @ vectors.T
