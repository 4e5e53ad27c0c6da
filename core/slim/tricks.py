"""Surgery on single blocks: copies that change nothing, and MobileDiffusion's changes of attention, feed-forward networks and convolutions.

Each function works on a network in place and on either library's layers. New layers have the class of those that they replace, so that
hosts cast, load and move them like others.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from ..errors import InputError
from ..lowrank.factorize import owner
from ..lowrank.layers import FACTORED, is_linear
from .attention import SlimAttention
from .blocks import LIST, Block

CONVOLUTIONS = (("conv1", "conv2"), ("in_layers.2", "out_layers.3"))
"""Paths of a residual block's two convolutions, in diffusers and in ComfyUI."""


class GatedSwish(nn.Module):
    """The gated half of a feed-forward network with swish in the place of gelu (MobileDiffusion, trick 4)."""

    def __init__(self, proj: nn.Module) -> None:
        super().__init__()
        self.proj = proj

    def forward(self, x: torch.Tensor, *_: Any, **__: Any) -> torch.Tensor:
        x, gate = self.proj(x).chunk(2, dim=-1)
        return x * functional.silu(gate)


class SeparableConv2d(nn.Module):
    """A convolution of each channel by itself, then one of 1 x 1, in the place of a dense convolution (MobileDiffusion)."""

    def __init__(self, dense: Any) -> None:
        super().__init__()
        place = _place(dense)
        shape = {"stride": dense.stride, "padding": dense.padding, "dilation": dense.dilation, "padding_mode": dense.padding_mode}
        layer, channels = type(dense), dense.in_channels
        self.depthwise = layer(channels, channels, dense.kernel_size, groups=channels, bias=False, **shape, **place)
        self.pointwise = layer(channels, dense.out_channels, 1, bias=dense.bias is not None, **place)
        self.in_channels, self.out_channels, self.kernel_size = channels, dense.out_channels, dense.kernel_size

    def forward(self, x: torch.Tensor, *_: Any, **__: Any) -> torch.Tensor:
        return self.pointwise(self.depthwise(x))


def copy_transformer(block: Block, count: int = 1) -> None:
    """Append `count` copies of the last block inside a transformer, which change nothing until they are trained: the last layer of each of
    their parts is zero, and a transformer adds what its parts give (SnapFusion, Algorithm 1, action A+)."""
    blocks = getattr(block.module, LIST)
    for _ in range(count):
        made = copy.deepcopy(blocks[-1])
        made.is_copy = True
        for path in ("attn1.to_out.0", "attn2.to_out.0", "ff.net.2"):
            try:
                layer = made.get_submodule(path)
            except AttributeError:  # a part that was removed
                continue
            layer = layer.a if isinstance(layer, FACTORED) else layer
            for name, weight in layer.named_parameters(recurse=False):
                setattr(layer, name, nn.Parameter(torch.zeros_like(weight), requires_grad=weight.requires_grad))
        blocks.append(made)


def copies_in(block: Block) -> int:
    """Return how many blocks inside a transformer are copies of :func:`copy_transformer`."""
    return sum(getattr(inner, "is_copy", False) for inner in getattr(block.module, LIST, ()))


def share_projections(network: Any, block: Block) -> None:
    """Make the keys of an attention its values too (MobileDiffusion, trick 3). The projection of keys stays."""
    relu = isinstance(block.module, SlimAttention) and block.module.relu
    _replace(network, block.path, SlimAttention(block.module, True, relu))


def relu_for_softmax(network: Any, block: Block) -> None:
    """Put relu in the place of an attention's softmax (MobileDiffusion, trick 5). The network needs a short training then."""
    shares = isinstance(block.module, SlimAttention) and block.module.shares
    _replace(network, block.path, SlimAttention(block.module, shares, True))


def swish_for_gelu(network: Any, block: Block) -> None:
    """Put swish in the place of a feed-forward network's gelu (MobileDiffusion, trick 4). Raises :class:`InputError` where it has none."""
    gate = block.module.get_submodule("net.0")
    if type(gate).__name__ != "GEGLU":
        raise InputError(f"{block.name} has a {type(gate).__name__} and no gated gelu; swish replaces gated gelu alone")
    _replace(network, f"{block.path}.net.0", GatedSwish(gate.proj))  # type: ignore[arg-type]


def hidden_width(block: Block) -> int:
    """Return the number of hidden units of a feed-forward network."""
    return int(block.module.get_submodule("net.2").in_features)  # type: ignore[arg-type]


