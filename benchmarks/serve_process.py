"""A service in a process of its own, on loopback: started, asked, killed, stopped, and its database read."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

from ..core.errors import RapidDrawError

_START_SECONDS, _STOP_SECONDS = 600.0, 180.0
PLENTY = ("--queue", "100000", "--per-key", "100000", "--rate", "100000000")
"""Options that let a measurement ask as often as it wants."""


class ServeProcess:
    """`python -m rapiddraw serve GRAPH` with its data in `folder`."""

    def __init__(self, graph: str, folder: Path, *options: str) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = int(free.getsockname()[1])
        self.folder = folder
        self._process: subprocess.Popen[bytes] | None = None
        self._command = [sys.executable, "-m", "rapiddraw", "serve", graph, "--port", str(self.port), "--data", str(folder)]
        self._command += [*PLENTY, *options]

    def start(self) -> ServeProcess:
        """Start it and wait until it is ready. Raises :class:`RapidDrawError` with the end of its log where it is not."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / "log").open("a", encoding="utf-8") as log:
            self._process = process = subprocess.Popen(self._command, stdout=log, stderr=log)  # noqa: S603 - our own command
        ends = time.monotonic() + _START_SECONDS
        while time.monotonic() < ends and process.poll() is None:
            with contextlib.suppress(OSError):
                if self.ask("/ready")["ready"]:
                    return self
            time.sleep(0.2)
        raise RapidDrawError(f"the service did not start: {(self.folder / 'log').read_text(encoding='utf-8')[-4000:]}")

    @property
    def process(self) -> subprocess.Popen[bytes]:
        """The process. Raises :class:`RapidDrawError` before the start."""
        if self._process is None:
            raise RapidDrawError("the service was not started")
        return self._process

    def ask(self, path: str, body: dict[str, Any] | None = None) -> Any:
        """Return the JSON answer of a route."""
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}{path}", data, {"Content-Type": "application/json"})  # noqa: S310
        with urllib.request.urlopen(request, timeout=120) as answer:  # noqa: S310 - loopback
            return json.loads(answer.read())

    def text(self, path: str) -> str:
        """Return the text of a route."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=120) as answer:  # noqa: S310 - loopback
            return answer.read().decode()

    def kill(self) -> None:
        """End it at once, as a crash does."""
        os.kill(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def stop(self) -> None:
        """Ask it to end, and wait."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(_STOP_SECONDS)
            except subprocess.TimeoutExpired:
                self.kill()

    def counts(self) -> dict[str, int]:
        """Return the number of jobs by state, read from the database beside the running service."""
        import sqlite3

        with contextlib.closing(sqlite3.connect(f"file:{self.folder / 'jobs.sqlite'}?mode=ro", uri=True, timeout=30)) as database:
            return dict(database.execute("SELECT state, count(*) FROM jobs GROUP BY state").fetchall())

    def wait(self, jobs: int, seconds: float) -> None:
        """Wait until `jobs` jobs are done. Raises :class:`RapidDrawError` after `seconds`."""
        ends = time.monotonic() + seconds
        while self.counts().get("done", 0) < jobs:
            if time.monotonic() > ends:
                raise RapidDrawError(f"after {seconds:g} s the jobs are {self.counts()}, and {jobs} should be done")
            time.sleep(0.2)

    def memory(self) -> int:
        """Return the bytes of its resident memory (Linux)."""
        lines = Path(f"/proc/{self.process.pid}/status").read_text(encoding="ascii", errors="replace").splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmRSS:"))
