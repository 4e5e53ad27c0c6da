"""The parts of a network that are worth compiling or computing in bf16, in both hosts' networks.

A region is a residual block of convolutions, a feed-forward, a dense block, a projection into attention or out of it, or a change of size
with its convolution: everything that costs time but attention itself, which keeps its own choice of kernel and its patches. Blocks of one
structure form a group and share one compiled function, so that a U-Net of forty blocks costs a dozen short compilations, not a long one.
"""

from __future__ import annotations

import contextlib
import time
import weakref
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from ..device import wait

KINDS = {
    "ResBlock": ("resnet", "_forward"),  # ComfyUI's UNetModel; its forward() is for gradient checkpointing
    "ResnetBlock": ("resnet", "forward"),  # ComfyUI's VAE
    "ResnetBlock2D": ("resnet", "forward"),  # diffusers
    "FeedForward": ("feed-forward", "forward"),  # both
    "CLIPMLP": ("feed-forward", "forward"),  # text encoders of ComfyUI and of transformers
    "Upsample": ("resampling", "forward"),  # ComfyUI's UNetModel and VAE
    "Downsample": ("resampling", "forward"),
    "Upsample2D": ("resampling", "forward"),  # diffusers
    "Downsample2D": ("resampling", "forward"),
    "ResidualDenseBlock": ("dense block", "forward"),  # ESRGAN, basicsr
    "ResidualDenseBlock_5C": ("dense block", "forward"),  # ESRGAN, spandrel
}
"""Class name -> kind, and the method that does the work and takes what the module's call takes."""
PROJECTIONS = {
    "CrossAttention": ("to_q", "to_k", "to_v", "to_out"),  # ComfyUI
    "Attention": ("to_q", "to_k", "to_v", "to_out"),  # diffusers
    "SpatialTransformer": ("proj_in", "proj_out"),  # ComfyUI
    "Transformer2DModel": ("proj_in", "proj_out"),  # diffusers
}
"""Class name -> its members that are one product each, into attention and out of it."""
NOT_COMPILED = ("resampling", "projection")
"""Kinds that are one product: a compiler has nothing to join there."""


@dataclass
class Group:
    """Blocks of one structure: a class and the shapes of its weights. `modules` are weak, so that a plan never keeps a network alive."""

    kind: str
    method: str
    function: Callable[..., Any]
    modules: list[weakref.ref[nn.Module]]

    def alive(self) -> list[nn.Module]:
        """The blocks that still exist."""
        return [module for module in (one() for one in self.modules) if module is not None]


@dataclass
class Sample:
    """What one evaluation showed of a group: the arguments of its first block's call, and the calls and seconds of all its blocks. `out`
    is the result of the last call, where it was asked for."""

    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = field(default_factory=dict)
    seconds: float = 0.0
    calls: int = 0
    seen: bool = False
    out: Any = None


def find_groups(network: nn.Module) -> list[Group]:
    """The regions of a network by structure, in the order they are met. A block that somebody else has patched is left alone."""
    groups: dict[Any, Group] = {}
    for module, kind, method in _regions(network):
        if method in vars(module) or getattr(module, "updown", False):
            continue
        shapes = tuple((name, tuple(weight.shape)) for name, weight in module.named_parameters())
        if not shapes:
            continue  # such as torch's own Upsample
        key = (type(module), shapes)
        if key not in groups:
            groups[key] = Group(kind, method, getattr(type(module), method), [])
        groups[key].modules.append(weakref.ref(module))
    return list(groups.values())


def _regions(network: nn.Module) -> Iterator[tuple[nn.Module, str, str]]:
    for module in network.modules():
        name = type(module).__name__
        if name in KINDS:
            yield module, *KINDS[name]
        for member in PROJECTIONS.get(name, ()):
            layer = getattr(module, member, None)
            layer = layer[0] if isinstance(layer, nn.Sequential | nn.ModuleList) and len(layer) else layer  # to_out ends in a dropout
            if isinstance(layer, nn.Module) and type(layer).__name__ in ("Linear", "Conv2d"):
                yield layer, "projection", "forward"


def observe(groups: list[Group], call: Callable[[], Any], keep: Group | None = None) -> tuple[Any, list[Sample]]:
    """Run `call` once and return what it returned with a :class:`Sample` of each group, that of `keep` with its result. The network is as
    before afterwards."""
    samples = [Sample() for _ in groups]
    handles: list[Any] = []
    for group, sample in zip(groups, samples, strict=True):
        for module in group.alive():
            before, after = _clock(sample, group is keep)
            handles.append(module.register_forward_pre_hook(before, with_kwargs=True))
            handles.append(module.register_forward_hook(after))
    try:
        return call(), samples
    finally:
        for handle in handles:
            handle.remove()


def _clock(sample: Sample, keep: bool) -> tuple[Callable[..., None], Callable[..., None]]:
    started = 0.0

    def before(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        nonlocal started
        if not sample.seen:
            sample.args, sample.kwargs, sample.seen = fresh(args), fresh(kwargs), True
        wait()
        started = time.perf_counter()

    def after(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        wait()
        sample.seconds += time.perf_counter() - started
        sample.calls += 1
        if keep:
            sample.out = output

    return before, after


@contextlib.contextmanager
def replaced(group: Group, make: Callable[[nn.Module], Callable[..., Any]]) -> Iterator[None]:
    """While the block runs, every module of the group computes by `make(module)`; afterwards by its class's method, as before."""
    changed = [module for module in group.alive() if group.method not in vars(module)]
    try:
        for module in changed:
            object.__setattr__(module, group.method, make(module))
        yield
    finally:
        for module in changed:
            vars(module).pop(group.method, None)


def halves(network: nn.Module) -> list[nn.Module]:
    """Encoder and decoder of a network that is called by its halves, as a VAE is; of any other, nothing."""
    return [half for half in (getattr(network, name, None) for name in ("encoder", "decoder")) if half is not None]


def first_tensor(values: Iterable[Any]) -> torch.Tensor | None:
    """The first tensor among a call's arguments, or None."""
    return next((value for value in values if isinstance(value, torch.Tensor)), None)


def in_channels_last(value: Any) -> Any:
    """Pictures and feature maps (B, C, H, W) in channels-last memory; everything else as it is."""
    if isinstance(value, torch.Tensor) and value.ndim == 4 and value.is_floating_point():
        return value.contiguous(memory_format=torch.channels_last)
    return value


def fresh(value: Any) -> Any:
    """The same tensors in containers of their own: ComfyUI's networks take ControlNet's residuals out of the lists they are given."""
    if type(value) is dict:
        return {name: fresh(one) for name, one in value.items()}
    return type(value)(fresh(one) for one in value) if type(value) in (list, tuple) else value
