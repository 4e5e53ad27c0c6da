"""Factored layers: two thin layers in place of a dense one, never multiplied out during an evaluation.

`a` and `b` are ordinary layers of the dense layer's own class (`torch.nn.Linear`, or ComfyUI's `operations`), so that casting, offloading
and partial loading treat them like other layers. State dict: `X.a.weight` (out, k), `X.a.bias`, `X.b.weight` (k, in); of a convolution
`X.b.weight` (k, in, kh, kw) with its stride and padding, `X.a.weight` (out, k, 1, 1).
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn

from ..errors import BundleError
from .svd import break_even


class _Factored(nn.Module):
    """What both kinds of factored layers tell of the dense layer that they stand for."""

    a: Any
    b: Any
    bias = None  # it is `a.bias`

    @property
    def weight(self) -> torch.Tensor:
        """The dense weight's shape and dtype without memory (a meta tensor), for those who ask a layer for them, as ComfyUI does."""
        return torch.empty((self.a.weight.shape[0], *self.b.weight.shape[1:]), dtype=self.a.weight.dtype, device="meta")


class LowRankLinear(_Factored):
    """y = A (B x) + bias (ELR-Diffusion, eq. 2), in place of a Linear of `in_features` x `out_features`."""

    def __init__(self, in_features: int, out_features: int, rank: int, bias: bool, layer: Any = nn.Linear, **place: Any) -> None:
        super().__init__()
        self.in_features, self.out_features, self.rank = in_features, out_features, rank
        self.b = _linear(layer, in_features, rank, False, **place)
        self.a = _linear(layer, rank, out_features, bias, **place)

    def forward(self, x: torch.Tensor, *_: Any, **__: Any) -> torch.Tensor:
        return self.a(self.b(x))

    def to_dense(self) -> Any:
        """Return the dense layer that this one stands for, of the same class as its two layers."""
        weight = self.a.weight
        dense = _linear(
            type(self.a), self.in_features, self.out_features, self.a.bias is not None, device=weight.device, dtype=weight.dtype
        )
        return _filled(dense, self)


class LowRankConv2d(_Factored):
    """A kh x kw convolution to `rank` channels, then a 1 x 1 convolution to `out_channels`, in place of one dense convolution."""

    def __init__(self, dense: Any, rank: int, layer: Any = nn.Conv2d, **place: Any) -> None:
        super().__init__()
        self.in_channels, self.out_channels, self.rank = dense.in_channels, dense.out_channels, rank
        self.kernel_size, self.stride, self.padding, self.dilation = dense.kernel_size, dense.stride, dense.padding, dense.dilation
        shape = {"stride": dense.stride, "padding": dense.padding, "dilation": dense.dilation}
        self.b = layer(dense.in_channels, rank, dense.kernel_size, bias=False, padding_mode=dense.padding_mode, **shape, **place)
        self.a = layer(rank, dense.out_channels, 1, bias=dense.bias is not None, **place)

    def forward(self, x: torch.Tensor, *_: Any, **__: Any) -> torch.Tensor:
        return self.a(self.b(x))

    def to_dense(self) -> Any:
        """Return the dense layer that this one stands for, of the same class as its two layers."""
        weight, inner = self.a.weight, self.b
        dense = type(inner)(
            self.in_channels, self.out_channels, self.kernel_size, self.stride, self.padding, self.dilation, bias=self.a.bias is not None,
            padding_mode=inner.padding_mode, device=weight.device, dtype=weight.dtype,
        )  # fmt: skip
        return _filled(dense, self)


def _filled(dense: Any, factored: Any) -> Any:
    with torch.no_grad():
        dense.weight.copy_(dense_weight(factored))
        if dense.bias is not None:
            dense.bias.copy_(factored.a.bias)
    return dense.requires_grad_(factored.a.weight.requires_grad).train(factored.training)


FACTORED = (LowRankLinear, LowRankConv2d)


def has_factors(network: Any) -> bool:
    """Return whether any layer of `network` is factored."""
    return any(isinstance(module, FACTORED) for module in network.modules())


def is_linear(layer: Any) -> bool:
    """Return whether `layer` is a Linear: torch's, or ComfyUI's for models of mixed precision, which is none of torch's."""
    return isinstance(layer, nn.Linear) or (type(layer).__name__ == "Linear" and hasattr(layer, "out_features"))


