"""The registry of nodes for headless runs."""

from __future__ import annotations

from ..core.graph.inputs import Registry


def registry() -> Registry:
    """Return every node that a headless run knows: the pack's own and the embedded host's stock nodes."""
    from ..core.graph.stock.registry import STOCK_NODES
    from . import NODE_CLASS_MAPPINGS

    return {**STOCK_NODES, **NODE_CLASS_MAPPINGS}
