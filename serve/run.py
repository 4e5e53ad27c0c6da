"""The service as one process: FastAPI, one worker thread, SQLite."""

from __future__ import annotations

import logging
import signal

import uvicorn

from .app import create_app
from .keys import Keys
from .local import ThreadBackend
from .logs import log_to_stderr
from .service import Service
from .settings import Settings
from .worker import Worker

log = logging.getLogger("rapiddraw.serve")
_HEADER_SECONDS = 15


def serve(settings: Settings, keys: Keys, log_form: str = "json") -> int:
    """Serve until SIGINT or SIGTERM, then let the running job end. Return the exit code."""
    log_to_stderr(log_form)
    worker = Worker(settings.engine, settings.data / "scratch", settings.shared_uploads)
    service = Service(settings, ThreadBackend(worker))
    app = create_app(service, keys)
    config = uvicorn.Config(
        app, host=settings.host, port=settings.port, log_level="warning", access_log=False, timeout_keep_alive=_HEADER_SECONDS,
        server_header=False, ws_max_size=2**20, timeout_graceful_shutdown=5, lifespan="on",
    )  # fmt: skip
    server = uvicorn.Server(config)
    for number in (signal.SIGINT, signal.SIGTERM):  # uvicorn answers them, and raises them again when it has ended
        signal.signal(number, lambda *_: None)
    log.info("listening on http://%s:%s; the graphs are %s", settings.host, settings.port, ", ".join(service.catalog.graphs))
    server.run()
    return 0 if server.started else 1
