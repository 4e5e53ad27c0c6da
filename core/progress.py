"""Progress bars and cancellation.

The library reports to a :class:`Progress`, whatever draws it: a terminal bar by default (tqdm), or ComfyUI's own bar where its host sets a
reporter with :func:`set_reporter`. Every report also checks for a request to stop, so that a loop that reports its steps can be cancelled
without further code.
"""

from __future__ import annotations

import contextlib
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any, ClassVar, Protocol, TypeVar

from .errors import Cancelled

T = TypeVar("T")
_cancel = threading.Event()


class Reporter(Protocol):
    """The object that draws one bar. `advance` may raise to stop the work, as ComfyUI's own interrupt does."""

    def advance(self, count: int, info: dict[str, Any], preview: Any = None) -> None: ...

    def close(self) -> None: ...


class TerminalReporter:
    """A tqdm bar on stderr with the rate in steps per second; silent where stderr is not a terminal.

    A bar inside another one is not drawn, so that there is one line in every terminal, one that cannot move its cursor up included.
    """

    _open: ClassVar[list[TerminalReporter]] = []

    def __init__(self, total: int, label: str, unit: str) -> None:
        from tqdm import tqdm

        self._bar = tqdm(
            total=total,
            desc=label,
            unit=unit,
            file=sys.stderr,
            disable=bool(self._open) or not sys.stderr.isatty(),
            dynamic_ncols=True,
            leave=False,
        )
        self._open.append(self)

    def advance(self, count: int, info: dict[str, Any], preview: Any = None) -> None:
        if info:
            self._bar.set_postfix(info, refresh=False)
        self._bar.update(count)

    def close(self) -> None:
        self._bar.close()
        if self in self._open:
            self._open.remove(self)

    @classmethod
    @contextlib.contextmanager
    def aside(cls) -> Iterator[None]:
        """Take the bar off its line while a block writes to the terminal, and draw it again below what was written."""
        bar = cls._open[0]._bar if cls._open and not cls._open[0]._bar.disable else None
        if bar is not None:
            bar.clear()
        try:
            yield
        finally:
            if bar is not None:
                bar.refresh()


_make_reporter: Callable[[int, str, str], Reporter] = TerminalReporter
_cancel_check: Callable[[], object] | None = None


def set_reporter(make: Callable[[int, str, str], Reporter] | None) -> None:
    """Choose the reporter: `make(total, label, unit) -> Reporter`. `None` restores the terminal bar."""
    global _make_reporter
    _make_reporter = make or TerminalReporter


def request_cancel() -> None:
    """Ask the running work to stop at its next step. Safe to call from a signal handler or another thread."""
    _cancel.set()


def clear_cancel() -> None:
    """Forget an earlier request, before a new run."""
    _cancel.clear()


def set_cancel_check(check: Callable[[], object] | None) -> None:
    """Set a host's own check for a stop: `check()` raises where a stop was requested. `None` removes it."""
    global _cancel_check
    _cancel_check = check


def raise_if_cancelled() -> None:
    """Raise :class:`~.errors.Cancelled`, or what the host raises, where a stop was requested."""
    if _cancel_check is not None:
        _cancel_check()
    if _cancel.is_set():
        raise Cancelled("stopped at the user's request")


class Progress:
    """One bar over `total` steps, used as a context manager.

    >>> with Progress(20, "sampling") as bar:
    ...     for _ in range(20):
    ...         bar.update(loss=0.1)
    """

    def __init__(self, total: int, label: str = "", unit: str = "step") -> None:
        self.total, self.done = total, 0
        raise_if_cancelled()
        self._reporter = _make_reporter(total, label, unit)

    def update(self, count: int = 1, preview: Any = None, **info: Any) -> None:
        """Report `count` finished steps. Raises :class:`Cancelled` where a stop was requested."""
        self.done += count
        self._reporter.advance(count, info, preview)
        raise_if_cancelled()

    def close(self) -> None:
        self._reporter.close()

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def track(items: Iterable[T], total: int, label: str = "", unit: str = "step") -> Iterator[T]:
    """Yield `items` under one bar, a step each."""
    with Progress(total, label, unit) as bar:
        for item in items:
            yield item
            bar.update()
