"""Pictures that clients upload: each owner's in a folder of its own, under names that never lead out of it."""

from __future__ import annotations

import io
import warnings
from pathlib import Path

from ..core.errors import InputError
from ..core.files import replacing, write_numbered
from ..core.paths import safe_join
from .catalog import Refused

MOST_FILES = 2000
_SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff"}
_MOST_PIXELS = 2**27


def uploaded(folder: Path) -> list[str]:
    """Return the names of an owner's pictures."""
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()) if folder.is_dir() else []


def keep_picture(folder: Path, name: str, data: bytes, overwrite: bool = False) -> str:
    """Write an uploaded picture into `folder` and return its name there; a name that is taken gets a number unless `overwrite`.

    Raises :class:`InputError` for a name that leads out of the folder and :class:`Refused` for a file that is no picture.
    """
    path = safe_join(folder, name)
    if path.suffix.lower() not in _SUFFIXES or path.name.startswith("."):
        raise Refused(f"{path.name[:60]!r} is no name of a picture; expected one of {', '.join(sorted(_SUFFIXES))}", "not_a_picture")
    if len(uploaded(folder)) >= MOST_FILES:
        raise Refused(f"this key has {MOST_FILES} uploaded pictures, which is the most", "too_many")
    _check_picture(data, path.name)
    if overwrite:
        with replacing(path) as temporary:
            temporary.write_bytes(data)
        return path.relative_to(folder.resolve()).as_posix()
    if path.is_file() and path.read_bytes() == data:
        return path.relative_to(folder.resolve()).as_posix()

    def numbered(number: int) -> str:
        return path.name if number == 0 else f"{path.stem} ({number}){path.suffix}"

    written, _ = write_numbered(path.parent, numbered, 0, lambda temporary: temporary.write_bytes(data))
    return written.relative_to(folder.resolve()).as_posix()


def _check_picture(data: bytes, name: str) -> None:
    """Raise :class:`Refused` where Pillow finds no picture of a reasonable size in `data`; pixels are not unpacked."""
    from PIL import Image

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(data)) as picture:
                pixels = picture.width * picture.height
    except Exception as error:  # Pillow raises many kinds for a damaged or hostile file
        raise Refused(f"{name} is no picture that can be read", "not_a_picture") from error
    if pixels > _MOST_PIXELS:
        raise InputError(f"{name} has {pixels} pixels; {_MOST_PIXELS} are the most")
