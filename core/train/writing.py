"""Places that a run writes to: tried before the work begins, and replaced by others where they fail after it."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from safetensors import SafetensorError

from .. import files
from ..errors import InputError, TrainingError
from ..files import make_folder

logger = logging.getLogger("rapiddraw")
T = TypeVar("T")
CANNOT_WRITE = (OSError, SafetensorError)
"""What a full disk, a missing permission or a lost network drive raises."""
_PICKLES = (".pt", ".pth", ".ckpt", ".pkl", ".bin")


def check_writable(out: Path, run_dir: Path) -> None:
    """Raise :class:`WriteError` where the bundle `out` or a file in the folder `run_dir` could not be written. Makes the folder `run_dir`.

    Raises :class:`InputError` for a name that no bundle can have.
    """
    if out.suffix.lower() in _PICKLES:
        raise InputError(f"out={str(out)!r}: a bundle is a .safetensors file; give it a name that ends so")
    if out.is_dir():
        raise InputError(f"out={str(out)!r} is a folder; expected the name of a file to write, such as {out / 'my-unet.safetensors'}")
    make_folder(run_dir)
    for folder in (out.parent, run_dir):
        files.check_writable(folder)


def write_somewhere(write: Callable[[Path], T], out: Path, run_dir: Path) -> T:
    """Return `write(out)`. Where that path cannot be written, write beside the run folder's files or into the system's temporary folder,
    and log where. Raises :class:`TrainingError` where no place can be written."""
    others = [run_dir / out.name, Path(tempfile.gettempdir()) / f"rapiddraw-{run_dir.name}" / out.name]
    for place in [out, *(other for other in others if other.absolute() != out.absolute())]:
        try:
            done = write(place)
        except CANNOT_WRITE as error:
            failure = error
            logger.warning("cannot write %s (%s)", place, error)
            continue
        if place != out:
            logger.warning("the result is in %s, because %s cannot be written", place, out)
        return done
    raise TrainingError(
        f"the result cannot be written to {out} or to any other place ({failure}). Free space or change the permissions, then give the "
        f"same command again: it goes on from the last checkpoint in {run_dir}"
    ) from failure


def tried(write: Callable[[], object], what: str) -> bool:
    """Return whether `write()` could write. Where it could not, log that `what` failed, so that the run goes on."""
    try:
        write()
    except CANNOT_WRITE as error:
        logger.warning("%s failed (%s); the training goes on", what, error)
        return False
    return True
