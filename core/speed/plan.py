"""What may be done to a network, and what was decided for each group of its blocks."""

from __future__ import annotations

from dataclasses import dataclass

from ..errors import InputError
from .compiler import Compiled
from .regions import Group

WHEN = ("when it pays", "at once", "never")
PRECISIONS = ("keep", "auto")


@dataclass(frozen=True)
class Options:
    """How a network may be sped up. `precision` "auto" lets bf16 in where it holds; `compile` is one of :data:`WHEN`; after `budget`
    seconds (0..3600) of measuring and compiling no further compilation is begun. Raises :class:`InputError` for anything else."""

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
    """How the blocks of a group compute. `eager` and `now` are seconds of one block, before and as decided; `share` is the group's part
    of the time that all groups took."""

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
        """In words."""
        return " ".join([*["compiled"] * (self.compiled is not None), *["bf16"] * self.bf16]) or "eager"

    def line(self) -> str:
        """One line of a report."""
        count = f"{self.group.kind:<14}x{len(self.group.modules):<3}"
        return f"{count}{self.share:>6.1%} of the time{self.eager * 1000:>10.2f} ms eager{self.now * 1000:>10.2f} ms {self.how()}"
