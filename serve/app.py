"""The HTTP application of a service."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator

from fastapi import FastAPI
from starlette.concurrency import run_in_threadpool

from . import operations, people
from .guard import Guard
from .keys import Keys
from .service import Service

DESCRIPTION = "Draw pictures with saved ComfyUI graphs. `POST /generate` is the short way; ComfyUI's own API is here too."


def create_app(service: Service, keys: Keys) -> FastAPI:
    """Return the application. It starts the service with its event loop and stops it at the end."""

    @contextlib.asynccontextmanager
    async def life(app: FastAPI) -> AsyncIterator[None]:
        await run_in_threadpool(service.start)
        yield
        await run_in_threadpool(service.stop)

    app = FastAPI(title="RapidDraw", description=DESCRIPTION, lifespan=life)
    for module in (operations, people):
        app.include_router(module.router(service))
    app.add_middleware(Guard, service=service, keys=keys)
    return app
