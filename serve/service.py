"""The service without its HTTP: takes jobs, keeps them, hands them to workers, and tells clients what happens."""

from __future__ import annotations

import logging
import threading
import time
from pathlib import Path
from typing import Any, Protocol

from ..core.errors import Cancelled
from ..core.graph.edit import with_seed
from ..core.graph.formats import Graph, read_graph
from ..core.graph.inputs import Registry
from ..core.paths import safe_join
from .catalog import Catalog
from .hub import Hub, Message
from .meters import Meters
from .settings import Settings
from .storage import storage
from .store import Job, JobStore, NewJob
from .worker import Done, OutOfTime, Task, failure

log = logging.getLogger("rapiddraw.serve")
LOCAL = "local"
"""The owner of every job where no keys are used."""
DAY, HOUR = 86400.0, 3600.0


class Backend(Protocol):
    """What runs jobs: a thread of this process, or replicas of Ray Serve."""

    registry: Registry

    def start(self, service: Service) -> None:
        """Begin to claim jobs."""
        ...

    def wake(self) -> None:
        """Look for a new job."""
        ...

    def check(self, graph: Graph, input_dir: Path | None) -> None:
        """See :meth:`Worker.check`."""
        ...

    def cancel(self, job: str) -> None:
        """Stop a job that runs at its next step."""
        ...

    def replicas(self) -> int:
        """Return how many workers there are."""
        ...

    def stop(self, seconds: float) -> None:
        """Claim nothing more; let running jobs end within `seconds`, then stop them and give them back to the queue."""
        ...


