"""Writing of files: whole or not at all, under a name that no other process can take meanwhile, with one error for every failure."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from .errors import RapidDrawError, WriteError

_HOW = "Free space on the disk, change the permissions, or choose another place"


@contextlib.contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary path beside `path`; what was written there takes the place of `path` when the block ends without an error.

    Parent folders are made. After an error (a cancel included) the temporary file is removed and `path` is as it was. The temporary name
    keeps the suffix, because image writers choose their format by it. Raises :class:`WriteError` where something cannot be written.
    """
    path = Path(path)
    with _errors_named(path), _temporary_beside(path) as temporary:
        yield temporary
        temporary.replace(path)


def write_numbered(folder: Path, name: Callable[[int], str], first: int, write: Callable[[Path], object]) -> tuple[Path, int]:
    """Write a new file into `folder` under the first free name of `name(first)`, `name(first + 1)`, ...; return its path and number.

    `write` is given a temporary path. The name is taken in one step that fails where the name exists, so that processes which write into
    one folder at the same time never take a name from each other. Raises :class:`WriteError` where something cannot be written.
    """
    number = first
    with _errors_named(folder / name(first)), _temporary_beside(folder / name(first)) as temporary:
        write(temporary)
        while not _take(temporary, folder / name(number)):
            number += 1
    return folder / name(number), number


def make_folder(folder: Path) -> None:
    """Make a folder and those above it. Raises :class:`WriteError` where that is not possible."""
    with _errors_named(folder):
        folder.mkdir(parents=True, exist_ok=True)


def check_writable(folder: Path) -> None:
    """Raise :class:`WriteError` where no file could be written into `folder`. A missing folder is not made: the one above it is tried."""
    with _errors_named(folder):
        place = folder.absolute()
        while not place.exists() and place != place.parent:
            place = place.parent
        with tempfile.TemporaryFile(dir=place) as file:
            file.write(b"0")


def check_file_writable(path: Path) -> None:
    """Raise :class:`WriteError` where the file `path` could not be written: a folder has its name, or nothing can be written beside it."""
    if path.is_dir():
        raise WriteError(f"cannot write {path} (it is a folder). Give the name of a file, such as {path / 'result'}{path.suffix}")
    check_writable(path.parent)


def _take(temporary: Path, path: Path) -> bool:
    """Give a temporary file its name. False where a file has the name already."""
    try:
        os.link(temporary, path)
    except FileExistsError:
        return False
    except OSError:  # a file system without hard links: an empty file holds the name until it is replaced
        try:
            os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
        except FileExistsError:
            return False
        temporary.replace(path)
    return True


@contextlib.contextmanager
def _temporary_beside(path: Path) -> Iterator[Path]:
    """A temporary file in the folder of `path`, with the permissions of a file that anybody wrote; gone when the block ends."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.stem[:40]}-", suffix=f".tmp{path.suffix}")
    os.close(handle)
    temporary = Path(name)
    try:
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)  # mkstemp makes private files; what we write is not secret
        yield temporary
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def _errors_named(path: Path) -> Iterator[None]:
    """Turn an error of the file system into a :class:`WriteError` that names `path`."""
    try:
        yield
    except RapidDrawError:
        raise
    except Exception as error:
        if (
            not isinstance(error, OSError) and type(error).__name__ != "SafetensorError"
        ):  # safetensors has an error of its own for a full disk
            raise
        reason = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise WriteError(f"cannot write {path} ({reason}). {_HOW}") from error
