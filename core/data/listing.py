"""Files of a folder, found whatever the Unicode form of their names and the case of their endings.

A disk of macOS may hold a letter and its accent as two characters where a captions file has one. Windows and cameras write `A.PNG` beside
`A.TXT`.
"""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Iterator
from pathlib import Path

from ..errors import DataError, InputError
from ..language import is_text
from ..paths import safe_join


class Listing:
    """The files below `root`, without hidden files and folders."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._names: dict[Path, dict[str, str]] = {}

    def find(self, name: str) -> Path | None:
        """Return the file `name`, a path relative to the root; `None` where there is none.

        The name as it stands comes first, then one that differs in its Unicode form or in the case of its ending. Raises
        :class:`InputError` for a name that leads outside.
        """
        exact = safe_join(self.root, name)
        if exact.is_file():
            return exact
        found = Path()
        for part in Path(name).parts:
            actual = self._entries(found).get(_key(part))
            if actual is None:
                return None
            found /= actual
        path = safe_join(self.root, found)
        return path if path.is_file() else None

    def walk(self) -> Iterator[Path]:
        """Yield every file that is not hidden, relative to the root, sorted. Links to folders are not followed.

        Raises :class:`DataError` for a folder that cannot be read.
        """
        found = []
        for folder, below, files in os.walk(self.root, onerror=_refuse):
            below[:] = [name for name in below if not _hidden(name)]
            found += [Path(folder, name).relative_to(self.root) for name in files if not _hidden(name)]
        yield from sorted(found)

    def _entries(self, folder: Path) -> dict[str, str]:
        """Return the names in a folder by :func:`_key`. Of two that share one, the first in order counts."""
        if folder not in self._names:
            entries: dict[str, str] = {}
            try:
                names = sorted(os.listdir(safe_join(self.root, folder) if folder.parts else self.root))
            except (OSError, InputError):
                names = []
            for name in names:
                entries.setdefault(_key(name), name)
            self._names[folder] = entries
        return self._names[folder]


def _refuse(error: OSError) -> None:
    raise DataError(f"the folder {error.filename} cannot be read ({error.strerror}); check who may read it") from error


def shown(path: Path) -> str:
    """Return a path for a message; a name that is not UTF-8 is escaped."""
    text = path.as_posix()
    return text if is_text(text) else ascii(text)


def _hidden(name: str) -> bool:
    return name.startswith(".") or name == "__MACOSX"


def _key(name: str) -> str:
    path = Path(unicodedata.normalize("NFC", name))
    return path.stem + path.suffix.lower()
