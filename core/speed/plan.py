"""Options of an acceleration, and the decision for each group of blocks."""

from __future__ import annotations

from dataclasses import dataclass

from ..errors import InputError
from .compiler import Compiled
from .regions import Group

WHEN = ("when it pays", "at once", "never")
PRECISIONS = ("keep", "auto")


@dataclass(frozen=True)
class Options:
    """How a network may be accelerated. Raises :class:`InputError` for other values.

    `precision` "auto" uses bf16 where the result stays equal; `compile` is one of :data:`WHEN`; after `budget` seconds (0 to 3600) of
    measuring and compiling no further compilation begins.
    """

    precision: str = "keep"
    compile: str = "when it pays"
    budget: float = 30.0

    def __post_init__(self) -> None:
        if self.precision not in PRECISIONS:
            raise InputError(f"precision is {self.precision!r}: give {' or '.join(PRECISIONS)}")
        if self.compile not in WHEN:
            raise InputError(f"compile is {self.compile!r}: give one of {', '.join(WHEN)}")
        if not 0 <= self.budget <= 3600:
            raise InputError(f"budget is {self.budget}; it must lie between 0 and 3600 seconds")


@dataclass
class Plan:
    """How the blocks of a group compute. `eager` and `now` are the seconds of one block, before and after the decision; `share` is the
    group's part of the time of all groups."""

    group: Group
    bf16: bool = False
    compiled: Compiled | None = None
    eager: float = 0.0
    now: float = 0.0
    share: float = 0.0

    @property
    def changed(self) -> bool:
        return self.bf16 or self.compiled is not None

    def how(self) -> str:
        """Return the decision in words."""
        return " ".join([*["compiled"] * (self.compiled is not None), *["bf16"] * self.bf16]) or "eager"

    def line(self) -> str:
        """Return one line of a report."""
        count = f"{self.group.kind:<14}x{len(self.group.modules):<3}"
        return f"{count}{self.share:>6.1%} of the time{self.eager * 1000:>10.2f} ms eager{self.now * 1000:>10.2f} ms {self.how()}"
