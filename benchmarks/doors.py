"""Doors of the pack: places that hostile inputs come through, each with the function that a node or a command calls there."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

Attempt = tuple[str, Callable[[], Any]]
"""What was tried, in words, and the call that may refuse it."""


class Door:
    """One way in. `share` is its part of all inputs; `made` are inputs made by hand, which come first."""

    name = ""
    share = 1.0

    def __init__(self, folder: Path) -> None:
        self.folder = folder / self.name.replace(" ", "-").replace(",", "").replace("/", "-")
        self.folder.mkdir(parents=True, exist_ok=True)
        self.made: list[tuple[str, Any]] = []
        self.prepare()

    def prepare(self) -> None:
        """Make the good inputs, and those made by hand."""

    def attempt(self, index: int, rng: random.Random) -> Attempt:
        """Return input number `index`: one made by hand, then mutations by `rng`."""
        if index < len(self.made):
            label, data = self.made[index]
            return label, self.call(data, label)
        data = self.mutation(rng)
        return f"mutation {index}", self.call(data, str(index))

    def mutation(self, rng: random.Random) -> Any:
        """Return a mutated input."""
        raise NotImplementedError

    def call(self, data: Any, label: str) -> Callable[[], Any]:
        """Write the input where it belongs and return the call that reads it."""
        raise NotImplementedError

    def file(self, data: bytes, name: str) -> Path:
        """Write `data` to a file of this door and return its path."""
        path = self.folder / name
        path.write_bytes(data)
        return path
