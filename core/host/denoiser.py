"""The interface of a MODEL in training: a network that gradients go through, evaluated like any other model."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from ..errors import InputError

Condition = Mapping[str, Any]
"""The inputs of a network for one prompt: "tokens" (B, T, width), for SDXL's kind "y" (B, n), and whatever else another family reads."""
Inputs = tuple[torch.Tensor, torch.Tensor, torch.Tensor, dict[str, torch.Tensor] | None]


@dataclass(frozen=True)
class Denoiser:
    """A MODEL in training. `denoise(x, sigma, condition)` returns `denoised`, of the shape of `x` (B, C, ...), at `sigma` (B,), without
    guidance.

    It runs under the caller's gradient mode. `network` is the torch module, `prediction` its kind of output (`eps`, `v`, `x0`, or `flow`:
    noise - x0), `sigmas` (T,) its noise levels on the CPU, `t_range` the indices [first, last) of those it was trained at.
    `noised(latents, sigma, noise)` returns the state `x` of clean latents. `condition(conditioning, shape)` returns the :data:`Condition`
    of the first entry of a CONDITIONING for latents of that shape. `latent(z)` takes unscaled latents to the space of `x`, `unscaled(x)`
    takes them back. `batches` says that the conditions of several texts can be joined to one batch; where they cannot, `denoise` takes a
    list of them, one a picture. Only U-Nets have such batches. Their condition may hold "control" too, what a ControlNet gives: {"output":
    [...], "middle": [...]}. `inputs(x, sigma, condition)` is what such a ControlNet takes: the network's input, its timesteps, the tokens,
    and what the network is told beside them (None: nothing).
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
    unscaled: Callable[[torch.Tensor], torch.Tensor]
    release: Callable[[], None]
    inputs: Callable[[torch.Tensor, torch.Tensor, Condition], Inputs]
    batches: bool = True


def frozen_dtype(device: torch.device) -> torch.dtype:
    """Return the dtype of weights that are not trained: bfloat16 on a GPU that computes with it, float32 elsewhere."""
    return torch.bfloat16 if device.type == "cuda" and torch.cuda.is_bf16_supported() else torch.float32


def make_trainable(
    network: nn.Module, device: torch.device, dtype: torch.dtype = torch.float32, trained: bool = True
) -> Callable[[], None]:
    """Give `network` new weights of `dtype` on `device` that gradients go through, and to if `trained`. The returned function takes them
    back.

    New tensors, because those that a node made or loaded belong to inference mode and can never need a gradient. Raises
    :class:`InputError` for weights that are no floating-point numbers.
    """
    changed: list[tuple[nn.Module, str, torch.dtype, torch.device]] = []

    def replace(how: Callable[[torch.Tensor, torch.dtype, torch.device], torch.Tensor], trained: bool) -> None:
        with torch.inference_mode(False), torch.no_grad():
            for module, name, dtype, home in changed:
                made = how(getattr(module, name).detach(), dtype, home)
                module._parameters[name] = nn.Parameter(made, requires_grad=trained)

    check_floating(network)
    for module in network.modules():
        for name, weight in module._parameters.items():
            if weight is not None:
                changed.append((module, name, weight.dtype, weight.device))
    replace(lambda weight, _, __: weight.to(device, dtype, copy=True), trained)
    return lambda: replace(lambda weight, dtype, home: weight.to(home, dtype), False)


def check_floating(network: nn.Module) -> None:
    """Raise :class:`InputError` for weights that are no floating-point numbers."""
    for module in network.modules():
        for name, weight in module._parameters.items():
            if weight is not None and not weight.is_floating_point():
                raise InputError(f"{type(module).__name__}.{name} is stored as {weight.dtype}; a quantized model cannot be trained")


def keeping_copies() -> Any:
    """Return a context in which autograd keeps copies for the backward pass, for networks that change in place what it keeps."""
    copied: Callable[[torch.Tensor], torch.Tensor] = lambda one: one if isinstance(one, nn.Parameter) else one.clone()  # noqa: E731
    return torch.autograd.graph.saved_tensors_hooks(copied, lambda one: one)


def first_of(conditioning: Any) -> tuple[torch.Tensor, Mapping[str, Any]]:
    """Return the tokens and the details of a CONDITIONING's first entry. Raises :class:`InputError` where there is none."""
    if not conditioning:
        raise InputError("the CLIP gave an empty conditioning for a text; expected at least one entry. Check the CLIP that is connected")
    return conditioning[0][0], conditioning[0][1]


def together(conditions: Sequence[dict[str, Any]]) -> dict[str, torch.Tensor]:
    """Return the conditions as one batch. Texts of fewer tokens are repeated, as ComfyUI does: attention to a repeated text is the same."""
    longest = math.lcm(*(one["tokens"].shape[1] for one in conditions))
    joined = {"tokens": torch.cat([one["tokens"].repeat(1, longest // one["tokens"].shape[1], 1) for one in conditions])}
    return joined | {key: torch.cat([one[key] for one in conditions]) for key in conditions[0] if key != "tokens"}


_PREDICTIONS = {"CONST": "flow", "V_PREDICTION": "v", "X0": "x0", "EPS": "eps"}


def prediction_named(model_sampling: Any) -> str:
    """Return what a network predicts (`eps`, `v`, `x0`, `flow`), by its schedule: one of this pack, or ComfyUI's; "" for another kind."""
    told = getattr(model_sampling, "prediction", None)
    names = [kind.__name__ for kind in type(model_sampling).__mro__]
    return str(told) if isinstance(told, str) else next((_PREDICTIONS[name] for name in _PREDICTIONS if name in names), "")
