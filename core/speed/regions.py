"""Regions of a network that are worth compiling or computing in bf16, in the networks of both hosts.

A region is a residual block of convolutions, a feed-forward, a dense block, a projection into or out of attention, or a change of size with
its convolution: everything that costs time except attention itself, which has its own choice of kernel and its patches. Blocks of one
structure form a group and share one compiled function, so that a U-Net of forty blocks needs about twelve short compilations.
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
"""Class name -> kind, and the method that does the work and has the parameters of the module's call."""
PROJECTIONS = {
    "CrossAttention": ("to_q", "to_k", "to_v", "to_out"),  # ComfyUI
    "Attention": ("to_q", "to_k", "to_v", "to_out"),  # diffusers
    "SpatialTransformer": ("proj_in", "proj_out"),  # ComfyUI
    "Transformer2DModel": ("proj_in", "proj_out"),  # diffusers
}
"""Class name -> its members that are a single product each, into or out of attention."""
NOT_COMPILED = ("resampling", "projection")
"""Kinds that are a single product: a compiler has nothing to join there."""


@dataclass
class Group:
    """Blocks of one structure: one class and one set of weight shapes. `modules` are weak, so that a plan never keeps a network alive."""

    kind: str
    method: str
    function: Callable[..., Any]
    modules: list[weakref.ref[nn.Module]]

    def alive(self) -> list[nn.Module]:
        """Return the blocks that still exist."""
        return [module for module in (one() for one in self.modules) if module is not None]


@dataclass
class Sample:
    """A group in one evaluation: the arguments of the first call, the number of calls and their seconds. `out` is the result of the last
    call, where it was asked for."""

    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = field(default_factory=dict)
    seconds: float = 0.0
    calls: int = 0
    seen: bool = False
    out: Any = None


def find_groups(network: nn.Module) -> list[Group]:
    """Return the regions of a network by structure, in the network's order. A block that other code has patched is left out."""
    groups: dict[Any, Group] = {}
    for module, kind, method in _regions(network):
        if method in vars(module) or getattr(module, "updown", False) or not hasattr(module, method):
            continue  # the last: another network's block of that name, such as Stable Cascade's ResBlock
        shapes = tuple((name, tuple(weight.shape)) for name, weight in module.named_parameters())
        if not shapes:
            continue  # no weights, such as torch's own Upsample
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
    """Run `call` once and return (its result, a :class:`Sample` of each group). The sample of `keep` holds the group's result. The network
    is not changed."""
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
    """Inside the `with` block, let every module of the group compute by `make(module)`; afterwards by its class's method, as before."""
    changed = [module for module in group.alive() if group.method not in vars(module)]
    try:
        for module in changed:
            object.__setattr__(module, group.method, make(module))
        yield
    finally:
        for module in changed:
            vars(module).pop(group.method, None)


def halves(network: nn.Module) -> list[nn.Module]:
    """Return encoder and decoder of a network that is called by its halves, as a VAE is; an empty list for another network."""
    return [half for half in (getattr(network, name, None) for name in ("encoder", "decoder")) if half is not None]


def first_tensor(values: Iterable[Any]) -> torch.Tensor | None:
    """Return the first tensor among a call's arguments, or None."""
    return next((value for value in values if isinstance(value, torch.Tensor)), None)


def in_channels_last(value: Any) -> Any:
    """Return a tensor (B, C, H, W) in channels-last memory, and anything else unchanged."""
    if isinstance(value, torch.Tensor) and value.ndim == 4 and value.is_floating_point():
        return value.contiguous(memory_format=torch.channels_last)
    return value


def fresh(value: Any) -> Any:
    """Return the same tensors in new containers: ComfyUI's networks remove ControlNet's residuals from the lists that they get."""
    if type(value) is dict:
        return {name: fresh(one) for name, one in value.items()}
    return type(value)(fresh(one) for one in value) if type(value) in (list, tuple) else value
