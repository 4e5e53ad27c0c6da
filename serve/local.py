"""The default backend: one worker in one thread of this process."""

from __future__ import annotations

import logging
import threading
from pathlib import Path

from ..core.graph.formats import Graph
from .service import Service
from .worker import Worker

log = logging.getLogger("rapiddraw.serve")
_LOOK_SECONDS = 5.0


class ThreadBackend:
    """See :class:`~.service.Backend`."""

    def __init__(self, worker: Worker) -> None:
        self._worker, self.registry = worker, worker.registry
        self._work, self._stopping = threading.Event(), threading.Event()
        self._thread: threading.Thread | None = None

    def start(self, service: Service) -> None:
        """See :meth:`Backend.start`."""
        self._thread = threading.Thread(target=self._loop, args=(service,), name="rapiddraw-worker", daemon=True)
        self._thread.start()

    def wake(self) -> None:
        """See :meth:`Backend.wake`."""
        self._work.set()

    def check(self, graph: Graph, input_dir: Path | None) -> None:
        """See :meth:`Backend.check`."""
        self._worker.check(graph, input_dir)

    def cancel(self, job: str) -> None:
        """See :meth:`Backend.cancel`."""
        self._worker.cancel(job)

    def replicas(self) -> int:
        """See :meth:`Backend.replicas`."""
        return int(self._thread is not None and self._thread.is_alive())

    def stop(self, seconds: float) -> None:
        """See :meth:`Backend.stop`."""
        self._stopping.set()
        self.wake()
        if self._thread is None:
            return
        self._thread.join(seconds)
        if self._thread.is_alive():
            self._worker.cancel(self._worker.current)
            self._thread.join(seconds)

    def _loop(self, service: Service) -> None:
        self._warm_up(service)
        while not self._stopping.is_set():
            self._work.clear()
            try:
                is_idle = not self._one(service)
            except Exception:
                log.exception("the worker could not take or record a job; it tries again")
                is_idle = True
            if is_idle:
                self._work.wait(_LOOK_SECONDS)

    def _warm_up(self, service: Service) -> None:
        try:
            task = service.warm_up()
            if task is not None:
                self._worker.run(task, lambda kind, data: None)
            service.is_ready.set()
        except Exception:
            log.exception("the warm-up graph failed; the service is not ready, but takes jobs")
        finally:
            self._worker.clean("warm-up")

    def _one(self, service: Service) -> bool:
        """Run the next job. False where none waits."""
        job = service.claim()
        if job is None:
            return False
        service.began(job)
        try:
            done = self._worker.run(service.task(job), lambda kind, data: service.tell(job, kind, data))
            service.finished(job, done)
        except Exception as error:
            service.failed(job, error)
        finally:
            self._worker.clean(job.id)
        return True
