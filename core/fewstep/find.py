"""Search for the files of few-step students by their metadata: LoRAs, in a loras or a weights folder, and bundles of whole networks."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

from .. import paths
from ..bundles.format import KEY as BUNDLE
from ..bundles.format import read_info
from ..bundles.header import mentions
from ..bundles.lora_about import is_own_lora
from ..bundles.lora_about import read_about as told_of_lora
from ..checkpoint.loras import list_loras, resolve_lora
from ..errors import BundleError, InputError
from .about import About, read_about


def list_students() -> list[str]:
    """Return the sorted names of the files that say that they hold a few-step student."""
    found = {name for name in list_loras() if _is_student(resolve_lora(name))}
    for folder in paths.weights_dirs():
        listed = [(name, path) for name, path in paths.model_files(folder) if name.endswith(".safetensors")]
        found |= {name for name, path in listed if not name.startswith("loras/") and _is_student(path)}
    return sorted(found)


def resolve_student(name: str) -> Path:
    """Return the file that :func:`list_students` calls `name`. Raises :class:`InputError` for a name that leaves its folder,
    :class:`BundleError` for an unknown one."""
    try:
        return resolve_lora(name)
    except BundleError as error:
        for path in (paths.model_path(folder, name) for folder in paths.weights_dirs()):
            if path.is_file():
                return path
        known = ", ".join(list_students()[:5]) or "none"
        raise BundleError(f"no few-step student named {name!r}; there is {known}. Distill Few Steps writes them") from error


def read_student(path: Path) -> tuple[About, bool]:
    """Return (the description in a student's file, whether the file is a LoRA), from its header alone. Raises :class:`BundleError`."""
    told = told_of_lora(path)
    if told:
        return read_about(told, path.name), True
    try:
        return read_about(read_info(path, "unet").provenance, path.name), False
    except BundleError as error:
        raise BundleError(f"{path.name} is no few-step student: {error}") from error


def _is_student(path: Path) -> bool:
    try:
        stat = path.stat()
        return _says_so(path, stat.st_mtime_ns, stat.st_size)
    except (OSError, InputError):
        return False


@lru_cache(maxsize=2**14)
def _says_so(path: Path, mtime_ns: int, size: int) -> bool:
    try:
        return (is_own_lora(path) or mentions(path, BUNDLE)) and read_student(path) is not None
    except (BundleError, OSError):
        return False
