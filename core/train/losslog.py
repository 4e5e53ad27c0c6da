"""The log of a run: one line of JSON every few steps, which holds the means since the line before."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from ..files import replacing
from .writing import tried


class LossLog:
    """The means of a run's numbers, written to `path` by the process that has `writes` set.

    `pending` holds the sums and counts since the last line, `metrics` the last numbers of each name, `seconds` the time that the steps
    took. A checkpoint holds all three.
    """

    def __init__(self, path: Path, every: int, writes: bool) -> None:
        self.path, self.every, self.writes = path, every, writes
        self.pending: dict[str, list[float]] = {}
        self.metrics: dict[str, float] = {}
        self.seconds = 0.0

    def add(self, scalars: Mapping[str, float]) -> None:
        """Add numbers to the sums of the next line."""
        for key, value in scalars.items():
            entry = self.pending.setdefault(key, [0.0, 0.0])
            entry[0] += value
            entry[1] += 1

    def set(self, scalars: Mapping[str, float]) -> None:
        """Put numbers into the next line as they are, instead of the means under the same names."""
        self.pending |= {key: [value, 1.0] for key, value in scalars.items()}

    def record(self, step: int, scalars: Mapping[str, float], last: bool) -> None:
        """Add the numbers of the step just finished; write a line where one is due. A line holds the last learning rate, not its mean."""
        self.add(scalars)
        if step % self.every and not last:
            return
        line = {key: total / count for key, (total, count) in self.pending.items()}
        line["lr"] = scalars["lr"]
        self.pending = {}
        self.metrics |= line
        if self.writes:
            text = json.dumps({"step": step, **line, "seconds": round(self.seconds, 2)})
            tried(lambda: self._append(text), f"writing {self.path} at step {step}")

    def _append(self, text: str) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(text + "\n")

    def cut(self, step: int) -> None:
        """Remove the lines after `step`, which a resumed run will write again."""
        if self.writes and self.path.is_file():
            kept = [line for line in self.path.read_text(encoding="utf-8").splitlines(True) if _step_of(line) <= step]
            with replacing(self.path) as temporary:
                temporary.write_text("".join(kept), encoding="utf-8")

    def losses(self) -> list[tuple[int, float]]:
        """Return the (step, loss) pairs of the file."""
        lines = self.path.read_text(encoding="utf-8").splitlines() if self.path.is_file() else []
        return [(int(line["step"]), float(line["loss"])) for line in map(json.loads, lines)]


def _step_of(line: str) -> int:
    try:
        return int(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):  # a crash left half a line
        return 2**62
