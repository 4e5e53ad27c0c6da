"""Surgery on a network: factor its layers, prepare it for a file's factors, merge factors back to dense layers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch

from ..errors import BundleError, InputError
from .layers import FACTORED, can_factor, check_factors, has_factors, layer_size, replace_with_factors
from .plan import KeepDense, LayerPlan, planned
from .roles import DEFAULT_TARGETS
from .svd import check_split


def factorize(
    network: Any,
    mode: str = "param_ratio",
    value: float = 0.61,
    targets: Sequence[str] = DEFAULT_TARGETS,
    split: str = "paper",
    keep_dense: KeepDense | None = None,
    values: bool = True,
) -> list[LayerPlan]:
    """Plan (see :func:`~.plan.make_plan`), replace the layers of `network` in place, and return the plan. Factor a copy of a shared
    network.

    Without `values` the factors are zeros and no singular values are computed, which is enough to measure speed and memory.
    Raises :class:`InputError` for a network that is factored already, and whatever :func:`~.plan.make_plan` raises.
    """
    check_split(split)
    if has_factors(network):
        raise InputError("this model is already low-rank; load the dense one and factor that, or merge it back to dense first")
    done = []
    for plan, spectrum in planned(network, mode, value, targets, keep_dense, values):
        if plan.rank is not None:
            zeros = torch.zeros(plan.out, plan.rank), torch.zeros(plan.rank, plan.inner)
            put_factors(network, plan.name, zeros if spectrum is None else spectrum.factors(plan.rank, split))
        done.append(plan)
    return done


@torch.no_grad()
def put_factors(network: Any, path: str, factors: tuple[torch.Tensor, torch.Tensor]) -> None:
    """Replace, in place, the dense layer `path` by the factors A (out, k) and B (k, in) of its weight; its bias stays."""
    parent, name = owner(network, path)
    dense = getattr(parent, name)
    a, b = factors
    made: Any = replace_with_factors(parent, name, b.shape[0])
    made.b.weight.copy_(b.reshape(made.b.weight.shape))
    made.a.weight.copy_(a.reshape(made.a.weight.shape))
    if dense.bias is not None:
        made.a.bias.copy_(dense.bias)
    made.requires_grad_(dense.weight.requires_grad)


def open_factors(network: Any, tensors: Mapping[str, torch.Tensor], source: str) -> None:
    """Replace the layers of a dense `network` whose factors are in `tensors` (`X.a.weight`, `X.b.weight`) by empty factors of their rank.

    `network.load_state_dict(tensors)` then fits. Raises :class:`BundleError`, which names the layer, for half a pair, a layer that the
    network does not have or cannot factor, and factors that do not fit it.
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
        check_factors(f"{source}: {name}", a, b, *layer_size(dense))
        replace_with_factors(parent, last, b.shape[0], bias=f"{name}.a.bias" in tensors)


def factored_names(keys: Iterable[str]) -> list[str]:
    """Return the layers that a state dict holds factored, from its keys."""
    found = {key[: -len(".b.weight")] for key in keys if key.endswith(".b.weight")}
    return sorted(found | {key[: -len(".a.weight")] for key in keys if key.endswith(".a.weight")})


def merge_back(network: Any) -> None:
    """Replace, in place, every factored layer of `network` by the dense layer it stands for."""
    for name, module in list(network.named_modules()):
        if isinstance(module, FACTORED):
            parent, last = owner(network, name)
            setattr(parent, last, module.to_dense())


def owner(network: Any, name: str) -> tuple[Any, str]:
    """Return (the parent module, the last part of the name) of the submodule `name`. Raises :class:`AttributeError` where there is none."""
    path, _, last = name.rpartition(".")
    parent = network.get_submodule(path)
    network.get_submodule(name)
    return parent, last
