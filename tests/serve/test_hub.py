"""Messages to listeners: only those that are wanted, and a slow listener holds up nobody."""

from __future__ import annotations

import asyncio
import threading

from rapiddraw.serve.hub import PREVIEW, Hub, Message


def test_listeners_get_what_they_want_from_any_thread():
    async def listen() -> list[str]:
        hub = Hub()
        with hub.listening(lambda message: message.job == "a") as queue:
            assert len(hub) == 1
            threading.Thread(target=lambda: [hub.send(Message(f"m{n}", {}, job="ab"[n % 2])) for n in range(6)]).start()
            kinds = [(await asyncio.wait_for(queue.get(), 10)).kind for _ in range(3)]
        assert len(hub) == 0
        return kinds

    assert asyncio.run(listen()) == ["m0", "m2", "m4"]


def test_a_listener_that_is_behind_loses_messages_and_previews_first():
    async def listen() -> list[str]:
        hub = Hub()
        with hub.listening(lambda message: True) as queue:
            for _ in range(100):
                hub.send(Message(PREVIEW, {}))
            for _ in range(2000):
                hub.send(Message("progress", {}))
            await asyncio.sleep(0)
            return [queue.get_nowait().kind for _ in range(queue.qsize())]

    kinds = asyncio.run(listen())
    assert kinds.count(PREVIEW) == 20 and len(kinds) == 1000


def test_a_listener_whose_loop_has_ended_is_passed_over():
    hub = Hub()

    async def leave() -> None:
        hub.listening(lambda message: True).__enter__()

    asyncio.run(leave())
    hub.send(Message("status", {}))
