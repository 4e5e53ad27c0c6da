"""ComfyUI's WebSocket: status, progress, previews and results of a client's jobs."""

from __future__ import annotations

import asyncio
import base64
import json
import struct
import uuid

from fastapi import APIRouter, WebSocket
from starlette.websockets import WebSocketDisconnect

from .hub import PREVIEW, Message
from .service import Service

_PREVIEW_IMAGE, _JPEG = 1, 1


def router(service: Service) -> APIRouter:
    """Return the route `/ws`."""
    routes = APIRouter()

    @routes.websocket("/ws")
    async def listen(socket: WebSocket) -> None:
        owner = socket.state.client.name
        sid = socket.query_params.get("clientId", "")[:200] or uuid.uuid4().hex
        if len(service.hub) >= service.settings.limits.clients:
            await socket.close(1013)
            return

        def wants(message: Message) -> bool:
            return message.kind == "status" or (message.owner == owner and message.client in ("", sid))

        await socket.accept()
        with service.hub.listening(wants) as queue:
            remaining = service.store.count("queued", "running")
            status = {"status": {"exec_info": {"queue_remaining": remaining}}, "sid": sid}
            await socket.send_text(json.dumps({"type": "status", "data": status}))
            reading = asyncio.create_task(_read(socket))
            try:
                while not reading.done():
                    waiting = asyncio.create_task(queue.get())
                    await asyncio.wait((waiting, reading), return_when=asyncio.FIRST_COMPLETED)
                    if not waiting.done():
                        waiting.cancel()
                        break
                    await _send(socket, waiting.result())
            except (WebSocketDisconnect, RuntimeError):
                pass  # the client has gone
            finally:
                reading.cancel()

    return routes


async def _read(socket: WebSocket) -> None:
    """Read what the client says, which changes nothing, until it goes."""
    while True:
        message = await socket.receive()
        if message["type"] == "websocket.disconnect":
            return


async def _send(socket: WebSocket, message: Message) -> None:
    if message.kind == PREVIEW:
        picture = base64.b64decode(message.data["jpeg"])
        await socket.send_bytes(struct.pack(">II", _PREVIEW_IMAGE, _JPEG) + picture)
    else:
        await socket.send_text(json.dumps({"type": message.kind, "data": message.data}))
