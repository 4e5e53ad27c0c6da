"""Stages of a chain that are trained at the same time, each in a process of its own.

A GPU is seldom filled by one small training. A stage begins as soon as the files that it reads are there. With a budget each stage ends at
its own time: the longest way from the first stage to it, in shares, over the longest way of all.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Generic, TypeVar

from ...errors import TrainingError
from ...progress import raise_if_cancelled
from .stages import Stage

T = TypeVar("T")
logger = logging.getLogger("rapiddraw")
POLL = 0.5
"""Seconds between two looks at whether the work was cancelled."""


def ends(stages: Sequence[Stage]) -> dict[str, float]:
    """Return when each stage ends, by its name, as a share of the whole: 1 is the end of the last."""
    at: dict[str, float] = {}
    maker = {name: stage.name for stage in stages for name in stage.makes}
    for stage in stages:
        before = [at[maker[name]] for name in stage.needs() if name in maker]
        at[stage.name] = stage.share + max(before, default=0.0)
    whole = max(at.values())
    return {name: end / whole for name, end in at.items()}


@dataclass
class _Team(Generic[T]):
    """Processes at work, and what became of each stage."""

    work: Callable[[Stage, float | None], T]
    running: dict[str, tuple[BaseProcess, Connection]] = field(default_factory=dict)
    done: dict[str, T] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)

    def begin(self, stage: Stage, seconds: float | None, threads: int) -> None:
        here, there = multiprocessing.get_context("spawn").Pipe(duplex=False)
        given = (there, self.work, stage, seconds, threads)
        process = multiprocessing.get_context("spawn").Process(target=_work, args=given, daemon=False)
        process.start()
        there.close()  # so that a process that dies is seen here
        self.running[stage.name] = process, here

    def collect(self) -> None:
        """Take in what has ended; wait at most :data:`POLL` seconds for it."""
        wait([pipe for _, pipe in self.running.values()], POLL)
        for name, (process, pipe) in list(self.running.items()):
            if not pipe.poll():
                continue
            try:
                good, found = pipe.recv()
            except EOFError:
                process.join()
                good, found = False, f"its process ended with code {process.exitcode}"
            process.join()
            del self.running[name]
            if good:
                self.done[name] = found
            else:
                self.failed[name] = found
                logger.error("%s: %s", name, found)

    def stop(self) -> None:
        for process, _ in self.running.values():
            process.terminate()
        for process, _ in self.running.values():
            process.join()


def run_together(stages: Sequence[Stage], work: Callable[[Stage, float | None], T], jobs: int, budget: float | None) -> list[T]:
    """Return `work(stage, its seconds)` of every stage, in order; at most `jobs` run at once, each in a process.

    `work` and what it holds must be picklable. A stage that fails does not stop those that do not need it. Raises :class:`TrainingError`
    at the end, naming the stages that failed and those that could not begin.
    """
    began, at = time.monotonic(), ends(stages)
    team: _Team[T] = _Team(work)
    waiting, makers = list(stages), {name: stage.name for stage in stages for name in stage.makes}
    threads = max(1, (os.cpu_count() or 1) // jobs)
    try:
        while waiting or team.running:
            ready = [stage for stage in waiting if all(makers.get(name) in (None, *team.done) for name in stage.needs())]
            for stage in ready[: jobs - len(team.running)]:
                left = None if budget is None else max(0.0, began + budget * at[stage.name] - time.monotonic())
                logger.info("%s begins", stage.name)
                team.begin(stage, left, threads)
                waiting.remove(stage)
            if not team.running:
                break
            team.collect()
            raise_if_cancelled()
    finally:
        team.stop()
    if team.failed:
        said = "; ".join(f"{name}: {reason}" for name, reason in team.failed.items())
        never = f". Not begun, because they need those: {', '.join(stage.name for stage in waiting)}" if waiting else ""
        raise TrainingError(f"{said}{never}. The other stages are done; start the chain again after mending these")
    return [team.done[stage.name] for stage in stages]


def _work(pipe: Connection, work: Callable[[Stage, float | None], T], stage: Stage, seconds: float | None, threads: int) -> None:
    import torch

    logging.basicConfig(level=logging.INFO, format=f"{stage.name}: %(message)s")
    torch.set_num_threads(threads)
    try:
        pipe.send((True, work(stage, seconds)))
    except Exception as error:  # whatever it is, it is told where the chain is run
        pipe.send((False, f"{type(error).__name__}: {error}"))
