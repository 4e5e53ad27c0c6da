"""Upscalers among the files of the weights folders. Needs no torch, so that a node can list them when it is shown."""

from __future__ import annotations

import difflib
from functools import lru_cache
from pathlib import Path

from .. import paths
from ..bundles.find import list_bundles
from ..bundles.format import tensor_names
from ..errors import BundleError
from .layouts import prefix_of

PICKLED = (".pth", ".pt")
NCNN = ".param"
"""Ending of the text file of a network in ncnn's form, whose weights lie in the `.bin` beside it."""


def list_upscalers() -> list[str]:
    """Return sorted names, relative to their weights folder: bundles of kind `esrgan`, plain `.safetensors` with an ESRGAN's tensor names,
    every `.pth` and `.pt`, whose contents are known only when they are read, and every `.param` with a `.bin` beside it.
    """
    names = set(list_bundles("esrgan"))
    for folder in paths.weights_dirs():
        for name, path in paths.model_files(folder):
            if path.suffix.lower() in PICKLED and path.is_file() or path.suffix == ".safetensors" and _is_esrgan(path) or _is_ncnn(path):
                names.add(name)
    return sorted(names)


def resolve_upscaler(name: str) -> Path:
    """Return the file that :func:`list_upscalers` calls `name`. Raises :class:`InputError` for a name that leaves its folder, and
    :class:`BundleError`, with the nearest names, for an unknown one.
    """
    for folder in paths.weights_dirs():
        path = paths.model_path(folder, name)
        if path.is_file() and path.suffix.lower() in (".safetensors", NCNN, *PICKLED):
            return path
    known = list_upscalers()
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.3) or known[:5]
    hint = f"near it there is {', '.join(near)}" if near else "there are none"
    where = paths.say_searched(paths.weights_dirs())
    raise BundleError(f"no upscaler named {name!r}: {hint} ({where}). Set RAPIDDRAW_WEIGHTS to search another folder")


def files_of(path: Path) -> list[Path]:
    """Return the files that make up an upscaler: one, or two in ncnn's form."""
    return [path, path.with_suffix(".bin")] if path.suffix.lower() == NCNN else [path]


def _is_ncnn(path: Path) -> bool:
    return path.suffix.lower() == NCNN and all(file.is_file() for file in files_of(path))


def _is_esrgan(path: Path) -> bool:
    try:
        stat = path.stat()
        return _has_esrgan_names(path, stat.st_mtime_ns, stat.st_size)
    except OSError:
        return False


@lru_cache(maxsize=2**16)
def _has_esrgan_names(path: Path, mtime_ns: int, size: int) -> bool:
    try:
        return prefix_of(tensor_names(path)) is not None
    except (BundleError, OSError):
        return False