def can_factor(layer: Any) -> bool:
    """Return whether `layer` is a dense Linear, or a dense Conv2d of one group, that is not quantized."""
    return (is_linear(layer) or (isinstance(layer, nn.Conv2d) and layer.groups == 1)) and quantization(layer) is None


def quantization(layer: Any) -> str | None:
    """Return what a linear layer or convolution is quantized to, such as `float8_e4m3fn`; None for other layers.

    Hosts store quantized weights in 8-bit types, or as their own subclass of Tensor."""
    weight = getattr(layer, "weight", None)
    if not isinstance(weight, torch.Tensor) or not (is_linear(layer) or isinstance(layer, nn.Conv2d)):
        return None
    if type(weight) in (torch.Tensor, nn.Parameter):
        return None if weight.is_floating_point() and weight.element_size() > 1 else str(weight.dtype).removeprefix("torch.")
    return str(getattr(layer, "quant_format", None) or type(weight).__name__)


def layer_size(layer: Any) -> tuple[int, int]:
    """Return (out, in) of a dense layer's weight; a convolution's is (out, in * kh * kw). A quantized weight may be stored in another
    shape, and a weight that is not loaded yet in none."""
    if is_linear(layer):
        return layer.out_features, layer.in_features
    return layer.out_channels, layer.in_channels // layer.groups * math.prod(layer.kernel_size)


def _linear(layer: Any, inner: int, out: int, bias: bool, **place: Any) -> Any:
    """Return `layer(inner, out, bias)` with its tensors. ComfyUI's Linear leaves them out until it loads a state dict where weights are
    streamed from the disk."""
    made = layer(inner, out, bias, **place)
    for name, shape in (("weight", (out, inner)), ("bias", (out,))):
        if getattr(made, name, None) is None and (bias or name == "weight"):
            setattr(made, name, nn.Parameter(torch.empty(shape, **place), requires_grad=False))
    return made


def replace_with_factors(parent: Any, name: str, rank: int, device: Any = None, dtype: Any = None, bias: bool | None = None) -> nn.Module:
    """Replace the dense layer `parent.name` by an uninitialised factored layer of `rank`, and return that.

    `bias` says whether there is one (default: where the dense layer has one), for a dense layer whose tensors are not loaded yet."""
    dense = getattr(parent, name)
    weight, with_bias = getattr(dense, "weight", None), dense.bias is not None if bias is None else bias
    dtype = dtype or (getattr(dense, "weight_comfy_model_dtype", None) if weight is None else weight.dtype)
    place = {"device": device or (None if weight is None else weight.device), "dtype": dtype}
    made: nn.Module
    if is_linear(dense):
        made = LowRankLinear(dense.in_features, dense.out_features, rank, with_bias, type(dense), **place)
    else:
        made = LowRankConv2d(dense, rank, type(dense), **place)
    made.train(dense.training)
    setattr(parent, name, made)
    return made


def dense_weight(layer: Any) -> torch.Tensor:
    """Return the weight that a factored layer stands for, in the dense layer's shape: (out, in) or (out, in, kh, kw)."""
    product = layer.a.weight.flatten(1) @ layer.b.weight.flatten(1)
    return product.reshape(layer.a.weight.shape[0], *layer.b.weight.shape[1:])


def check_factors(name: str, a: torch.Tensor, b: torch.Tensor, out: int, inner: int) -> None:
    """Raise :class:`BundleError` where two stored factors do not make an (out, inner) weight, or are not smaller than it."""
    if a.flatten(1).shape[0] != out or b.flatten(1).shape[1] != inner:
        raise BundleError(f"{name}: factors of shapes {tuple(a.shape)} and {tuple(b.shape)} do not make a weight of {out} x {inner}")
    rank = b.shape[0]
    if a.flatten(1).shape[1] != rank:
        raise BundleError(f"{name}: its factors disagree on the rank, {a.flatten(1).shape[1]} and {rank}")
    if not 1 <= rank <= max(1, break_even(out, inner)):
        raise BundleError(
            f"{name}: rank {rank} for a weight of {out} x {inner}; from rank {break_even(out, inner) + 1} on, factors are no smaller "
            "than the dense weight, and this pack writes no such file"
        )
