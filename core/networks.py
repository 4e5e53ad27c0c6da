"""Networks of diffusers and transformers from a config and tensors of unknown origin."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from .bundles.format import Bundle
from .errors import BundleError

if TYPE_CHECKING:
    from torch import Tensor

    from .slim.changes import Changes


def build_network(cls: Any, config: Mapping[str, Any], tensors: Mapping[str, Tensor], name: str, changes: Changes | None = None) -> Any:
    """Return `cls(**config)` with `tensors` as its weights: in evaluation mode, float32, frozen. Messages call them `name`.

    The network is built without memory first, so that a config with false sizes costs nothing. Layers that `tensors` holds factored are
    built factored, and the `changes` of a slimmed U-Net are made first. Raises :class:`BundleError` where config and tensors do not fit
    together.
    """
    import torch

    from .lowrank.factorize import open_factors
    from .slim.changes import open_changes

    try:
        with torch.device("meta"):
            network = cls(**config)
            open_changes(network, changes, name)
            open_factors(network, tensors, name)
        network.load_state_dict({key: tensor.float() for key, tensor in tensors.items()}, strict=True, assign=True)
    except (TypeError, ValueError, RuntimeError, LookupError, ArithmeticError, AttributeError) as error:
        first = str(error).strip().splitlines()
        raise BundleError(f"{name}: its config and its tensors do not make a {cls.__name__} ({'; '.join(first[:3])[:400]})") from error
    return network.eval().requires_grad_(False)


def network_of(cls: Any, bundle: Bundle) -> Any:
    """Return :func:`build_network` of a bundle whose config holds the arguments of `cls`."""
    name = bundle.info.path.name if bundle.info.path else f"the {bundle.info.kind} bundle"
    changes = None
    if "slim" in bundle.info.extra:
        from .slim.changes import read_changes

        changes = read_changes(bundle.info.extra, name)
    return build_network(cls, bundle.info.config, bundle.tensors, name, changes)
