"""Networks of diffusers and transformers from a config and tensors of unknown origin."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from .bundles.format import Bundle
from .errors import BundleError

if TYPE_CHECKING:
    from torch import Tensor

Surgery = Callable[[Any], None]
"""A function that changes a fresh network in place, before its weights are loaded."""


def build_network(cls: Any, config: Mapping[str, Any], tensors: Mapping[str, Tensor], name: str, surgery: Surgery | None = None) -> Any:
    """Return `cls(**config)` with `tensors` as its weights: in evaluation mode, float32, frozen. Messages call them `name`.

    The network is built without memory first, so that a config with false sizes costs nothing. Then `surgery` changes it, and layers that
    `tensors` holds factored are built factored. Raises :class:`BundleError` where config and tensors do not fit together.
    """
    import torch

    from .lowrank.factorize import open_factors

    try:
        with torch.device("meta"):
            network = cls(**config)
            if surgery is not None:
                surgery(network)
            open_factors(network, tensors, name)
        network.load_state_dict({key: tensor.float() for key, tensor in tensors.items()}, strict=True, assign=True)
    except (TypeError, ValueError, RuntimeError, LookupError, ArithmeticError, AttributeError) as error:
        first = str(error).strip().splitlines()
        raise BundleError(f"{name}: its config and its tensors do not make a {cls.__name__} ({'; '.join(first[:3])[:400]})") from error
    return network.eval().requires_grad_(False)


def network_of(cls: Any, bundle: Bundle) -> Any:
    """Return :func:`build_network` of a bundle whose config holds the arguments of `cls`, changed as the bundle records it."""
    name = bundle.info.path.name if bundle.info.path else f"the {bundle.info.kind} bundle"
    surgery = _recorded(bundle, name) if bundle.info.kind in ("unet", "vae") and bundle.info.extra else None
    return build_network(cls, bundle.info.config, bundle.tensors, name, surgery)


def weight_sum(weights: Iterable[Tensor], most: int = 2**62) -> float:
    """Return the sum of `weights` with signs that alternate, of at most about `most` numbers of each.

    It is a mark of a network, the same on each machine but for the last digits. A fine-tune or a LoRA changes it by about its share of the
    weights; a sum of their sizes would stay the same to five digits."""
    total = 0.0
    for weight in weights:
        sampled = weight.detach().flatten()[:: max(1, weight.numel() // most)].cpu().double()  # some devices have no float64
        total += float(sampled[::2].sum() - sampled[1::2].sum())
    return total


def _recorded(bundle: Bundle, name: str) -> Surgery:
    """Return the surgery that a bundle records of its network. Raises :class:`BundleError` for a record that cannot be read."""
    from .slim.changes import open_changes, read_changes
    from .slim.decoder import open_decoder, read_widths

    changes, widths = read_changes(bundle.info.extra, name), read_widths(bundle.info.extra, bundle.info.config, name)

    def surgery(network: Any) -> None:
        open_changes(network, changes, name)
        if widths is not None:
            open_decoder(network, widths)

    return surgery
