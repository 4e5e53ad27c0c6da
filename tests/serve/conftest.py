"""A service with a tiny graph, in this process. Its tests are left out by name where the extra `serve` is not installed."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

pytest.importorskip("fastapi", reason='the extra "serve" is not installed')
pytest.importorskip("httpx", reason="Starlette's test client needs httpx")

from rapiddraw.serve.app import create_app
from rapiddraw.serve.keys import Keys
from rapiddraw.serve.local import ThreadBackend
from rapiddraw.serve.service import Service
from rapiddraw.serve.settings import Settings
from rapiddraw.serve.worker import Worker
from starlette.testclient import TestClient

GRAPH = {
    "1": {
        "class_type": "EmptyImage",
        "inputs": {"width": 16, "height": 16, "batch_size": 1, "color": 255},
        "_meta": {"title": "Colour"},
    },
    "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "blue"}},
}
BASE = "http://127.0.0.1"


def eventually(ask: Callable[[], Any], seconds: float = 60.0) -> Any:
    """The first true answer of `ask`."""
    ends = time.monotonic() + seconds
    while time.monotonic() < ends:
        if answer := ask():
            return answer
        time.sleep(0.01)
    raise AssertionError("it did not happen in time")


@pytest.fixture
def graph() -> dict[str, Any]:
    return copy.deepcopy(GRAPH)


@pytest.fixture(scope="session")
def make_graph(tmp_path_factory: pytest.TempPathFactory) -> str:
    import json

    path = tmp_path_factory.mktemp("graphs") / "blue.json"
    path.write_text(json.dumps(GRAPH), encoding="utf-8")
    return str(path)


class Serving:
    """One running service: `client` asks it, `service` is its inside."""

    def __init__(self, settings: Settings, given: tuple[str, ...] = ()) -> None:
        self.settings = settings
        self.service = Service(settings, ThreadBackend(Worker("embedded", settings.data / "scratch")))
        self.app = create_app(self.service, Keys(settings.data / "keys.json", given))

    def ended(self, job_id: str) -> Any:
        """The job once it has ended."""

        def over() -> Any:
            job = self.service.store.get(job_id)
            return job if job is not None and job.is_over else None

        return eventually(over)


@pytest.fixture
def serving(tmp_path, make_graph) -> Iterator[Callable[..., tuple[TestClient, Serving]]]:
    """`serving(mark=True, ...)` starts a service with these settings and gives (client, service)."""
    started = []

    def start(given: tuple[str, ...] = (), **settings: Any) -> tuple[TestClient, Serving]:
        own = {"graphs": (make_graph,), "data": tmp_path / "data", "warm_up": "", **settings}
        server = Serving(Settings(**own), given)
        client = TestClient(server.app, base_url=BASE)
        client.__enter__()
        started.append(client)
        return client, server

    yield start
    for client in started:
        client.__exit__(None, None, None)
