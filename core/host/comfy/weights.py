"""Weights in ComfyUI: the dtypes it chooses for them, the shapes a network has for them, and the names of low-rank factors."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import comfy.model_management
import comfy.ops
import comfy.utils
import torch

from ...bundles.format import BundleInfo
from ...errors import BundleError
from ...lowrank.factorize import factored_names
from ..fit import name_of

Tensors = dict[str, torch.Tensor]


def choose_dtype(config: Any, tensors: Mapping[str, torch.Tensor]) -> tuple[torch.device, torch.device]:
    """Set the dtypes that ComfyUI chooses for a `config` with these weights. Returns (the device to compute on, the device to rest on)."""
    management, device = comfy.model_management, comfy.model_management.get_torch_device()
    quantized = comfy.utils.detect_layer_quantization(dict(tensors), "")
    if quantized:
        config.quant_config = quantized
    dtype = management.unet_dtype(
        model_params=sum(tensor.numel() for tensor in tensors.values()),
        supported_dtypes=list(config.supported_inference_dtypes),
        weight_dtype=None if quantized else comfy.utils.weight_dtype(tensors),
    )
    cast = management.unet_manual_cast(None if quantized else dtype, device, config.supported_inference_dtypes)
    config.set_inference_dtype(dtype, cast)
    return device, management.unet_offload_device()


class WholeOperations(comfy.ops.disable_weight_init):
    """ComfyUI's layers with their tensors from the start. Where ComfyUI streams weights, a Linear has none until it loads them, unless it
    loads them in a way of its own."""

    class Linear(comfy.ops.disable_weight_init.Linear):
        """A Linear that loads as torch's does."""

        def _load_from_state_dict(self, *args: Any) -> None:
            torch.nn.Linear._load_from_state_dict(self, *args)


def cast_loaded(network: torch.nn.Module) -> None:
    """Give the weights of a network the dtypes that it was built for. Where ComfyUI streams weights, a Linear keeps the file's dtype."""
    for module in network.modules():
        for name, weight in module._parameters.items():
            wanted = getattr(module, f"{name}_comfy_model_dtype", None)
            if wanted is not None and type(weight) is torch.nn.Parameter and weight.dtype != wanted:
                module._parameters[name] = torch.nn.Parameter(weight.to(wanted), requires_grad=False)


def with_factors(names: Mapping[str, str], tensors: Mapping[str, Any]) -> dict[str, str]:
    """Return a map of weights' names from one layout to another, completed for the factors in `tensors` (the first layout's names)."""
    found = dict(names)
    for path in factored_names(tensors):
        dense = names.get(f"{path}.weight")
        if dense is not None:
            other = dense.removesuffix(".weight")
            found |= {f"{path}.{end}": f"{other}.{end}" for end in ("a.weight", "a.bias", "b.weight")}
    return found


def with_inner(names: Mapping[str, str], keys: Iterable[str]) -> dict[str, str]:
    """Return a map of weights' names, completed for `keys` inside modules whose place in both layouts the map shows: those of copied blocks
    and of layers that have parts now. Keys of other modules stay out."""
    places: dict[str, str] = {}
    for one, other in names.items():
        here, there = one.split("."), other.split(".")
        while here and there and here[-1] == there[-1]:
            del here[-1], there[-1]
        places[".".join(here)] = ".".join(there)
    found = dict(names)
    for key in set(keys) - set(names):
        parts = key.split(".")
        for end in range(len(parts) - 1, 0, -1):
            place = places.get(".".join(parts[:end]))
            if place is not None:
                found[key] = ".".join([place, *parts[end:]])
                break
    return found


def check_shapes(info: BundleInfo, weights: Tensors, network: torch.nn.Module) -> None:
    """Raise :class:`BundleError` unless `weights` are exactly `network`'s, name by name and shape by shape."""
    expected = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    wrong = [name for name in expected | weights if expected.get(name) != (tuple(weights[name].shape) if name in weights else None)]
    if wrong:
        name = sorted(wrong)[0]
        given = tuple(weights[name].shape) if name in weights else "nothing"
        raise BundleError(
            f"{name_of(info)}: its config and its tensors do not make one network ({len(wrong)} differ; {name!r} should have shape "
            f"{expected.get(name, 'none')}, there is {given})"
        )
