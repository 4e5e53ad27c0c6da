"""Token rows to hidden states, by ComfyUI's rules: embeddings in place of ids, and weights against the empty prompt."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

Rows = list[list[tuple[Any, ...]]]
"""Rows of (id or embedding (width,), weight), one context length each; what `tokenize` of a CLIP gives for each of its encoders."""


def embed_rows(rows: Sequence[Sequence[Any]], embed: Callable[[Tensor], Tensor], device: torch.device) -> tuple[Tensor, Tensor]:
    """Return (embeddings (rows, length, width), ids (rows, length)) of rows of ids and embeddings; the id of an embedding is -1."""
    ids = torch.tensor([[-1 if torch.is_tensor(token) else int(token) for token in row] for row in rows], device=device)
    embeddings = embed(ids.clamp(min=0))
    for i, row in enumerate(rows):
        for j, token in enumerate(row):
            if torch.is_tensor(token):
                embeddings[i, j] = token.to(device, embeddings.dtype)
    return embeddings, ids


def encode_weighted(rows: Rows, empty: Sequence[int], encode: Callable[[list[list[Any]]], tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """Return (1, rows * length, width) hidden states, rows in one sequence, and the first row's pooled state (1, width), on the CPU.

    `encode` turns rows of tokens into (rows, length, width) and (rows, width); `empty` is the row of the empty prompt. A weight w moves a
    token's state away from the empty prompt's at the same place: `z_empty + w (z - z_empty)`.
    """
    is_weighted = any(token[1] != 1.0 for row in rows for token in row)
    to_encode = [[token[0] for token in row] for row in rows]
    hidden, pooled = encode([*to_encode, list(empty)] if is_weighted else to_encode)
    if is_weighted:
        nothing, hidden = hidden[-1:], hidden[:-1]
        weights = torch.tensor([[token[1] for token in row] for row in rows], device=hidden.device)[..., None]
        hidden = torch.where(weights == 1.0, hidden, (hidden - nothing) * weights + nothing)
    return hidden.reshape(1, -1, hidden.shape[-1]).cpu(), pooled[:1].cpu()