@torch.no_grad()
def trim(network: Any, block: Block, width: int, values: bool = True) -> None:
    """Keep the `width` hidden units of a feed-forward network whose weights have the largest L1 norm (MobileDiffusion, trick 6).

    Without `values` the weights are not read, for a network whose weights are loaded later. Raises :class:`InputError` for factored layers,
    and for a width that is not below the present one."""
    gate: Any = block.module.get_submodule("net.0.proj")
    out: Any = block.module.get_submodule("net.2")
    if not (is_linear(gate) and is_linear(out)):
        raise InputError(f"{block.name} is factored; slim the model first, then factor it")
    inner = hidden_width(block)
    if not 0 < width < inner:
        raise InputError(f"{block.name} has {inner} hidden units; {width} is not below that")
    kept = None
    if values:
        halves = gate.weight.float().abs().sum(1)
        norm = halves[:inner] + halves[inner:] + out.weight.float().abs().sum(0)
        kept = norm.topk(width).indices.sort().values
    rows = None if kept is None else torch.cat([kept, kept + inner])
    _replace(network, f"{block.path}.net.0.proj", _narrowed(gate, 2 * width, rows, 0))
    _replace(network, f"{block.path}.net.2", _narrowed(out, width, kept, 1))


@torch.no_grad()
def separate(network: Any, block: Block, values: bool = True) -> None:
    """Put separable convolutions in the place of a residual block's two (MobileDiffusion): the nearest ones, by the largest singular value
    of each input channel's kernels. `values` as in :func:`trim`. Raises :class:`InputError` for factored ones."""
    for path in convolutions(block):
        dense: Any = block.module.get_submodule(path)
        if not isinstance(dense, nn.Conv2d):
            raise InputError(f"{block.name} has a {type(dense).__name__} and no dense convolution; slim the model first, then factor it")
        made = SeparableConv2d(dense)
        if values:
            kernels = dense.weight.float().flatten(2).transpose(0, 1)  # (in, out, kh * kw)
            _, vectors = torch.linalg.eigh(kernels.transpose(1, 2) @ kernels)
            depth = vectors[:, :, -1]
            _fill(made.depthwise, depth.reshape(made.depthwise.weight.shape))
            _fill(made.pointwise, (kernels @ depth[:, :, None])[:, :, 0].T[:, :, None, None], dense.bias)
        _replace(network, f"{block.path}.{path}", made)


def convolutions(block: Block) -> tuple[str, str]:
    """Return the paths of a residual block's two convolutions inside it."""
    return CONVOLUTIONS[0] if hasattr(block.module, "conv1") else CONVOLUTIONS[1]


def _replace(network: Any, path: str, made: nn.Module) -> None:
    parent, name = owner(network, path)
    setattr(parent, name, made.train(parent.training))


def _place(layer: Any) -> dict[str, Any]:
    """Return device and dtype of a layer's weight. Where ComfyUI streams weights, a layer has none until it loads them."""
    weight = layer.weight
    if weight is None:
        return {"device": None, "dtype": getattr(layer, "weight_comfy_model_dtype", None)}
    return {"device": weight.device, "dtype": weight.dtype}


def _narrowed(layer: Any, width: int, kept: torch.Tensor | None, dim: int) -> Any:
    """Return a linear layer like `layer` with `width` outputs (`dim` 0) or inputs (`dim` 1): those of the indices `kept`."""
    out, inner = (width, layer.in_features) if dim == 0 else (layer.out_features, width)
    has_bias = layer.bias is not None or bool(getattr(layer, "comfy_need_lazy_init_bias", False))
    made = type(layer)(inner, out, bias=has_bias, **_place(layer))
    if kept is not None:
        bias = layer.bias if layer.bias is None or dim == 1 else layer.bias[kept]
        _fill(made, layer.weight.index_select(dim, kept), bias)
    return made


def _fill(layer: Any, weight: torch.Tensor, bias: torch.Tensor | None = None) -> None:
    """Give a new layer its tensors."""
    place: dict[str, Any] = {"device": layer.weight.device, "dtype": layer.weight.dtype} if isinstance(layer.weight, torch.Tensor) else {}
    layer.weight = nn.Parameter(weight.contiguous().to(**place, copy=True), requires_grad=False)
    if bias is not None:
        layer.bias = nn.Parameter(bias.detach().to(**place, copy=True), requires_grad=False)
