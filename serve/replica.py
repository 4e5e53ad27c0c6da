"""One worker as a replica of Ray Serve: a job comes in, its messages stream out, its files come last as bytes."""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
import tempfile
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

from ray import serve

from ..core.errors import Cancelled
from ..core.paths import safe_join
from .logs import log_to_stderr
from .worker import Done, OutOfTime, Task, Worker, failure

log = logging.getLogger("rapiddraw.serve")
_MOST_MODELS = 4
Packed = tuple[str, dict[str, Any]]


class Replica:
    """A worker on some machine of the cluster. `warm_up`: the graph that it draws before it takes jobs."""

    def __init__(self, kind: str, warm_up: Task | None) -> None:
        log_to_stderr("json")
        self._scratch = Path(tempfile.mkdtemp(prefix="rapiddraw-replica-"))
        self._worker = Worker(kind, self._scratch / "work")
        self._thread = ThreadPoolExecutor(1)  # a job that was stopped may end after the next one has come
        if warm_up is not None:
            self._thread.submit(self._worker.run, replace(warm_up, input_dir=None), lambda kind, data: None).result()
            self._worker.clean(warm_up.job)

    @serve.multiplexed(max_num_models_per_replica=_MOST_MODELS)
    async def warm(self, key: str) -> str:
        """Remember that this replica holds the models with this hash: Ray sends their jobs here. The worker itself keeps the models."""
        return key

    async def ping(self) -> int:
        """Return the process id; a replica answers once it is warm."""
        return os.getpid()

    async def run(self, task: Task, inputs: dict[str, bytes]) -> AsyncIterator[Packed]:
        """Run one attempt; yield its messages, and last `done` or `failed`. A cancelled request stops the job at its next step."""
        await self.warm(serve.get_multiplexed_model_id())
        yield "began", {"pid": os.getpid()}
        folder = self._scratch / "input" / task.job
        for name, picture in inputs.items():
            path = safe_join(folder, name)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(picture)
        loop, queue = asyncio.get_running_loop(), asyncio.Queue[Packed]()

        def tell(kind: str, data: dict[str, Any]) -> None:
            loop.call_soon_threadsafe(queue.put_nowait, (kind, data))

        running = loop.run_in_executor(self._thread, self._attempt, replace(task, input_dir=folder), tell)
        try:
            while True:
                kind, data = await queue.get()
                yield kind, data
                if kind in ("done", "failed"):
                    return
        finally:
            if not running.done():
                self._worker.cancel(task.job)

    def _attempt(self, task: Task, tell: Any) -> None:
        """Run in the worker's thread and tell how it ended."""
        try:
            done = self._worker.run(task, tell)
            tell("done", packed(done))
        except BaseException as error:
            is_stopped = isinstance(error, Cancelled) and not isinstance(error, OutOfTime)
            if not is_stopped:
                log.error("job failed: %s", error, extra={"job": task.job}, exc_info=error)
            tell("failed", {"entry": failure(error), "is_stopped": is_stopped})
        finally:
            self._worker.clean(task.job)
            if task.input_dir is not None:
                shutil.rmtree(task.input_dir, ignore_errors=True)


def packed(done: Done) -> dict[str, Any]:
    """Return a result with the bytes of its files, for another machine."""
    files = [(kind, name, path if isinstance(path, bytes) else path.read_bytes()) for kind, name, path in done.files]
    return {"outputs": done.outputs, "files": files, "seconds": done.seconds, "cached": done.cached, "steps": done.steps}
