"""The HTTP application of a service."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable

from fastapi import FastAPI, Request
from starlette.concurrency import run_in_threadpool
from starlette.responses import JSONResponse

from ..core.errors import InputError
from . import comfy, comfy_v2, operations, people, sockets
from .guard import Guard
from .http import error_answer
from .keys import Keys
from .object_info import ObjectInfo
from .service import Service

DESCRIPTION = "Draw pictures with saved ComfyUI graphs. `POST /generate` is the short way; ComfyUI's own API is here too."


def create_app(service: Service, keys: Keys, attach: Callable[[], object] = lambda: None) -> FastAPI:
    """Return the application. It starts the service with its event loop and stops it at the end. `attach` is called inside the loop
    before that."""

    @contextlib.asynccontextmanager
    async def life(app: FastAPI) -> AsyncIterator[None]:
        attach()
        await run_in_threadpool(service.start)
        yield
        await run_in_threadpool(service.stop)

    app = FastAPI(title="RapidDraw", description=DESCRIPTION, lifespan=life)
    info = ObjectInfo(service.backend.registry)
    for routes in (operations.router(service), people.router(service), comfy.router(service, info), sockets.router(service)):
        app.include_router(routes)
    app.include_router(comfy_v2.router(service))
    app.include_router(comfy.router(service, info), prefix="/api", include_in_schema=False)
    app.include_router(sockets.router(service), prefix="/api")

    @app.exception_handler(InputError)
    async def refused(request: Request, error: InputError) -> JSONResponse:
        return error_answer(error)

    app.add_middleware(Guard, service=service, keys=keys)
    return app
