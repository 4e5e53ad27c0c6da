"""The interface of a MODEL in training: a network that gradients go through, evaluated like any other model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from ..errors import InputError

Condition = Mapping[str, Any]
"""The inputs of a network for one prompt: "tokens" (B, T, width), for SDXL's kind "y" (B, n), and whatever else another family reads."""


@dataclass(frozen=True)
class Denoiser:
    """A MODEL in training. `denoise(x, sigma, condition)` returns `denoised`, of the shape of `x` (B, C, ...), at `sigma` (B,), without
    guidance.

    It runs under the caller's gradient mode. `network` is the torch module, `prediction` its kind of output (`eps`, `v`, `x0`, or `flow`:
    noise - x0), `sigmas` (T,) its noise levels on the CPU, `t_range` the indices [first, last) of those it was trained at.
    `noised(latents, sigma, noise)` returns the state `x` of clean latents. `condition(conditioning, shape)` returns the :data:`Condition`
    of the first entry of a CONDITIONING for latents of that shape. `latent(z)` takes unscaled latents to the space of `x`. `batches` says
    that the conditions of several texts can be joined to one batch; where they cannot, `denoise` takes a list of them, one a picture.
    `release()` ends the training: the weights are frozen, with the dtype and on the device that they had before.
    """

    network: nn.Module
    prediction: str
    sigmas: torch.Tensor
    t_range: tuple[int, int]
    device: torch.device
    denoise: Callable[[torch.Tensor, torch.Tensor, Any], torch.Tensor]
    noised: Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]
    condition: Callable[[Any, tuple[int, ...]], dict[str, Any]]
    latent: Callable[[torch.Tensor], torch.Tensor]
    release: Callable[[], None]
    batches: bool = True


def make_trainable(network: nn.Module, device: torch.device) -> Callable[[], None]:
    """Give `network` new float32 weights on `device` that take gradients. The returned function takes them back.

    New tensors, because those that a node made or loaded belong to inference mode and can never need a gradient. Raises
    :class:`InputError` for weights that are no floating-point numbers.
    """
    changed: list[tuple[nn.Module, str, torch.dtype, torch.device]] = []

    def replace(how: Callable[[torch.Tensor, torch.dtype, torch.device], torch.Tensor], trained: bool) -> None:
        with torch.inference_mode(False), torch.no_grad():
            for module, name, dtype, home in changed:
                made = how(getattr(module, name).detach(), dtype, home)
                module._parameters[name] = nn.Parameter(made, requires_grad=trained)

    for module in network.modules():
        for name, weight in module._parameters.items():
            if weight is None:
                continue
            if not weight.is_floating_point():
                raise InputError(f"{type(module).__name__}.{name} is stored as {weight.dtype}; a quantized model cannot be trained")
            changed.append((module, name, weight.dtype, weight.device))
    replace(lambda weight, _, __: weight.to(device, torch.float32, copy=True), True)
    return lambda: replace(lambda weight, dtype, home: weight.to(home, dtype), False)


def first_of(conditioning: Any) -> tuple[torch.Tensor, Mapping[str, Any]]:
    """Return the tokens and the details of a CONDITIONING's first entry. Raises :class:`InputError` where there is none."""
    if not conditioning:
        raise InputError("the CLIP gave an empty conditioning for a text; expected at least one entry. Check the CLIP that is connected")
    return conditioning[0][0], conditioning[0][1]
