"""Projections: the W of `e = e_txt + kg_scale * W e_kg` for the encoders of a CLIP that was trained without a graph.

W makes an entity's vector fit the width of the tokens (the sum is that of Rapid Diffusion, section 3.1.1). There is one matrix for each
encoder, fitted once and kept in a bundle (kind `projection`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..bundles.format import Bundle, BundleInfo, save_bundle
from ..bundles.load import load_bundle
from ..errors import BundleError, InputError, KnowledgeError
from .graph import KnowledgeGraph

MAX_RIDGE = 1e6
MAX_WIDTH = 16384
MAX_ENCODERS = 8


@dataclass(frozen=True)
class Projection:
    """`weights` maps an encoder's key (`l`, `g`) to its W (width, dim) float32; `graph` is the digest of the vectors it was fitted to."""

    weights: Mapping[str, Tensor]
    graph: str
    provenance: Mapping[str, Any] = field(default_factory=dict)
    name: str = "this projection"

    def check(self, widths: Mapping[str, int], knowledge: KnowledgeGraph) -> None:
        """Raise :class:`KnowledgeError` unless W was fitted for encoders of exactly these `widths` and to exactly this graph's vectors."""
        own = {key: int(weight.shape[0]) for key, weight in self.weights.items()}
        if own != dict(widths):
            raise KnowledgeError(
                f"{self.name} was fitted for a CLIP with {describe_widths(own)}, this one has {describe_widths(widths)}: "
                "fit one for this CLIP with Fit Knowledge Projection"
            )
        if self.graph != knowledge.digest:
            raise KnowledgeError(
                f"{self.name} was fitted to the vectors of another knowledge graph (digest {self.graph[:12]}, this graph's is "
                f"{knowledge.digest[:12]}): load that graph, or fit again with Fit Knowledge Projection"
            )


def describe_widths(widths: Mapping[str, int]) -> str:
    """Return encoders and their widths for messages: `g (width 1280), l (width 768)`."""
    return ", ".join(f"{key} (width {width})" for key, width in sorted(widths.items())) or "no encoder that could read a graph"


def ridge(vectors: Tensor, targets: Tensor, strength: float) -> Tensor:
    """Return the W (width, dim) float32 that minimises `|X W^T - Y|^2 + strength * s * |W|^2`.

    X are the `vectors` (n, dim), Y the `targets` (n, width). s is the mean eigenvalue of X^T X, so `strength` (0 to 1e6) means the same
    whatever the vectors' length and number. There is no constant term: a zero vector must add nothing. Where `strength` is 0 and several W
    fit equally well, the smallest is taken. Computed in float64. Raises :class:`InputError` for shapes that do not fit, a value that is not
    finite, or a strength out of range.
    """
    if isinstance(strength, bool) or not isinstance(strength, int | float) or not 0 <= strength <= MAX_RIDGE:  # NaN fails both
        raise InputError(f"ridge={strength!r}: give a number from 0 (plain least squares) to {MAX_RIDGE:g}")
    if vectors.dim() != 2 or targets.dim() != 2 or len(vectors) != len(targets) or 0 in (*vectors.shape, *targets.shape):
        raise InputError(f"vectors {tuple(vectors.shape)} and targets {tuple(targets.shape)} must be (n, dim) and (n, width), n at least 1")
    if not (bool(vectors.isfinite().all()) and bool(targets.isfinite().all())):
        raise InputError("a projection cannot be fitted to vectors or token embeddings that are NaN or infinite")
    x, y = vectors.double(), targets.double()
    values, axes = torch.linalg.eigh(x.T @ x)
    values = values.clamp(min=0.0)
    damped = values + strength * values.mean()
    inverse = torch.where(damped > values.max() * 1e-12, damped, torch.inf).reciprocal()
    return ((axes * inverse) @ (axes.T @ (x.T @ y))).T.float().contiguous()


def save_projection(path: str | Path, projection: Projection) -> Path:
    """Write a bundle of kind `projection` and return its path. An older projection of that name is replaced. Raises :class:`BundleError`
    where any other file has the name.
    """
    path = Path(path)
    if path.exists():
        try:
            load_projection(path)
        except (BundleError, KnowledgeError) as error:
            raise BundleError(f"{path.name} exists and is no projection; choose another name ({error})") from error
    dims = {int(weight.shape[1]) for weight in projection.weights.values()}
    config = {
        "kg_dim": dims.pop() if len(dims) == 1 else 0,
        "graph": projection.graph,
        "widths": {key: int(weight.shape[0]) for key, weight in projection.weights.items()},
    }
    return save_bundle(path, dict(projection.weights), BundleInfo("projection", config=config, provenance=dict(projection.provenance)))


def load_projection(source: str | Path | Bundle) -> Projection:
    """Return the projection in a bundle. Raises :class:`BundleError` where it is damaged or its config and tensors do not fit together."""
    bundle = source if isinstance(source, Bundle) else load_bundle(source, "projection")
    name, config = bundle.info.path.name if bundle.info.path else "projection bundle", bundle.info.config
    widths, dim, graph = config.get("widths"), config.get("kg_dim"), config.get("graph")
    if not isinstance(widths, dict) or not 1 <= len(widths) <= MAX_ENCODERS or not isinstance(dim, int) or not isinstance(graph, str):
        raise BundleError(f"{name}: its config must hold widths, kg_dim and graph; fit the projection again")
    if set(widths) != set(bundle.tensors):
        raise BundleError(f"{name}: its config names the encoders {sorted(widths)}, its tensors are {sorted(bundle.tensors)}; fit it again")
    for key, weight in bundle.tensors.items():
        if (
            tuple(weight.shape) != (widths[key], dim)
            or not weight.is_floating_point()
            or max(weight.shape) > MAX_WIDTH
            or not weight.numel()
        ):
            raise BundleError(f"{name}: W of encoder {key!r} should have shape ({widths[key]}, {dim}), found {tuple(weight.shape)}")
    weights = {key: weight.float() for key, weight in bundle.tensors.items()}
    return Projection(weights, graph, bundle.info.provenance, name)


def measure(weight: Tensor, vectors: Tensor, targets: Tensor, mean: Tensor) -> dict[str, float]:
    """Return how well `vectors` (n, dim) through W predict `targets` (n, width), compared with always saying `mean` (width,).

    `error` and `mean_error` are `|Y' - Y| / |Y|`. `ratio` divides the first by the second; below 1, W is better than the mean. `cosine` and
    `mean_cosine` average over rows.
    """
    x, y = vectors.double(), targets.double()
    told, constant = x @ weight.double().T, mean.double().expand_as(y)
    size = y.norm().clamp(min=1e-12)
    error, mean_error = float((told - y).norm() / size), float((constant - y).norm() / size)
    return {
        "error": error,
        "mean_error": mean_error,
        "ratio": error / mean_error if mean_error > 1e-12 else (math.inf if error > 1e-12 else 1.0),
        "cosine": float(torch.cosine_similarity(told, y).mean()),
        "mean_cosine": float(torch.cosine_similarity(constant, y).mean()),
    }
