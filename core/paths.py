"""Folders of the pack and its user, and the one way from a user's string to a path.

Every name that reaches this module may come from a widget or the API and is treated as hostile. :func:`safe_join` joins a name to the
folder that the file must stay in, and checks the resolved path, symlinks included. :func:`model_path` does so for models folders, where
the owner may have put links to other disks.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Iterable, Iterator
from contextvars import ContextVar
from functools import lru_cache
from pathlib import Path, PureWindowsPath

from .errors import InputError
from .language import is_text

IS_WINDOWS = os.name == "nt"
_DEVICES = {"con", "prn", "aux", "nul", "conin$", "conout$", *(f"{port}{number}" for port in ("com", "lpt") for number in "0123456789")}
_extra_weights: list[Path] = []
_extra_models: list[Path] = []
_dirs: dict[str, Path] = {}
_using: ContextVar[dict[str, Path] | None] = ContextVar("rapiddraw_dirs", default=None)


def pack_root() -> Path:
    """Return the folder this pack lives in (the repository's root), whatever its name."""
    return Path(__file__).resolve().parent.parent


def weights_dirs() -> list[Path]:
    """Return the folders searched for bundles, first match wins: the pack's `weights/`, those of `$RAPIDDRAW_WEIGHTS`, added ones, and
    :func:`made_weights_dir`.

    `$RAPIDDRAW_WEIGHTS` may hold several folders, separated like `$PATH`. A relative folder is looked for in the working folder. Folders
    that do not exist are left out.
    """
    given = [Path(part).expanduser() for part in os.environ.get("RAPIDDRAW_WEIGHTS", "").split(os.pathsep) if part.strip()]
    folders: list[Path] = []
    for folder in [pack_root() / "weights", *given, *_extra_weights, made_weights_dir()]:
        if folder.is_dir() and folder.absolute() not in folders:
            folders.append(folder.absolute())
    return folders


def say_searched(folders: Iterable[Path]) -> str:
    """Return the words of an error about folders that were searched in vain."""
    return f"searched: {', '.join(map(str, folders)) or 'no folder, because none is there'}"


def add_weights_dir(path: str | os.PathLike[str]) -> None:
    """Search `path` for bundles too (a host adds its own models folder). Adding a folder twice changes nothing."""
    folder = Path(path)
    if folder not in _extra_weights:
        _extra_weights.append(folder)


def language_model_dirs() -> list[Path]:
    """Return the folders searched for a user's language models: `llm` in each of :func:`weights_dirs`, and added ones. Only those that
    exist."""
    found = [folder for folder in (*(weights / "llm" for weights in weights_dirs()), *_extra_models) if folder.is_dir()]
    return list(dict.fromkeys(found))


def add_language_model_dir(path: str | os.PathLike[str]) -> None:
    """Search `path` for language models too (a host adds its own models folder). Adding a folder twice changes nothing."""
    folder = Path(path)
    if folder not in _extra_models:
        _extra_models.append(folder)


def safe_join(base: str | os.PathLike[str], name: str | os.PathLike[str]) -> Path:
    """Return `base / name`, resolved, guaranteed to lie inside `base` after every symlink is followed. The file need not exist.

    Raises :class:`InputError` for an absolute name, one with a drive, a NUL or a lone surrogate, an empty one, or one that ends up outside.
    """
    root, text = _checked(base, name)
    try:
        path = (root / text).resolve()
    except (OSError, RuntimeError, ValueError) as error:  # a symlink loop, a name too long
        raise InputError(f"{text!r} cannot be resolved inside {root.name}/ ({error})") from error
    if path == root or not path.is_relative_to(root):
        raise InputError(f"{text!r} leads outside {root.name}/, where it must stay (is it a symlink?)")
    return path


def model_path(base: str | os.PathLike[str], name: str | os.PathLike[str]) -> Path:
    """Return `base / name` for a file that the owner of a models folder has put there: a link is followed wherever it leads, because
    whoever may put links there may put files there as well. Raises :class:`InputError` for the names that :func:`safe_join` refuses.
    """
    root, text = _checked(base, name)
    path = root / text
    if "\\" in text and not path.exists():  # a graph that was saved on Windows
        path = root / text.replace("\\", "/")
    if path == root:
        raise InputError(f"{text!r} names the folder itself; expected a file or folder inside {root.name}/")
    return path


def model_files(folder: Path) -> Iterator[tuple[str, Path]]:
    """Yield (name, path) of every file below a models folder. Links are followed, each folder once. Names have `/` between their parts; a
    name that :func:`model_path` would refuse is left out."""
    seen: set[str] = set()
    for where, inside, files in os.walk(folder, followlinks=True):
        real = os.path.realpath(where)
        if real in seen:
            inside.clear()
            continue
        seen.add(real)
        for file in files:
            path = Path(where, file)
            name = path.relative_to(folder).as_posix()
            if _is_usable(name):
                yield name, path


def _checked(base: str | os.PathLike[str], name: str | os.PathLike[str]) -> tuple[Path, str]:
    """The resolved base and a name that is plain, relative and usable; see :func:`safe_join`."""
    text = os.fspath(name)
    root = Path(base).resolve()
    if not is_text(text):
        raise InputError(f"{ascii(text)[:100]} is not a usable file name: it holds a lone surrogate, which is no character; rename it")
    if not _is_usable(text):
        raise InputError(f"{text[:100]!r} is not a usable file name (empty, too long, or with a NUL in it)")
    # Backslashes and drives mean nothing here but everything on Windows: the same name is refused on both.
    if Path(text).is_absolute() or text.startswith(("/", "\\", "~")) or text[1:2] == ":" or ".." in text.replace("\\", "/").split("/"):
        raise InputError(f"{text!r} must be a plain relative name inside {root.name}/ (no '..', no drive, no leading slash)")
    if IS_WINDOWS and (flaw := windows_flaw(text)):
        raise InputError(f"{text!r} is no file name on Windows: {flaw}; choose another name")
    return root, text


def windows_flaw(name: str) -> str:
    """Return why Windows can have no file of the relative name `name`; an empty text where it can.

    Windows takes `con.png` for a device, `a:b` for a stream inside the file `a`, and drops dots and spaces at the end of a name.
    """
    for part in PureWindowsPath(name).parts:
        if part.split(".")[0].rstrip(" ").lower() in _DEVICES:
            return f"{part!r} is the name of a device"
        if part.rstrip(". ") != part and part not in (".", ".."):
            return f"{part!r} ends with a dot or a space"
        wrong = next((letter for letter in part if letter in '<>:"|?*' or ord(letter) < 32), "")
        if wrong:
            return f"{part!r} holds {wrong!r}"
    return ""


def _is_usable(text: str) -> bool:
    is_short = is_text(text) and len(text) <= 1000 and all(len(part.encode()) <= 255 for part in Path(text).parts)
    return is_short and bool(text.strip()) and "\0" not in text


def set_dirs(
    input: str | os.PathLike[str] | None = None,  # the three names users know
    output: str | os.PathLike[str] | None = None,
    temp: str | os.PathLike[str] | None = None,
) -> None:
    """Choose where images are read from, written to, and previewed; what is left `None` stays as it was."""
    for key, value in (("input", input), ("output", output), ("temp", temp)):
        if value is not None:
            _chosen_dirs()[key] = Path(value)


def _chosen_dirs() -> dict[str, Path]:
    """Return the folders of the block of :func:`using_dirs` around, or those of the whole process."""
    own = _using.get()
    return _dirs if own is None else own


@contextlib.contextmanager
def using_dirs(
    input: str | os.PathLike[str] | None = None,
    output: str | os.PathLike[str] | None = None,
    temp: str | os.PathLike[str] | None = None,
) -> Iterator[None]:
    """Choose folders as :func:`set_dirs` does, until the block ends, and for this thread or task alone."""
    token = _using.set(dict(_chosen_dirs()))
    try:
        set_dirs(input, output, temp)
        yield
    finally:
        _using.reset(token)


def input_dir() -> Path:
    """Return the folder that LoadImage reads: `./input` unless set. It is not created here."""
    return _chosen_dirs().get("input", Path("input"))


def output_dir() -> Path:
    """Return the folder that SaveImage writes into: `./out` unless set. It is not created here."""
    return _chosen_dirs().get("output", Path("out"))


def made_weights_dir() -> Path:
    """Return where nodes write the bundles they make: `rapiddraw` in the output folder, as ComfyUI's own do in `loras`. Not created
    here."""
    return output_dir() / "rapiddraw"


def made_bundle_path(filename: str) -> Path:
    """Return where a node writes the bundle `filename` (a relative name, `.safetensors` added). Raises :class:`InputError` for a name that
    leaves :func:`made_weights_dir`."""
    name = filename.strip().removesuffix(".safetensors")
    return safe_join(made_weights_dir(), f"{name}.safetensors" if name else name)


def image_bundle_path(text: Path) -> Path:
    """Return where the image tower of a text bundle lies: `my-text.safetensors` has `my-image.safetensors` beside it. Raises
    :class:`InputError` for a path without a file's name."""
    if not text.name:
        raise InputError(f"{str(text)!r} names no file; expected a text bundle, such as weights/my-text.safetensors")
    return text.with_name(text.name.replace("text", "image") if "text" in text.name else f"{text.stem}-image{text.suffix}")


def temp_dir() -> Path:
    """Return the folder that PreviewImage writes into: `./temp` unless set. It is not created here."""
    return _chosen_dirs().get("temp", Path("temp"))


def cache_dir() -> Path:
    """Return where what was measured on this machine is remembered: `$RAPIDDRAW_CACHE`, else `$XDG_CACHE_HOME/rapiddraw`, else
    `~/.cache/rapiddraw`. Not created here."""
    own, shared = os.environ.get("RAPIDDRAW_CACHE", "").strip(), os.environ.get("XDG_CACHE_HOME", "")
    if own:
        return Path(own).expanduser()
    return (Path(shared) if Path(shared).is_absolute() else Path.home() / ".cache") / "rapiddraw"


def file_sha256(path: str | os.PathLike[str]) -> str:
    """Return the hex SHA-256 of a file's content. Remembered until its size or modification time changes, so it is cheap in IS_CHANGED."""
    path = Path(path)
    try:
        stat = path.stat()
        return _sha256(path, stat.st_mtime_ns, stat.st_size)
    except OSError as error:
        raise InputError(f"cannot read {path} ({error.strerror or error})") from error


@lru_cache(maxsize=256)
def _sha256(path: Path, mtime_ns: int, size: int) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(2**20):
            digest.update(block)
    return digest.hexdigest()
