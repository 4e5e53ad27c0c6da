"""Places of the nodes' dataset folders: nodes read them in the input and the output folder, and write them in the output folder only."""

from __future__ import annotations

import hashlib
from pathlib import Path

from .. import paths
from ..errors import DataError, InputError


def resolve_folder(name: str) -> Path:
    """Return the dataset folder `name`, relative to the input or the output folder.

    Raises :class:`InputError` for a name that leaves them, :class:`DataError` for one that is in neither.
    """
    for base in (paths.input_dir(), paths.output_dir()):
        folder = paths.safe_join(base, name.strip())
        if folder.is_dir():
            return folder
    raise DataError(f"no such folder {name!r} in the input folder or the output folder; put your pictures into a folder there")


def new_folder(name: str) -> Path:
    """Return where a node writes the dataset folder `name`: in the output folder. Raises :class:`InputError` for a name that leaves it."""
    return paths.safe_join(paths.output_dir(), name.strip())


def relative_name(folder: Path) -> str:
    """Return the name by which :func:`resolve_folder` finds `folder`."""
    return folder.resolve().relative_to(paths.output_dir().resolve()).as_posix()


def annotated_name(picture: Path) -> str:
    """Return the name by which Load Image finds a picture in the input, output or temp folder; else the file's name alone."""
    for base, mark in ((paths.input_dir(), ""), (paths.output_dir(), " [output]"), (paths.temp_dir(), " [temp]")):
        if picture.resolve().is_relative_to(base.resolve()):
            return f"{picture.resolve().relative_to(base.resolve()).as_posix()}{mark}"
    return picture.name


def fingerprint(name: str | None) -> str:
    """Return a hash of the names, sizes and times of a folder's files; "" for a folder that is missing, unreadable or not named."""
    if not (name or "").strip():
        return ""
    try:
        folder = resolve_folder(name or "")
        stats = ((path, path.stat()) for path in folder.rglob("*") if path.is_file())
        found = sorted(f"{path.relative_to(folder).as_posix()}/{stat.st_size}/{stat.st_mtime_ns}" for path, stat in stats)
    except (DataError, InputError, OSError):
        return ""
    return hashlib.sha256("\n".join(found).encode("utf-8", "surrogatepass")).hexdigest()
