"""Kronecker and low-rank update of a frozen weight (ELR-Diffusion, section 2.4, eq. 9).

    dW = sum_i A_i (x) (u_i v_i^T)      i = 1..n,  A_i (n, n),  u_i (out / n, r),  v_i (in / n, r)

With n^3 + r (out + in) parameters the rank of dW reaches n^2 r; a LoRA of as many parameters reaches about r. (The paper's v_i is v_i^T
here.) A convolution's weight is taken as (out, in * kh * kw).

The product dW x is computed without dW: split x into n parts, then

    t[b, i, :] = v_i^T x_b        m[a, i, :] = sum_b A_i[a, b] t[b, i, :]        y_a = sum_i u_i m[a, i, :]

which takes n r (out + in) + n^3 r multiply-adds. At the start u = 0, so that dW = 0; v as torch starts a Linear (He et al. 2015); A ~ N(0,
1/n).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from einops import einsum, rearrange, repeat
from torch import nn
from torch.nn import functional

from ..errors import InputError
from .factorize import owner
from .layers import FACTORED, LowRankConv2d, LowRankLinear

TERMS = (8, 4, 2, 1)
MAX_RANK = 1024
Update = tuple[torch.Tensor, torch.Tensor, torch.Tensor]
"""(A (n, n, n), u (n, out / n, r), v (n, in / n, r)): term, then row and column."""


def terms_for(out: int, inner: int) -> int:
    """Return n: the largest of :data:`TERMS` that divides both."""
    return next(n for n in TERMS if out % n == 0 and inner % n == 0)


def start_update(out: int, inner: int, rank: int, terms: int | None = None) -> Update:
    """Return a new update with dW = 0 for an (out, inner) weight, drawn from torch's default generator. Raises :class:`InputError`."""
    n = terms_for(out, inner) if terms is None else terms
    if out % n or inner % n:
        raise InputError(f"{n} terms divide a weight of {out} x {inner} into no equal parts; give a number that divides both")
    if not 1 <= rank <= MAX_RANK:
        raise InputError(f"rank={rank}: expected 1 to {MAX_RANK}")
    v = torch.empty(n, inner // n, rank)
    nn.init.uniform_(v, -1 / math.sqrt(inner // n), 1 / math.sqrt(inner // n))
    return torch.randn(n, n, n) / math.sqrt(n), torch.zeros(n, out // n, rank), v


def kronecker_product(x: torch.Tensor, a: torch.Tensor, u: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """Return dW x, (..., out), of x (..., in), computed without dW."""
    parts = rearrange(x, "... (b s) -> ... b s", b=a.shape[0])
    return _spread(torch.einsum("...bs,isr->...bir", parts, v), a, u)


def kronecker_convolution(layer: Any, x: torch.Tensor, a: torch.Tensor, u: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """Return dW * x, (B, out, H', W'), of x (B, in, H, W), with the kernel, stride, padding and dilation of the convolution `layer`."""
    n = a.shape[0]
    high, wide = layer.kernel_size
    kernel = repeat(v, "i (c h w) r -> (b i r) c h w", b=n, h=high, w=wide)
    t = functional.conv2d(x, kernel, None, layer.stride, layer.padding, layer.dilation, groups=n)
    t = rearrange(t, "n (b i r) h w -> n h w b i r", b=n, i=n)
    return rearrange(_spread(t, a, u), "n h w o -> n o h w")


def _spread(t: torch.Tensor, a: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
    """Return y of the docstring above, (..., out), from t (..., b, i, r)."""
    mixed = torch.einsum("iab,...bir->...air", a, t)  # einops.einsum is four times slower here
    return rearrange(torch.einsum("ikr,...air->...ak", u, mixed), "... a k -> ... (a k)")


def materialize(a: torch.Tensor, u: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """Return dW (out, in)."""
    blocks = einsum(u, v, "i k r, i s r -> i k s")
    return rearrange(einsum(a, blocks, "i a b, i k s -> a k b s"), "a k b s -> (a k) (b s)")


class _Kronecker(nn.Module):
    """A frozen layer and its update. `base` may be dense or factored; only the update's parameters are trained."""

    weight = bias = None

    def __init__(self, base: Any, update: Update, shared: nn.Parameter | None = None) -> None:
        super().__init__()
        self.base = base.requires_grad_(False)
        first = next(base.parameters())
        a, u, v = (tensor.to(first.device) for tensor in update)
        self.kron_a = nn.Parameter(a) if shared is None else shared
        self.kron_u, self.kron_v = nn.Parameter(u), nn.Parameter(v)

    @property
    def update(self) -> Update:
        """(A, u, v)."""
        return self.kron_a, self.kron_u, self.kron_v

    def extra_repr(self) -> str:
        return f"terms={self.kron_a.shape[0]}, rank={self.kron_u.shape[2]}"


class KroneckerLinear(_Kronecker):
    """y = base(x) + dW x."""

    def forward(self, x: torch.Tensor, *_: Any, **__: Any) -> torch.Tensor:
        return self.base(x) + kronecker_product(x, *self.update).to(x.dtype)


class KroneckerConv2d(_Kronecker):
    """y = base(x) + dW * x. The n parts of x are groups of channels, so that n must divide the input channels."""

    def forward(self, x: torch.Tensor, *_: Any, **__: Any) -> torch.Tensor:
        return self.base(x) + kronecker_convolution(self.base, x, *self.update).to(x.dtype)


KRONECKER = (KroneckerLinear, KroneckerConv2d)


def can_update(layer: Any) -> bool:
    """Return whether `layer` is a Linear, or a Conv2d of one group, dense or factored."""
    if isinstance(layer, FACTORED):
        return True
    return isinstance(layer, nn.Linear) or (isinstance(layer, nn.Conv2d) and layer.groups == 1 and layer.padding_mode == "zeros")


def weight_shape(layer: Any) -> tuple[int, int, int]:
    """Return (out, in, kh * kw) of a layer's weight; for a Linear kh * kw is 1."""
    out, channels, *kernel = dense_shape(layer)
    return out, channels, math.prod(kernel)


def dense_shape(layer: Any) -> torch.Size:
    """Return the shape of a layer's weight; for a factored layer that of the dense weight it stands for."""
    if isinstance(layer, FACTORED):
        return torch.Size((layer.a.weight.shape[0], *layer.b.weight.shape[1:]))
    return layer.weight.shape


def attach(network: Any, names: Iterable[str], rank: int, share: bool = False) -> list[str]:
    """Freeze `network`, put a new update on each of its layers `names`, in place, and return the names, sorted.

    The layers may be dense or factored. `share` uses one set of A for all layers of the same n (Karimi Mahabadi et al. 2021, section 3.2).
    Raises :class:`InputError` for a name that is no such layer.
    """
    network.requires_grad_(False)
    shared: dict[int, nn.Parameter] = {}
    done = sorted(set(names))
    for name in done:
        parent, last = _owner(network, name)
        layer = getattr(parent, last)
        if not can_update(layer):
            raise InputError(f"{name} is a {type(layer).__name__}; an update is for a linear layer or a convolution of one group")
        out, channels, positions = weight_shape(layer)
        update = start_update(out, channels * positions, rank, terms_for(out, channels))
        common = shared.setdefault(update[0].shape[0], nn.Parameter(update[0])) if share else None
        kind = KroneckerLinear if isinstance(layer, nn.Linear | LowRankLinear) else KroneckerConv2d
        setattr(parent, last, kind(layer, update, common).train(layer.training))
    return done


def updates_of(network: Any) -> dict[str, Update]:
    """Return the updates on `network`'s layers by name, as :func:`attach` put them there."""
    return {name: module.update for name, module in network.named_modules() if isinstance(module, KRONECKER)}


def detach(network: Any) -> dict[str, Update]:
    """Remove every update from `network`, in place, and return them; the layers are as before :func:`attach`."""
    found = updates_of(network)
    for name in found:
        parent, last = _owner(network, name)
        setattr(parent, last, getattr(parent, last).base)
    return found


@torch.no_grad()
def add_deltas(network: Any, deltas: Mapping[str, torch.Tensor], strength: float = 1.0) -> None:
    """Add `strength` times each delta (out, in) to the weight of the layer of that name, in place. A factored layer becomes dense, because
    the sum of a low-rank weight and an update has a higher rank."""
    for name, delta in deltas.items():
        parent, last = _owner(network, name)
        layer = getattr(parent, last)
        if isinstance(layer, LowRankLinear | LowRankConv2d):
            layer = layer.to_dense()
            setattr(parent, last, layer)
        changed = layer.weight + strength * delta.to(layer.weight.device, torch.float32).reshape(layer.weight.shape)
        layer.weight = nn.Parameter(changed.to(layer.weight.dtype), requires_grad=layer.weight.requires_grad)


def _owner(network: Any, name: str) -> tuple[Any, str]:
    try:
        return owner(network, name)
    except AttributeError as error:
        raise InputError(f"this network has no layer {name!r}") from error
