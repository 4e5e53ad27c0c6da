"""Exact attention in tiles with an online softmax (Dao et al. 2022, FlashAttention, section 3.1 and algorithm 1), in plain torch.

The whole score matrix (queries x keys) is never held. For each tile of keys with scores S, the row-wise running maximum m, normaliser l and
accumulator O become

    m' = max(m, rowmax(S))      P = exp(S - m')
    l' = exp(m - m') l + rowsum(P)
    O' = exp(m - m') O + P V                            and at the end    out = O / l.

The paper's outer loop goes over keys; here it goes over queries, so that m, l and O stay in the cache (the result is the same). The
paper keeps O divided by l at every step; here it is divided once.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..errors import InputError

TILE = 512


def tiled_attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None, scale: float | None = None, tile: int = TILE) -> Tensor:
    """Return softmax(scale * q k^T + mask) v, (B, H, Tq, Dv) in q's dtype, for q (B, H, Tq, D), k (B, H, Tk, D), v (B, H, Tk, Dv).

    `mask` is broadcastable to (B, H, Tq, Tk): additive, or boolean with True where a query may attend. A row that may attend nowhere (all
    False, or all -inf) is 0, as in torch's kernels. `scale` is 1/sqrt(D) by default. `tile` queries and keys are taken at a time. Half
    precision is computed in float32. Raises :class:`InputError` for shapes that do not fit together.
    """
    _check(q, k, v, mask, tile)
    batch, heads, queries, width = q.shape
    scale = width**-0.5 if scale is None else scale
    dtype = torch.promote_types(q.dtype, torch.float32)
    out = q.new_empty((batch, heads, queries, v.shape[-1]))
    if mask is not None:
        mask = mask.expand(torch.broadcast_shapes(mask.shape, (1, 1, queries, k.shape[2])))
    for start in range(0, queries, tile):
        rows = q[:, :, start : start + tile].to(dtype) * scale
        part = None if mask is None else mask[:, :, start : start + tile]
        out[:, :, start : start + tile] = _rows(rows, k, v, part, tile)
    return out


def _rows(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, tile: int) -> Tensor:
    """Return the attention of one tile of (scaled) queries over all keys."""
    m = q.new_full((*q.shape[:3], 1), -torch.inf)
    l = torch.zeros_like(m)  # noqa: E741 - the paper's name
    o = q.new_zeros((*q.shape[:3], v.shape[-1]))
    for start in range(0, k.shape[2], tile):
        s = q @ k[:, :, start : start + tile].to(q.dtype).transpose(-1, -2)
        if mask is not None:
            part = mask[..., start : start + tile]
            s = s.masked_fill(~part, -torch.inf) if part.dtype == torch.bool else s + part
        highest = torch.maximum(m, s.amax(dim=-1, keepdim=True))
        finite = highest.masked_fill(highest == -torch.inf, 0.0)  # no key yet: exp(-inf - 0) is 0, exp(-inf + inf) would be NaN
        p = torch.exp(s - finite)
        shrink = torch.exp(m - finite)
        l = l * shrink + p.sum(dim=-1, keepdim=True)  # noqa: E741
        o = o * shrink + p @ v[:, :, start : start + tile].to(q.dtype)
        m = highest
    return torch.where(l > 0, o / l, torch.zeros_like(o))


def _check(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, tile: int) -> None:
    if q.ndim != 4 or k.ndim != 4 or v.ndim != 4 or q.shape[-1] != k.shape[-1] or k.shape[:3] != v.shape[:3] or q.shape[:2] != k.shape[:2]:
        shapes = ", ".join(str(tuple(t.shape)) for t in (q, k, v))
        raise InputError(f"q, k, v have shapes {shapes}: give (batch, heads, tokens, head size), alike but for the number of tokens")
    if tile < 1:
        raise InputError(f"tile is {tile}: give a positive number of tokens")
    if mask is not None:
        whole = (*q.shape[:3], k.shape[2])
        if mask.ndim > 4 or any(m not in (1, n) for m, n in zip(reversed(mask.shape), reversed(whole), strict=False)):
            raise InputError(f"a mask of shape {tuple(mask.shape)} does not fit attention of shape {whole}")
