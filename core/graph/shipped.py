"""Graphs that come with the pack, known by their names."""

from __future__ import annotations

import os
from pathlib import Path

from ..paths import pack_root

NEED_MODELS = frozenset({"cross_family_bridge"})
"""Shipped graphs that load models of other families, which the pack does not ship and the headless host cannot run."""


def shipped_graphs() -> dict[str, Path]:
    """Return the file of every graph that comes with the pack, in API format, by its name (`text_to_image`)."""
    return {path.stem: path for path in sorted((pack_root() / "workflows" / "api").glob("*.json"))}


def graph_path(source: str | os.PathLike[str]) -> Path:
    """Return the file that `source` means: a file where there is one, else the shipped graph of that name, else `source` itself."""
    path = Path(source)
    if path.is_file() or path.name != os.fspath(source):
        return path
    return shipped_graphs().get(path.name.removesuffix(".json"), path)
