"""The service on Ray Serve: one deployment takes requests and keeps the jobs, another draws, with as many replicas as there is work.

Jobs stay in SQLite. As many are handed to Ray as there may be replicas, because Ray adds replicas by the number of requests that run or
wait with it. Requests go to a replica that holds the models which their graph names (multiplexing).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import threading
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import ray
from fastapi import FastAPI
from ray import serve

from ..core.checks import real_number, whole_number
from ..core.errors import InputError
from ..core.graph.formats import Graph
from .app import create_app
from .keys import Keys
from .logs import log_to_stderr
from .replica import Replica
from .service import Service
from .settings import Settings
from .store import Job
from .uploads import uploaded
from .worker import Done, Task, Worker, models_key

log = logging.getLogger("rapiddraw.serve")
APP, WORKER, FRONT = "rapiddraw", "Worker", "Front"
_LOOK_SECONDS, _COUNT_SECONDS = 5.0, 2.0
_MOST_REQUESTS, _PROXY_TRIES = 2000, 5
_QUIET = {"enable_access_log": False}
_ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",  # nothing is sent to Ray's makers
    "RAY_worker_niceness": "0",  # its 15 lets replicas starve beside any other program
    "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "60",  # its 5 s are too few where processes start slowly
    "RAY_SERVE_PROXY_HEALTH_CHECK_TIMEOUT_S": "60",
}


@dataclass(frozen=True)
class Cluster:
    """How many replicas there are, and what each one takes.

    `address`: of the cluster; "local" starts one on this machine. `front`: a custom resource of the node whose disk keeps the jobs; ""
    where there is one node.
    """

    address: str = "local"
    least: int = 1
    most: int = 2
    cpus: float = 1.0
    gpus: float = 0.0
    front: str = ""

    def __post_init__(self) -> None:
        whole_number("the fewest replicas", self.least, 1, 100_000)
        whole_number("the most replicas", self.most, self.least, 100_000)
        real_number("the CPUs of a replica", self.cpus, 0, 10_000)
        real_number("the GPUs of a replica", self.gpus, 0, 10_000)


class RayBackend:
    """See :class:`~.service.Backend`. Lives in the event loop of the front deployment."""

    def __init__(self, settings: Settings, cluster: Cluster) -> None:
        self._checker = Worker(settings.engine, settings.data / "scratch", settings.shared_uploads)
        self.registry, self._most = self._checker.registry, cluster.most
        self._runs: dict[str, Any] = {}
        self._stopped: set[str] = set()
        self._counted, self._replicas = 0.0, 0
        self._loop: asyncio.AbstractEventLoop | None = None
        self._is_stopping = False

    def attach(self) -> None:
        """Take the event loop that jobs are handed out in. Called inside it, before the service starts."""
        self._loop, self._work = asyncio.get_running_loop(), asyncio.Event()
        self._handle = serve.get_deployment_handle(WORKER, app_name=APP)

    def start(self, service: Service) -> None:
        """See :meth:`Backend.start`."""
        assert self._loop is not None  # noqa: S101 - attach() was called
        asyncio.run_coroutine_threadsafe(self._hand_out(service), self._loop)

    def wake(self) -> None:
        """See :meth:`Backend.wake`."""
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._work.set)

    def check(self, graph: Graph, input_dir: Path | None) -> None:
        """See :meth:`Backend.check`."""
        self._checker.check(graph, input_dir)

    def cancel(self, job: str) -> None:
        """See :meth:`Backend.cancel`."""
        self._stopped.add(job)
        run = self._runs.get(job)
        if run is not None and self._loop is not None:
            self._loop.call_soon_threadsafe(run.cancel)

    def replicas(self) -> int:
        """See :meth:`Backend.replicas`. Asked of Ray at most every two seconds."""
        if time.monotonic() - self._counted > _COUNT_SECONDS:
            deployment = serve.status().applications[APP].deployments.get(WORKER)
            self._replicas = deployment.replica_states.get("RUNNING", 0) if deployment else 0
            self._counted = time.monotonic()
        return self._replicas

    def stop(self, seconds: float) -> None:
        """See :meth:`Backend.stop`."""
        self._is_stopping = True
        self.wake()
        ends = time.monotonic() + seconds
        while self._runs and time.monotonic() < ends:
            time.sleep(0.05)
        for job in list(self._runs):
            self.cancel(job)
        while self._runs and time.monotonic() < ends + seconds:
            time.sleep(0.05)

    async def _hand_out(self, service: Service) -> None:
        with contextlib.suppress(Exception):
            await self._handle.ping.remote()  # answers once a replica is warm
            service.is_ready.set()
        tasks: set[asyncio.Task[None]] = set()

        def freed(task: asyncio.Task[None]) -> None:
            tasks.discard(task)
            self._work.set()

        while not self._is_stopping:
            self._work.clear()
            job = await asyncio.to_thread(service.claim) if len(tasks) < self._most else None
            if job is not None:
                task = asyncio.create_task(self._one(service, job))
                tasks.add(task)
                task.add_done_callback(freed)
                continue
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._work.wait(), _LOOK_SECONDS)

    async def _one(self, service: Service, job: Job) -> None:
        """Give one job to a replica and pass on what it says."""
        task = service.task(job)
        options = {"stream": True, "multiplexed_model_id": models_key(job.graph)}
        ended = False
        try:
            run = self._handle.options(**options).run.remote(task, await asyncio.to_thread(_inputs, task))
            self._runs[job.id] = run
            if job.id in self._stopped:
                run.cancel()
            async for kind, data in run:
                if kind == "began":
                    await asyncio.to_thread(service.began, job)
                elif kind == "done":
                    ended = True
                    await asyncio.to_thread(service.finished, job, Done(**data))
                elif kind == "failed":
                    ended = True
                    await asyncio.to_thread(service.ended_badly, job, data["entry"], data["is_stopped"])
                else:
                    service.tell(job, kind, data)
        except (Exception, asyncio.CancelledError) as error:
            log.warning("a replica gave no answer (%s)", type(error).__name__, extra={"job": job.id})
        finally:
            self._runs.pop(job.id, None)
            if not ended:
                await asyncio.to_thread(self._without_answer, service, job)
            self._stopped.discard(job.id)

    def _without_answer(self, service: Service, job: Job) -> None:
        """End a job that was stopped; give one whose replica died back."""
        if job.id in self._stopped:
            service.ended_badly(job, {"type": "Cancelled", "message": "stopped at the user's request"}, True)
        else:
            service.lost(job, "the replica died")


def _inputs(task: Task) -> dict[str, bytes]:
    """The uploaded pictures that a graph names, for a replica on another machine."""
    if task.input_dir is None:
        return {}
    named = {
        value.removesuffix("[input]").rstrip()
        for node in task.graph.values() for value in node.get("inputs", {}).values() if isinstance(value, str)
    }  # fmt: skip
    return {name: (task.input_dir / name).read_bytes() for name in uploaded(task.input_dir) if name in named}


def application(settings: Settings, keys: Keys, cluster: Cluster) -> Any:
    """Return the application that `serve.run` takes."""

    class Front:
        """Takes requests and keeps the jobs; one replica, because it owns the database."""

        def __init__(self, workers: Any) -> None:
            log_to_stderr("json")

        def __serve_build_asgi_app__(self) -> FastAPI:
            backend = RayBackend(settings, cluster)
            return create_app(Service(settings, backend), keys, backend.attach)

    workers = serve.deployment(Replica).options(
        name=WORKER, max_ongoing_requests=1, ray_actor_options={"num_cpus": cluster.cpus, "num_gpus": cluster.gpus},
        graceful_shutdown_timeout_s=settings.limits.job_seconds, health_check_timeout_s=120, logging_config=_QUIET,
        autoscaling_config={
            "min_replicas": cluster.least, "max_replicas": cluster.most, "target_ongoing_requests": 1,
            "upscale_delay_s": 5, "downscale_delay_s": 60,
        },
    )  # fmt: skip
    front = serve.deployment(serve.ingress()(Front)).options(
        name=FRONT, num_replicas=1, max_ongoing_requests=_MOST_REQUESTS, 
        ray_actor_options={"num_cpus": 0, "resources": {cluster.front: 0.001} if cluster.front else {}},
        graceful_shutdown_timeout_s=2 * settings.drain_seconds + 10, logging_config=_QUIET,
    )  # fmt: skip
    return front.bind(workers.bind(settings.engine, warm_up_task(settings)))


def build(args: dict[str, Any]) -> Any:
    """Return the application for `serve run rapiddraw.serve.cluster:build` and for KubeRay.

    `args`: `graphs` (separated by spaces), `data`, and the fields of :class:`Cluster`. Keys come from `data` and `$RAPIDDRAW_API_KEYS`;
    without any the application is refused, because Ray's proxy may listen on every address.
    """
    given = dict(args)
    data = Path(given.pop("data", "served")).resolve()
    settings = Settings(graphs=tuple(str(given.pop("graphs", "text_to_image")).split()), data=data, host="0.0.0.0")  # noqa: S104
    keys = Keys(data / "keys.json", os.environ.get("RAPIDDRAW_API_KEYS", "").split(","))
    if not len(keys):
        raise InputError("there is no API key: set RAPIDDRAW_API_KEYS, or make one with `python -m rapiddraw serve --new-key NAME`")
    return application(settings, keys, Cluster(**given))


def warm_up_task(settings: Settings) -> Task | None:
    """Return the graph that every replica draws before it takes jobs; None where there is none."""
    from ..nodes.registry import registry
    from .catalog import Catalog

    if settings.warm_up == "" or settings.engine == "comfy":
        return None
    catalog = Catalog(settings, registry())
    name = next(iter(catalog.graphs)) if settings.warm_up is None else settings.warm_up
    return Task("warm-up", catalog.named(name).to_api(registry()))


def _start_proxy(settings: Settings) -> None:
    """Start Ray's HTTP proxy; its own patience of a minute is too short on a busy machine."""
    for left in reversed(range(_PROXY_TRIES)):
        try:
            serve.start(http_options={"host": settings.host, "port": settings.port})
            return
        except TimeoutError:
            if not left:
                raise


def serve_on_ray(settings: Settings, keys: Keys, cluster: Cluster) -> int:
    """Serve until SIGINT or SIGTERM. Return the exit code."""
    log_to_stderr("json")
    graphs = tuple(str(Path(graph).resolve()) if Path(graph).exists() else graph for graph in settings.graphs)
    settings = replace(settings, data=settings.data.resolve(), graphs=graphs)  # Ray's processes may run in another folder
    ended = threading.Event()
    for name, value in _ENVIRONMENT.items():  # Ray's own processes get them from this one
        os.environ.setdefault(name, value)
    ray.init(address=None if cluster.address == "local" else cluster.address, include_dashboard=False, log_to_driver=True)
    for number in (signal.SIGINT, signal.SIGTERM):  # after `init`, which puts handlers of its own that end in an abort
        signal.signal(number, lambda *_: ended.set())
    try:
        _start_proxy(settings)
        serve.run(application(settings, keys, cluster), name=APP, route_prefix="/")
        log.info("listening on http://%s:%s", settings.host, settings.port)
        ended.wait()
        return 0
    finally:
        serve.shutdown()
        ray.shutdown()
