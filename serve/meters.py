"""Meters of a service in the format of Prometheus."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

_SECONDS = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 40, 80, 160, 320, 640)


class Meters:
    """What `/metrics` shows. `waiting`, `running` and `replicas` are asked for when somebody looks."""

    def __init__(self, waiting: Callable[[], float], running: Callable[[], float], replicas: Callable[[], float]) -> None:
        self.registry = CollectorRegistry()
        self.jobs = Counter("rapiddraw_jobs", "Jobs that ended, by state", ["state"], registry=self.registry)
        self.retries = Counter("rapiddraw_retries", "Jobs put back into the queue after their worker died", registry=self.registry)
        self.refused = Counter("rapiddraw_refused", "Requests refused, by reason", ["reason"], registry=self.registry)
        self.latency = Histogram("rapiddraw_job_seconds", "From a job's arrival to its end", buckets=_SECONDS, registry=self.registry)
        self.service = Histogram("rapiddraw_service_seconds", "From a job's start to its end", buckets=_SECONDS, registry=self.registry)
        self.steps = Counter("rapiddraw_steps", "Sampling steps and other steps of progress", registry=self.registry)
        self.steps_rate = Gauge("rapiddraw_steps_per_second", "Steps a second of the last job", registry=self.registry)
        self.cache = Counter("rapiddraw_nodes", "Nodes that ran, or whose earlier result was used", ["cached"], registry=self.registry)
        for name, text, ask in (
            ("rapiddraw_queue_length", "Jobs that wait", waiting),
            ("rapiddraw_running", "Jobs that run", running),
            ("rapiddraw_replicas", "Workers", replicas),
        ):
            Gauge(name, text, registry=self.registry).set_function(ask)

    def text(self) -> bytes:
        """Return all meters as text."""
        return generate_latest(self.registry)
