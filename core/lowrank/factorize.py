"""Surgery on a network: carry out a plan, rebuild a factored network from a file's tensors, merge back to dense, and report."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch

from ..errors import BundleError, InputError
from ..progress import Progress
from .layers import FACTORED, can_factor, check_factors, dense_weight, replace_with_factors
from .plan import LayerPlan
from .svd import Spectrum


@torch.no_grad()
def apply_plan(network: Any, plan: Sequence[LayerPlan], split: str = "paper") -> None:
    """Replace, in place, every layer of `network` that `plan` gives a rank by its factors. Factor a copy where the network is shared."""
    chosen = [(layer.name, layer.rank) for layer in plan if layer.rank is not None]
    with Progress(max(len(chosen), 1), "replacing", "layer") as bar:
        for path, rank in chosen:
            parent, name = owner(network, path)
            dense = getattr(parent, name)
            a, b = Spectrum.of(dense.weight).factors(rank, split)
            made: Any = replace_with_factors(parent, name, rank)
            made.b.weight.copy_(b.reshape(made.b.weight.shape))
            made.a.weight.copy_(a.reshape(made.a.weight.shape))
            if dense.bias is not None:
                made.a.bias.copy_(dense.bias)
            made.requires_grad_(dense.weight.requires_grad)
            bar.update()


def open_factors(network: Any, tensors: Mapping[str, torch.Tensor], source: str) -> None:
    """Replace the layers of a dense `network` for which `tensors` holds factors (`X.a.weight`, `X.b.weight`) by empty ones of their rank.

    `network.load_state_dict(tensors)` then fits. Raises :class:`BundleError` naming the layer for half a pair, a layer that the network
    does not have or cannot factor, and factors that do not fit it.
    """
    for name in factored_names(tensors):
        a, b = tensors.get(f"{name}.a.weight"), tensors.get(f"{name}.b.weight")
        if a is None or b is None:
            half = "a" if a is None else "b"
            raise BundleError(f"{source}: {name} has only one of its two factors; {name}.{half}.weight is missing")
        try:
            parent, last = owner(network, name)
            dense = getattr(parent, last)
        except AttributeError as error:
            raise BundleError(f"{source}: it holds factors for {name}, which this network does not have") from error
        if not can_factor(dense):
            raise BundleError(f"{source}: it holds factors for {name}, which is no linear or convolution layer")
        check_factors(f"{source}: {name}", a, b, dense.weight.shape[0], dense.weight[0].numel())
        replace_with_factors(parent, last, b.shape[0])


def factored_names(keys: Iterable[str]) -> list[str]:
    """The layers that a state dict holds factored, from its keys."""
    found = {key[: -len(".b.weight")] for key in keys if key.endswith(".b.weight")}
    return sorted(found | {key[: -len(".a.weight")] for key in keys if key.endswith(".a.weight")})


@torch.no_grad()
def merged_state_dict(network: Any) -> dict[str, torch.Tensor]:
    """The state dict of the dense network that a factored one stands for: every pair multiplied out under its dense name."""
    tensors = dict(network.state_dict())
    for name, module in network.named_modules():
        if isinstance(module, FACTORED):
            weight = dense_weight(module)
            bias = tensors.get(f"{name}.a.bias")
            for key in (f"{name}.a.weight", f"{name}.b.weight", f"{name}.a.bias"):
                tensors.pop(key, None)
            tensors[f"{name}.weight"] = weight
            if bias is not None:
                tensors[f"{name}.bias"] = bias
    return tensors


def owner(network: Any, name: str) -> tuple[Any, str]:
    """(the module that holds it, its last name) of the submodule `name`. Raises :class:`AttributeError` where there is none."""
    path, _, last = name.rpartition(".")
    parent = network.get_submodule(path)
    network.get_submodule(name)
    return parent, last


def check_factorable(network: Any) -> None:
    """Raise :class:`InputError` for a network that is factored already: its factors would be factored again."""
    if any(isinstance(module, FACTORED) for module in network.modules()):
        raise InputError("this model is already low-rank; load the dense one and factor that, or merge it back to dense first")
