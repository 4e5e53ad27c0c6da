"""Graphs that come with the pack, known by their names.

Each stands in two files: `workflows/api/NAME.json` for headless runs, and the editor's form in `workflows/`, which ComfyUI's template
browser lists by its file name. There the templates for a start have a number before their name and are called the same in both folders;
all others are marked `advanced_NAME.json`.
"""

from __future__ import annotations

import os
from pathlib import Path

from ..paths import pack_root

NEED_MODELS = frozenset(
    {
        "02 Make my checkpoint faster",
        "03 Two models in one picture",
        "04 Wan 2.2 two experts",
        "05 Low to high resolution",
        "06 Upscale to a size",
        "07 A ControlNet of another model family",
        "08 Smaller U-Net from mine",
        "09 Four steps instead of fifty",
        "10 Train on my pictures",
        "11 Style dial",
        "12 Many prompts from keywords",
        "cross_family_bridge",
    }
)
"""Shipped graphs that load a user's own models, which the pack does not ship and the headless host cannot run in all cases."""
ADVANCED = "advanced_"
"""What stands before the name of a template that is not for a start."""


def shipped_graphs() -> dict[str, Path]:
    """Return the file of every graph that comes with the pack, in API format, by its name (`text_to_image`)."""
    return {path.stem: path for path in sorted((pack_root() / "workflows" / "api").glob("*.json"))}


def template_name(name: str) -> str:
    """Return the name under which the template browser lists the shipped graph `name`."""
    return name if (pack_root() / "workflows" / f"{name}.json").is_file() else ADVANCED + name


def template_path(name: str) -> Path:
    """Return the file of the shipped graph `name` in the editor's format."""
    return pack_root() / "workflows" / f"{template_name(name)}.json"


def graph_path(source: str | os.PathLike[str]) -> Path:
    """Return the file that `source` means: a file where there is one, else the shipped graph of that name, else `source` itself.

    A template that is marked as advanced is also found by its path without the mark.
    """
    path = Path(source)
    if path.is_file():
        return path
    if path.name and path.name != os.fspath(source):
        marked = path.with_name(ADVANCED + path.name)
        return marked if marked.is_file() else path
    return shipped_graphs().get(path.name.removesuffix(".json").removeprefix(ADVANCED), path)
