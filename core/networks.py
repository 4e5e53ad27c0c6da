"""Networks of diffusers and transformers from a config and tensors that may come from anybody."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from .bundles.format import Bundle
from .errors import BundleError

if TYPE_CHECKING:
    from torch import Tensor


def build_network(cls: Any, config: Mapping[str, Any], tensors: Mapping[str, Tensor], name: str) -> Any:
    """`cls(**config)` holding `tensors`: evaluation mode, fp32, frozen. `name` is what a message calls them.

    Built without memory first, so that a config which lies about sizes is refused by its tensors and costs nothing. Raises
    :class:`BundleError` where config and tensors do not fit. Layers that `tensors` holds factored are built factored.
    """
    import torch

    from .lowrank.factorize import open_factors

    try:
        with torch.device("meta"):
            network = cls(**config)
            open_factors(network, tensors, name)
        network.load_state_dict({key: tensor.float() for key, tensor in tensors.items()}, strict=True, assign=True)
    except (TypeError, ValueError, RuntimeError, LookupError, ArithmeticError, AttributeError) as error:
        first = str(error).strip().splitlines()
        raise BundleError(f"{name}: its config and its tensors do not make a {cls.__name__} ({'; '.join(first[:3])[:400]})") from error
    return network.eval().requires_grad_(False)


def network_of(cls: Any, bundle: Bundle) -> Any:
    """:func:`build_network` from a bundle whose config is the arguments of `cls`."""
    name = bundle.info.path.name if bundle.info.path else f"the {bundle.info.kind} bundle"
    return build_network(cls, bundle.info.config, bundle.tensors, name)
