"""Places of the nodes' dataset folders: nodes read them in the input and the output folder, and write them in the output folder only."""

from __future__ import annotations

import hashlib
from pathlib import Path

from .. import paths
from ..errors import DataError, InputError
from ..orchard.claim import INDEX


def resolve_folder(name: str) -> Path:
    """Return the dataset folder `name`, relative to the input or the output folder.

    Raises :class:`InputError` for a name that leaves them, :class:`DataError` for one that is in neither.
    """
    for base in (paths.input_dir(), paths.output_dir()):
        folder = paths.safe_join(base, name.strip())
        if folder.is_dir():
            return folder
    raise DataError(f"no folder {name!r} in the input folder or the output folder; put your pictures into a folder there")


def new_folder(name: str) -> Path:
    """Return where a node writes the dataset folder `name`: in the output folder. Raises :class:`InputError` for a name that leaves it."""
    return paths.safe_join(paths.output_dir(), name.strip())


def relative_name(folder: Path) -> str:
    """Return the name by which :func:`resolve_folder` finds `folder`."""
    return folder.resolve().relative_to(paths.output_dir().resolve()).as_posix()


def fingerprint(name: str | None) -> str:
    """Return a text that changes when a folder's index or its files change; "" where there is no such folder yet."""
    try:
        folder = resolve_folder(name or "")
    except (DataError, InputError):
        return ""
    index = folder / INDEX
    if index.is_file():
        return paths.file_sha256(index)
    stats = ((path, path.stat()) for path in folder.rglob("*") if path.is_file())
    found = sorted(f"{path.relative_to(folder)}/{stat.st_size}/{stat.st_mtime_ns}" for path, stat in stats)
    return hashlib.sha256("\n".join(found).encode()).hexdigest()
