"""Injection of knowledge into the text encoder: `e = e_txt + kg_scale * W e_kg` on the tokens of a name (Rapid Diffusion, section 3.1.1).

The paper adds `e_kg` as it is; W and the scale are ours, for vectors of another width than the tokens. ComfyUI's token rows may hold an
embedding in the place of an id, as textual inversion does. So injection maps rows to rows, and the encoder (ComfyUI's or the embedded
host's) needs no knowledge of graphs. Start, end and padding stay integers, because the pooled output is found by the first end id.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor

from ..errors import InputError, KnowledgeError
from .graph import KnowledgeGraph
from .linking import EntityLink

MAX_SCALE = 10.0
Rows = list[list[tuple[Any, ...]]]


def check_scale(scale: float) -> float:
    """`kg_scale` as a float from -10 to 10. Raises :class:`InputError`."""
    if isinstance(scale, bool) or not isinstance(scale, int | float) or not math.isfinite(scale) or abs(scale) > MAX_SCALE:
        raise InputError(
            f"kg_scale={scale!r}: give a number from -{MAX_SCALE:g} to {MAX_SCALE:g} (0 switches knowledge off, 1 is as trained)"
        )
    return float(scale)


def check_dimensions(knowledge: KnowledgeGraph, kg_dim: int) -> None:
    """Raise :class:`KnowledgeError` unless the graph's vectors have the length that the text encoder's projection takes."""
    if knowledge.dim != kg_dim:
        raise KnowledgeError(
            f"the graph's vectors have {knowledge.dim} features but this text encoder was trained with {kg_dim}: "
            "load the knowledge graph that the encoder was trained with, or train both again"
        )


def inject(
    rows: Rows,
    links: Sequence[EntityLink],
    knowledge: KnowledgeGraph,
    embed: Callable[[int], Tensor],
    project: Callable[[Tensor], Tensor],
    scale: float = 1.0,
) -> Rows:
    """Rows in which the linked tokens are embeddings that hold knowledge.

    `embed(id)` gives a token's embedding (width,), `project(e_kg)` is `W`: (dim,) to (width,). Weights and whatever else a token
    carries are kept; `rows` itself is not changed. Where there is nothing to add (`scale` 0, no link, an entity without triples) the
    very same object comes back, so that the result is bit-identical to a prompt without a graph. Gradients go to what `project` learns.
    """
    scale = check_scale(scale)
    found = [(link, knowledge.vector(link.entity)) for link in links] if scale else []
    active = [(link, vector) for link, vector in found if vector is not None and bool(vector.count_nonzero())]
    if not active:
        return rows
    changed = [list(row) for row in rows]
    for link, vector in active:
        extra = scale * project(vector)
        for position in range(link.start, link.end):
            token = changed[link.row][position]
            base = embed(token[0]) if isinstance(token[0], int) else token[0]
            changed[link.row][position] = (base.float() + extra.to(base.device).float(), *token[1:])
    return changed
