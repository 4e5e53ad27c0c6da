"""Claims on dataset folders: nothing of a user's is overwritten, and a run that was broken off can be started again.

While this project writes a dataset, the folder holds a hidden mark. A folder with the mark is ours and unfinished, whatever stopped the
run. A folder without it is finished, or belongs to somebody else.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path

from ..errors import InputError
from ..files import check_writable, make_folder

INDEX = "captions.jsonl"
MARK = ".rapiddraw-unfinished"
_OURS = ("images", "maps", INDEX)


@contextlib.contextmanager
def claimed(root: Path, files: Sequence[str] = ()) -> Iterator[None]:
    """Claim the folder `root` until the block ends without an error; then the folder is finished. `files` are written beside the pictures.

    What a broken run left in a claimed folder may be overwritten; its `captions.jsonl` is removed first. Raises :class:`InputError` where
    the folder holds a finished dataset or something of somebody else, or a link in the place of a file or folder that would be written.
    """
    mark = root / MARK
    ours = mark.is_file() and not mark.is_symlink()
    links = [path for path in (mark, *(root / name for name in (*_OURS, *files)), *_below(root / "maps")) if path.is_symlink()]
    if links:
        raise InputError(f"{links[0]} is a link, which may lead anywhere; remove it or choose another folder")
    if not ours:
        if (root / INDEX).exists():
            raise InputError(f"{root} already holds a dataset ({INDEX} is there); choose another folder or remove it first")
        taken = [name for name in (*_OURS, *files) if (root / name).exists()]
        if taken:
            raise InputError(f"{root} already holds {taken[0]}, which this project did not write; choose another folder")
    check_writable(root)
    make_folder(root)
    mark.touch()
    (root / INDEX).unlink(missing_ok=True)
    yield
    mark.unlink(missing_ok=True)


def _below(folder: Path) -> list[Path]:
    return sorted(folder.iterdir()) if folder.is_dir() and not folder.is_symlink() else []
