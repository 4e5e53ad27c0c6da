"""Attention of small networks: one projection for keys and values, and relu in the place of softmax (MobileDiffusion, tricks 3 and 5)."""

from __future__ import annotations

import math
from typing import Any

import torch
from einops import rearrange
from torch import nn
from torch.nn import functional

from ..attention.chain import OVERRIDE
from ..attention.entropy import KEY as SELF_PATCH
from ..errors import InputError

_QUERIES = 1024
"""Queries whose products with all keys are held at once by :func:`relu_attention`."""
_EXTRAS = ("spatial_norm", "group_norm", "norm_q", "norm_k", "added_kv_proj_dim")


class SlimAttention(nn.Module):
    """Attention with the layers of another one, in the place of diffusers' `Attention` and of ComfyUI's `CrossAttention`.

    With `shares` keys are values too, and `to_v` is gone from the weights. With `relu` no kernel of softmax attention is ever called.
    Raises :class:`InputError` for an attention that has more parts than these layers.
    """

    def __init__(self, attention: Any, shares: bool, relu: bool) -> None:
        super().__init__()
        extras = [name for name in _EXTRAS if getattr(attention, name, None) not in (None, False)]
        if extras:
            raise InputError(f"an attention with {', '.join(extras)} cannot be slimmed; leave that block out")
        self.to_q, self.to_k, self.to_out = attention.to_q, attention.to_k, attention.to_out
        if not shares:
            self.to_v = attention.to_v
        self.heads, self.shares, self.relu = attention.heads, shares, relu

    def __getattr__(self, name: str) -> Any:
        if name == "to_v" and "to_v" not in self._modules:  # functions that replace attention in ComfyUI ask for it
            return super().__getattr__("to_k")
        return super().__getattr__(name)

    def forward(
        self,
        x: torch.Tensor,
        context: torch.Tensor | None = None,
        value: torch.Tensor | None = None,
        mask: torch.Tensor | None = None,
        transformer_options: dict[str, Any] | None = None,
        encoder_hidden_states: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        **_: Any,
    ) -> torch.Tensor:
        """Return the attention of `x` (B, T, C) to `context` (ComfyUI's name) or `encoder_hidden_states` (diffusers'), or to itself."""
        options = transformer_options or {}
        context = encoder_hidden_states if context is None else context
        mask = attention_mask if mask is None else mask
        asked, keyed = x, x if context is None else context
        valued = keyed if value is None else value
        for patch in options.get("patches", {}).get(SELF_PATCH, ()) if context is None else ():  # ComfyUI's block has applied them
            asked, keyed, valued = patch(asked, keyed, valued, options)
        q, k = self.to_q(asked), self.to_k(keyed)
        v = k if self.shares and valued is keyed else self.to_v(valued)
        override = options.get(OVERRIDE)
        if self.relu:
            out = relu_attention(q, k, v, self.heads, mask)
        elif override is None:
            out = softmax_attention(q, k, v, self.heads, mask)
        else:
            out = override(softmax_attention, q, k, v, self.heads, mask=mask, transformer_options=options)
        for layer in self.to_out:
            out = layer(out)
        return out


def softmax_attention(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, heads: int, mask: torch.Tensor | None = None, **_: Any
) -> torch.Tensor:
    """Return torch's attention; q, k, v and the result are (B, T, heads * D)."""
    q, k, v = (rearrange(t, "b t (h d) -> b h t d", h=heads) for t in (q, k, v))
    return rearrange(functional.scaled_dot_product_attention(q, k, v, attn_mask=_spread(mask)), "b h t d -> b t (h d)")


def relu_attention(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, heads: int, mask: torch.Tensor | None = None) -> torch.Tensor:
    """Return relu(q k^T / sqrt(D)) v / N of N keys, in the shapes of :func:`softmax_attention`. The division keeps the sum of the weights
    from growing with the size of the picture; the slides give no formula."""
    q, k, v = (rearrange(t, "b t (h d) -> b h t d", h=heads) for t in (q, k, v))
    scale, spread, parts = 1 / math.sqrt(q.shape[-1]), _spread(mask), []
    for first in range(0, q.shape[2], _QUERIES):
        products = q[:, :, first : first + _QUERIES] @ k.transpose(2, 3) * scale
        if spread is not None:
            rows = spread[:, :, first : first + _QUERIES] if spread.shape[2] > 1 else spread
            products = products.masked_fill(~rows, -math.inf) if rows.dtype == torch.bool else products + rows
        parts.append(products.relu() @ v / k.shape[2])
    return rearrange(torch.cat(parts, 2), "b h t d -> b t (h d)")


def uses_relu(network: Any) -> bool:
    """Return whether any attention of `network` computes relu in the place of softmax."""
    return any(isinstance(module, SlimAttention) and module.relu for module in network.modules())


def refuse_relu(network: Any) -> None:
    """Raise :class:`InputError` where a patch of softmax attention would pass by attention of relu."""
    if uses_relu(network):
        raise InputError(
            "this model computes relu in the place of softmax in its attention, and the kernels of this node compute softmax; leave the "
            "node out, or slim the model without 'relu for softmax'"
        )


def _spread(mask: torch.Tensor | None) -> torch.Tensor | None:
    """Return a mask (T, S) or (B, T, S) as (B, 1, T, S)."""
    if mask is None:
        return None
    mask = mask[None] if mask.ndim == 2 else mask
    return mask[:, None] if mask.ndim == 3 else mask
