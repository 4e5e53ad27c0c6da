"""Kronecker adapters on disk: a bundle of kind `adapter` that holds the updates of one network's layers.

Tensors of a layer X: `X.kron_u` (n, out / n, r), `X.kron_v` (n, in / n, r) and `X.kron_a` (n, n, n). Layers of n = N may share their A,
which is then `shared.N.kron_a`. Layers have diffusers' names. `config`: `format` "kronecker", `network` ("unet" or "control").
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from ..bundles.format import Bundle, BundleInfo, save_bundle
from ..bundles.load import load_bundle
from ..errors import BundleError, InputError
from .kronecker import MAX_RANK, TERMS, Update, materialize

FORMAT = "kronecker"
NETWORKS = ("unet", "control")
_PARTS = ("kron_a", "kron_u", "kron_v")


def save_adapter(path: Path, updates: Mapping[str, Update], network: str, provenance: Mapping[str, Any], **config: Any) -> Path:
    """Write `updates` (of :func:`~.kronecker.updates_of`) in half precision, and return the path. A shared A is written once."""
    if network not in NETWORKS or not updates:
        raise InputError(f"an adapter for {network!r} with {len(updates)} layers: expected {' or '.join(NETWORKS)}, and at least one layer")
    seen: dict[int, int] = {}
    for a, _, _ in updates.values():
        seen[id(a)] = seen.get(id(a), 0) + 1
    tensors: dict[str, torch.Tensor] = {}
    for name, (a, u, v) in updates.items():
        tensors[f"shared.{a.shape[0]}.kron_a" if seen[id(a)] > 1 else f"{name}.kron_a"] = a.detach().half()
        tensors[f"{name}.kron_u"], tensors[f"{name}.kron_v"] = u.detach().half(), v.detach().half()
    info = BundleInfo("adapter", {"format": FORMAT, "network": network, **config}, provenance=dict(provenance))
    return save_bundle(path, tensors, info)


def load_adapter(path: Path, network: str = "unet") -> dict[str, Update]:
    """Return the updates in a file, in float32. Raises :class:`BundleError` as :func:`read_adapter` does."""
    return read_adapter(load_bundle(path, "adapter"), network)


def read_adapter(bundle: Bundle, network: str = "unet") -> dict[str, Update]:
    """Return the updates in a bundle, in float32, by layer.

    Raises :class:`BundleError`, which names the tensor, for another format or another network's adapter, a missing part, an unknown tensor,
    shapes that make no update, and more terms or a higher rank than this pack writes.
    """
    file = bundle.info.path.name if bundle.info.path else "the adapter"
    config = bundle.info.config
    if config.get("format") != FORMAT:
        raise BundleError(f"{file} is an adapter of format {config.get('format')!r:.60}, a {FORMAT!r} one is needed here")
    if config.get("network") != network:
        raise BundleError(f"{file} is an adapter for a {config.get('network')!r:.60} network and cannot be put on a {network!r} one")
    layers: dict[str, dict[str, torch.Tensor]] = {}
    for key, tensor in bundle.tensors.items():
        name, _, part = key.rpartition(".")
        if part not in _PARTS or not name or tensor.dim() != 3 or not tensor.is_floating_point():
            raise BundleError(f"{file}: tensor {key!r:.120} of shape {tuple(tensor.shape)} is no part of a Kronecker update")
        layers.setdefault(name, {})[part] = tensor.float()
    shared = {name: layers.pop(name)["kron_a"] for name in [f"shared.{n}" for n in TERMS] if name in layers and len(layers[name]) == 1}
    if not layers:
        raise BundleError(f"{file} holds no update of any layer")
    return {name: _update(f"{file}: {name:.120}", parts, shared) for name, parts in sorted(layers.items())}


def _update(name: str, parts: Mapping[str, torch.Tensor], shared: Mapping[str, torch.Tensor]) -> Update:
    missing = [part for part in ("kron_u", "kron_v") if part not in parts]
    if missing:
        raise BundleError(f"{name} lacks {' and '.join(missing)}")
    u, v = parts["kron_u"], parts["kron_v"]
    n = u.shape[0]
    a = parts.get("kron_a", shared.get(f"shared.{n}"))
    if a is None:
        raise BundleError(f"{name} lacks kron_a, and the file shares none for {n} terms")
    if n not in TERMS or a.shape != (n, n, n) or v.shape[0] != n or u.shape[2] != v.shape[2] or not 1 <= u.shape[2] <= MAX_RANK:
        shapes = ", ".join(f"{part} {tuple(t.shape)}" for part, t in zip(_PARTS, (a, u, v), strict=True))
        raise BundleError(f"{name}: {shapes} make no update; expected (n, n, n), (n, out/n, r), (n, in/n, r) with n of {TERMS}")
    return a, u, v


def deltas_for(updates: Mapping[str, Update], shapes: Mapping[str, torch.Size], name: str) -> dict[str, torch.Tensor]:
    """Return dW of every layer in the shape of its weight. `shapes` are those of the network's weights, by layer; messages say `name`.

    Raises :class:`BundleError`, which names the layer, where the network lacks it or its weight has another size.
    """
    result = {}
    for layer, (a, u, v) in updates.items():
        if layer not in shapes:
            raise BundleError(f"{name}: it changes {layer}, which this model does not have; it was made for another one")
        shape = shapes[layer]
        out, inner = u.shape[0] * u.shape[1], v.shape[0] * v.shape[1]
        if (out, inner) != (shape[0], shape[1:].numel()):
            raise BundleError(
                f"{name}: its update of {layer} is for a weight of {out} x {inner}, this model's is {shape[0]} x {shape[1:].numel()}; "
                "it was made for another one"
            )
        result[layer] = materialize(a, u, v).reshape(shape)
    return result