class Service:
    """One service: its jobs, files, messages and meters. `backend` runs the jobs."""

    def __init__(self, settings: Settings, backend: Backend) -> None:
        self.settings, self.backend = settings, backend
        settings.data.mkdir(parents=True, exist_ok=True)
        self.catalog = Catalog(settings, backend.registry)
        self.store = JobStore(settings.data / "jobs.sqlite")
        self.storage = storage(settings.results, settings.data)
        self.hub = Hub()
        self.meters = Meters(
            lambda: self.store.count("queued"), lambda: self.store.count("running"), lambda: float(self.backend.replicas())
        )
        self.is_ready, self.is_stopping = threading.Event(), threading.Event()
        self.progress: dict[str, dict[str, Any]] = {}
        self._tidied = float("-inf")

    def start(self) -> None:
        """Put back what an earlier process left running, then begin."""
        for job in self.store.recover():
            self.meters.retries.inc()
            log.warning("job found half done at the start", extra={"job": job.id, "attempt": job.attempt})
        self.backend.start(self)

    def stop(self) -> None:
        """Take no more jobs, let the running ones end, close the files."""
        self.is_stopping.set()
        self.is_ready.clear()
        self.backend.stop(self.settings.drain_seconds)
        self.store.close()

    def uploads(self, owner: str) -> Path:
        """Return the folder of an owner's uploaded pictures; with ComfyUI one for all, because its input folder is the process's."""
        return self.settings.shared_uploads if self.settings.engine == "comfy" else safe_join(self.settings.data / "uploads", owner)

    def graph_of(self, source: Any, seed: int | None = None) -> Graph:
        """Return a client's graph (an object in API or UI format), with a seed where one is given."""
        graph = read_graph(source)
        return graph if seed is None else with_seed(graph, self.backend.registry, seed)

    def submit(
        self, owner: str, graph: Graph, extra: dict[str, Any], priority: float = 0.0, idempotency: str | None = None, job_id: str = ""
    ) -> tuple[Job, bool]:
        """Check a graph and put it into the queue; return (job, whether it is new).

        Raises :class:`Refused` for a graph that this service does not draw, :class:`InvalidGraphError` for one that cannot run, and
        :class:`Full` where too many jobs wait.
        """
        api = graph.to_api(self.backend.registry)
        name, admitted = self.catalog.admit(api)
        self.backend.check(Graph(api=admitted, source=name or "graph"), self.uploads(owner))
        own = {"id": job_id} if job_id else {}
        new = NewJob(owner, name, admitted, {**extra, "workflow": graph.ui or extra.get("workflow")}, priority, idempotency, **own)
        job, is_new = self.store.add(new, self.settings.limits.queue, self.settings.limits.per_key)
        if is_new:
            log.info("job accepted", extra={"job": job.id, "owner": owner, "graph": name})
            self.tell_status()
            self.backend.wake()
        return job, is_new

    def claim(self) -> Job | None:
        """Return the next job for a worker; None where nothing waits, or the service is stopping."""
        if self.is_stopping.is_set():
            return None
        self.tidy()
        return self.store.claim()

    def tidy(self) -> None:
        """Delete jobs that ended more than `keep_days` ago, with their pictures. Once none is left, nothing is looked for for an hour."""
        now = time.time()
        if not self.settings.keep_days or now - self._tidied < HOUR:
            return
        old = self.store.ended_before(now - self.settings.keep_days * DAY)
        for job in old:
            self.forget(job, None)
        if old:
            log.info("%d old jobs deleted, with their pictures", len(old))
        else:
            self._tidied = now

    def began(self, job: Job) -> None:
        """Tell the client that a worker has begun a job."""
        log.info("job started", extra={"job": job.id, "attempt": job.attempt})
        self.tell(job, "execution_start", {"timestamp": int(time.time() * 1000)})
        self.tell_status()

    def warm_up(self) -> Task | None:
        """Return the graph that a new worker draws first, so that its models are loaded; None where there is none."""
        name = next(iter(self.catalog.graphs)) if self.settings.warm_up is None else self.settings.warm_up
        if not name:
            return None
        return Task("warm-up", self.catalog.named(name).to_api(self.backend.registry), None, self.uploads(LOCAL))

    def task(self, job: Job) -> Task:
        """Return what a worker is given of a job."""
        return Task(job.id, job.graph, job.extra.get("workflow"), self.uploads(job.owner), self.settings.limits.job_seconds)

    def tell(self, job: Job, kind: str, data: dict[str, Any]) -> None:
        """Send a message about a job; the last progress is remembered for those who ask later."""
        known = self.progress.get(job.id, {})
        if kind == "progress":
            self.progress[job.id] = {**known, **data}
        elif kind == "executing" and data["node"] is not None:
            self.progress[job.id] = {"node": data["node"], "begun": known.get("begun", 0) + 1}
        message = Message(kind, {**data, "prompt_id": job.id}, job.id, str(job.extra.get("client_id") or ""), job.owner)
        self.hub.send(message)

    def tell_status(self) -> None:
        """Tell every client how many jobs wait or run."""
        remaining = self.store.count("queued", "running")
        self.hub.send(Message("status", {"status": {"exec_info": {"queue_remaining": remaining}}}))

    def finished(self, job: Job, done: Done) -> None:
        """Keep the files of an attempt, record its results, and tell the client. An attempt that was overtaken is dropped."""
        files = {}
        for kind, name, source in done.files:
            self.storage.put(f"{job.id}/{job.attempt}/{kind}/{name}", source)
            files[f"{kind}/{name}"] = len(source) if isinstance(source, bytes) else source.stat().st_size
        outputs = {node_id: _renamed(ui, job.id) for node_id, ui in done.outputs.items()}
        if not self.store.finish(job, outputs, files):
            log.warning("result dropped: the job had ended or had gone to another worker", extra={"job": job.id, "attempt": job.attempt})
            return
        seconds = time.time() - (job.started or job.created)
        self.meters.steps.inc(done.steps)
        self.meters.steps_rate.set(done.steps / seconds if seconds > 0 else 0.0)
        self.meters.cache.labels("yes").inc(len(done.cached))
        self.meters.cache.labels("no").inc(len(done.seconds))
        self.tell(job, "execution_cached", {"nodes": done.cached, "timestamp": int(time.time() * 1000)})
        for node_id, ui in outputs.items():
            self.tell(job, "executed", {"node": node_id, "display_node": node_id, "output": ui})
        self._over(job, "done", "execution_success", {"timestamp": int(time.time() * 1000)})

    def failed(self, job: Job, error: BaseException) -> None:
        """Record why an attempt ended without a result, and tell the client. A job that was stopped with the service goes back."""
        is_stopped = isinstance(error, Cancelled) and not isinstance(error, OutOfTime)
        if not is_stopped:
            log.error("job failed: %s", error, extra={"job": job.id, "attempt": job.attempt}, exc_info=error)
        self.ended_badly(job, failure(error), is_stopped)

    def ended_badly(self, job: Job, entry: dict[str, Any], is_stopped: bool) -> None:
        """See :meth:`failed`; `entry` is what :func:`.worker.failure` gives."""
        if is_stopped and self.is_stopping.is_set():
            self.lost(job, "the service stopped", died=False)
            return
        state = "cancelled" if is_stopped else "failed"
        if not self.store.fail(job, entry, state):
            return
        data = {
            "node_id": entry.get("node_id", ""), "node_type": entry.get("class_type", ""), "executed": [],
            "exception_type": entry["type"], "exception_message": entry["message"], "traceback": [],
            "current_inputs": {}, "current_outputs": [], "timestamp": int(time.time() * 1000),
        }  # fmt: skip
        self._over(job, state, "execution_interrupted" if is_stopped else "execution_error", data)

    def lost(self, job: Job, why: str, died: bool = True) -> None:
        """Put a job whose worker died, or was stopped, back into the queue. See :meth:`JobStore.give_back`."""
        state = self.store.give_back(job, why, died)
        log.warning("job lost its worker: %s", why, extra={"job": job.id, "attempt": job.attempt})
        if state == "queued":
            self.meters.retries.inc()
            self.backend.wake()
        elif state == "failed":
            self._over(job, "failed", "execution_error", {"exception_type": "WorkerDied", "exception_message": why, "node_id": ""})

    def cancel(self, job_id: str, owner: str | None) -> bool:
        """Cancel a job that waits, or stop one that runs at its next step. False where it has ended, or is not this owner's."""
        job = self.store.get(job_id, owner)
        if job is None or job.is_over:
            return False
        if self.store.cancel_waiting(job_id, owner):
            self._over(job, "cancelled", "execution_interrupted", {"node_id": "", "node_type": "", "executed": []})
            return True
        self.backend.cancel(job_id)
        return True

    def forget(self, job_id: str, owner: str | None) -> bool:
        """Delete a job that has ended, with its files."""
        if not self.store.forget(job_id, owner):
            return False
        self.storage.remove(job_id)
        return True

    def file(self, job: Job, name: str) -> Path | bytes | None:
        """Return a result (`type/subfolder/name`) of a job that names it; None where the job does not."""
        return self.storage.get(f"{job.id}/{job.attempt}/{name}") if name in job.files else None

    def _over(self, job: Job, state: str, kind: str, data: dict[str, Any]) -> None:
        now = time.time()
        self.progress.pop(job.id, None)
        self.meters.jobs.labels(state).inc()
        self.meters.latency.observe(now - job.created)
        if job.started:
            self.meters.service.observe(now - job.started)
        log.info("job ended", extra={"job": job.id, "state": state, "seconds": round(now - job.created, 3)})
        self.tell(job, kind, data)
        self.tell(job, "executing", {"node": None, "display_node": None})
        self.tell_status()


def _renamed(ui: dict[str, Any], job_id: str) -> dict[str, Any]:
    """A node's `ui` entry whose files lie in a sub-folder named after their job: `/view` finds them there."""

    def renamed(value: Any) -> Any:
        if isinstance(value, dict) and isinstance(value.get("filename"), str) and value.get("type", "output") in ("output", "temp"):
            return {**value, "subfolder": "/".join(filter(None, (job_id, value.get("subfolder") or "")))}
        return value

    return {key: [renamed(value) for value in values] if isinstance(values, list | tuple) else values for key, values in ui.items()}
