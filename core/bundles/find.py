"""Search for bundles in the weights folders, by name and kind."""

from __future__ import annotations

import difflib
from functools import lru_cache
from pathlib import Path

from .. import paths
from ..errors import BundleError
from .format import KEY, read_info
from .header import mentions


def list_bundles(kind: str | None = None) -> list[str]:
    """Return the sorted names of the bundles of `kind` (any kind for `None`), relative to their weights folder, with `/` between parts.

    The header of a file says what it is, never its name; a file that is no readable bundle is left out. A header is read once, until its
    file changes.
    """
    names = set()
    for folder in paths.weights_dirs():
        for name, path in paths.model_files(folder):
            found = kind_of(path) if name.endswith(".safetensors") else None
            if found is not None and (kind is None or found == kind):
                names.add(name)
    return sorted(names)


def resolve_bundle(name: str, kind: str | None = None) -> Path:
    """Return the file of the bundle `name` (as :func:`list_bundles` gives it), its header checked to be of `kind`.

    Raises :class:`InputError` for a name that leaves its folder, :class:`BundleError` for an unknown name (listing the nearest
    known ones) or a damaged file or one of another kind.
    """
    folders = paths.weights_dirs()
    for folder in folders:
        path = paths.model_path(folder, name)
        if path.is_file():
            read_info(path, kind)
            return path
    known = list_bundles(kind)
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.3) or known[:5]
    hint = f"near it there is {', '.join(near)}" if near else "there are none"
    where = paths.say_searched(folders)
    raise BundleError(f"no {kind or 'RapidDraw'} bundle named {name!r}: {hint} ({where}). Set RAPIDDRAW_WEIGHTS to search another folder")


def kind_of(path: Path) -> str | None:
    """Return the kind that a file's header names, by the header alone; None for what is no sound bundle."""
    try:
        stat = path.stat()
    except OSError:
        return None
    return _header_kind(path, stat.st_mtime_ns, stat.st_size)


@lru_cache(maxsize=2**16)
def _header_kind(path: Path, mtime_ns: int, size: int) -> str | None:
    try:
        return read_info(path).kind if mentions(path, KEY) else None
    except (BundleError, OSError):
        return None
