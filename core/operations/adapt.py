"""Kronecker adapters on a MODEL."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..errors import InputError
from ..host import current
from ..lowrank.adapter import deltas_for, load_adapter

MAX_STRENGTH = 100.0


def adapt_model(model: Any, path: Path, strength: float) -> Any:
    """Return a MODEL with the adapter in `path` added `strength` times; strength 0 returns the model itself.

    Raises :class:`InputError` for a strength beyond +-:data:`MAX_STRENGTH`, :class:`BundleError` for a file that does not fit.
    """
    if not -MAX_STRENGTH <= strength <= MAX_STRENGTH:
        raise InputError(f"strength={strength}: expected a number from {-MAX_STRENGTH:g} to {MAX_STRENGTH:g}")
    updates = load_adapter(path)
    if strength == 0:
        return model
    host = current()
    return host.surgery.add_weights(model, deltas_for(updates, host.surgery.weight_shapes(model), path.name), strength)
