"""Settings of one service, as the command line gives them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ..core.checks import real_number, whole_number
from ..core.errors import InputError

LOOPBACK = ("127.0.0.1", "localhost", "::1")


@dataclass(frozen=True)
class Limits:
    """Bounds on what clients may ask for.

    `queue`: jobs that may wait in all. `per_key`: jobs of one key that may wait or run. `rate`: requests of one key in a minute.
    `job_seconds`: the longest time of one job. `upload_bytes`, `body_bytes`: the largest upload, and the largest other body.
    `body_seconds`: the longest time in which a body must arrive. `pixels`: the most pixels of one batch of latents. `steps`: the most
    sampling steps of one node. `clients`: the most WebSocket and event streams at once.
    """

    queue: int = 100
    per_key: int = 50
    rate: int = 1200
    job_seconds: float = 600.0
    upload_bytes: int = 32 * 2**20
    body_bytes: int = 4 * 2**20
    body_seconds: float = 20.0
    pixels: int = 4 * 2**20
    steps: int = 200
    clients: int = 256

    def __post_init__(self) -> None:
        for name in ("queue", "per_key", "rate", "upload_bytes", "body_bytes", "pixels", "steps", "clients"):
            whole_number(name, getattr(self, name), 1, 2**40)
        for name in ("job_seconds", "body_seconds"):
            real_number(name, getattr(self, name), 0, 10**7, above=True)


@dataclass(frozen=True)
class Settings:
    """One service: which graphs it draws, where its files lie, who may use it.

    `graphs`: files, folders or names of shipped graphs. `data`: the folder of the job database, uploads and results. `allowed`: None admits
    registered graphs only, else the node classes that a client's graph may use (`()`: those of the registered graphs). `mark`: every
    picture must be marked as AI-generated. `blocked`: texts that no prompt may hold. `results`: the folder of the pictures, or
    `s3://bucket/prefix`. `warm_up`: the graph that runs once before the service is ready; None for the first one, empty for none.
    `keep_days`: jobs that ended longer ago are deleted, with their pictures; 0 keeps all.
    """

    graphs: tuple[str, ...] = ("text_to_image",)
    data: Path = Path("served")
    host: str = "127.0.0.1"
    port: int = 8188
    engine: str = "embedded"
    allowed: tuple[str, ...] | None = None
    origins: tuple[str, ...] = ()
    keys: tuple[str, ...] = ()
    mark: bool = False
    blocked: tuple[str, ...] = ()
    results: str = ""
    warm_up: str | None = None
    drain_seconds: float = 30.0
    keep_days: float = 0.0
    limits: Limits = Limits()

    def __post_init__(self) -> None:
        whole_number("port", self.port, 0, 65535)
        real_number("keep_days", self.keep_days, 0, 36500)
        if self.engine not in ("embedded", "comfy"):
            raise InputError(f"the engine must be 'embedded' or 'comfy', {self.engine!r} was given")

    @property
    def is_local(self) -> bool:
        """Whether the service listens on this machine only."""
        return self.host in LOOPBACK

    @property
    def shared_uploads(self) -> Path:
        """The folder of all uploads where ComfyUI draws."""
        return self.data / "uploads" / "shared"
