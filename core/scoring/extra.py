"""Packages of the extra `metrics` (torch-fidelity, open_clip), imported when they are needed, and the user's files of their weights."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

from .. import paths
from ..errors import BundleError, MissingPackageError


def import_extra(module: str, package: str, use: str) -> Any:
    """Return the module `module` of the package `package`, which `use` needs.

    Raises :class:`MissingPackageError` with the command that installs it.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise MissingPackageError(
            f'{use} needs the package {package} ({error}): python -m pip install {package}, or ".[metrics]" in the folder of RapidDraw'
        ) from error


def weights_file(name: str, expected: str) -> Path:
    """Return the file `name`: a path, or the name of a file in a weights folder (`models/rapiddraw` in ComfyUI).

    Raises :class:`BundleError` where there is none; `expected` says which file it should be.
    """
    given = Path(name).expanduser()
    folders = paths.weights_dirs() if given.name == name else []
    for path in (given, *(paths.model_path(folder, name) for folder in folders)):
        if path.is_file():
            return path
    where = paths.say_searched([Path.cwd(), *folders] if given.name == name else [given.parent])
    raise BundleError(f"no file {name!r}: expected {expected}, as a path or in models/rapiddraw; nothing is downloaded ({where})")
