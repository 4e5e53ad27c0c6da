"""One attention call: its arguments as a host passes them, and the properties that a kernel depends on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from einops import rearrange
from torch import Tensor


@dataclass(frozen=True)
class Call:
    """Properties of an attention call: all that decides whether a kernel can compute it."""

    device: torch.device
    dtype: torch.dtype
    batch: int
    heads: int
    queries: int
    keys: int
    head_dim: int
    masked: bool

    def shape(self) -> str:
        """Return the shape in words, such as `4096x77 d40 float32`, with `masked` where there is a mask."""
        return f"{self.queries}x{self.keys} d{self.head_dim} {str(self.dtype).removeprefix('torch.')}{' masked' if self.masked else ''}"


@dataclass(frozen=True)
class Arguments:
    """An attention call as ComfyUI makes it: q (B, T, heads * D), or (B, heads, T, D) with `skip_reshape`; k and v alike."""

    q: Tensor
    k: Tensor
    v: Tensor
    heads: int
    mask: Tensor | None = None
    attn_precision: Any = None  # asks for float32 inside; every kernel of ours adds up in float32 anyway
    skip_reshape: bool = False
    skip_output_reshape: bool = False
    low_precision_attention: bool = True
    transformer_options: Any = None
    _inside_attn_wrapper: Any = None

    def split(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return q, k, v as (B, H, T, D)."""
        if self.skip_reshape:
            return self.q, self.k, self.v
        q, k, v = (rearrange(t, "b t (h d) -> b h t d", h=self.heads) for t in (self.q, self.k, self.v))
        return q, k, v

    def join(self, out: Tensor) -> Tensor:
        """Return a result (B, H, T, D) in the shape that the caller expects."""
        return out if self.skip_output_reshape else rearrange(out, "b h t d -> b t (h d)")

    def additive(self) -> Tensor | None:
        """Return the mask as (b, h, Tq, Tk) in q's dtype, where b and h may be 1; None without a mask."""
        if self.mask is None:
            return None
        mask = self.mask.to(self.q.dtype)
        return mask[None, None] if mask.ndim == 2 else mask[:, None] if mask.ndim == 3 else mask

    def is_plain(self) -> bool:
        """Return whether this is softmax attention as every kernel computes it.

        Not so with a boolean mask (ComfyUI's own kernels disagree on its dimensions), grouped heads, values of another width than the keys,
        or where gradients are needed.
        """
        q, k, v, axis = self.q, self.k, self.v, 1 if self.skip_reshape else 2
        alike = q.ndim == k.ndim == v.ndim == (4 if self.skip_reshape else 3) and k.shape == v.shape and q.shape[0] == k.shape[0]
        alike = alike and q.shape[axis] == k.shape[axis] and q.shape[-1] == k.shape[-1] and q.dtype == k.dtype == v.dtype
        if not alike or not q.dtype.is_floating_point or min(q.numel(), k.numel()) == 0 or q.shape[2 if self.skip_reshape else -1] == 0:
            return False
        if self.mask is not None and (not self.mask.dtype.is_floating_point or self.mask.ndim not in (2, 3, 4)):
            return False
        return not (torch.is_grad_enabled() and (q.requires_grad or k.requires_grad or v.requires_grad))

    def call(self) -> Call:
        """Return the properties of this call."""
        batch, keys = self.q.shape[0], self.k.shape[-2]
        width = self.q.shape[-1] if self.skip_reshape else self.q.shape[-1] // self.heads
        return Call(self.q.device, self.q.dtype, batch, self.heads, self.q.shape[-2], keys, width, self.mask is not None)
