"""Messages from workers to clients. Each listener has a queue of its own; a slow one loses messages and holds up nobody."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

PREVIEW = "preview"
_MOST_WAITING, _MOST_BEFORE_PREVIEW = 1000, 20


@dataclass(frozen=True)
class Message:
    """One message. `job`, `client` and `owner` say whom it concerns."""

    kind: str
    data: dict[str, Any]
    job: str = ""
    client: str = ""
    owner: str = ""


class Hub:
    """Listeners and the way to reach them from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._listeners: dict[int, tuple[asyncio.AbstractEventLoop, asyncio.Queue[Message], Callable[[Message], bool]]] = {}
        self._next = 0

    def __len__(self) -> int:
        return len(self._listeners)

    @contextmanager
    def listening(self, wants: Callable[[Message], bool]) -> Iterator[asyncio.Queue[Message]]:
        """Yield a queue of the messages that `wants` is true for. Called inside the event loop that reads the queue."""
        queue: asyncio.Queue[Message] = asyncio.Queue(_MOST_WAITING)
        with self._lock:
            self._next += 1
            number = self._next
            self._listeners[number] = (asyncio.get_running_loop(), queue, wants)
        try:
            yield queue
        finally:
            with self._lock:
                self._listeners.pop(number, None)

    def send(self, message: Message) -> None:
        """Give a message to every listener that wants it. Safe from any thread; never waits."""
        with self._lock:
            reached = [(loop, queue) for loop, queue, wants in self._listeners.values() if wants(message)]
        for loop, queue in reached:
            try:
                loop.call_soon_threadsafe(_put, queue, message)
            except RuntimeError:  # the loop has ended since
                continue


def _put(queue: asyncio.Queue[Message], message: Message) -> None:
    """Add a message where there is room. Previews are large and soon old: a listener that is behind gets none."""
    if not queue.full() and (message.kind != PREVIEW or queue.qsize() < _MOST_BEFORE_PREVIEW):
        queue.put_nowait(message)
