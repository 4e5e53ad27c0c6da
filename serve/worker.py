"""One worker: the host's engines, run one job at a time, with progress told and a stop at the next step.

The same class works in a thread of the service and in a replica of Ray Serve. It knows files of its own machine only: inputs come as
bytes or lie in a folder, results are named by path for the caller to keep.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import io
import json
import os
import re
import shutil
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from ..api.comfy import ComfyEngine
from ..api.engines import EmbeddedEngine, Engine
from ..core.errors import Cancelled, NodeError, RapidDrawError
from ..core.graph.execute import NodeEvent
from ..core.graph.formats import Graph
from ..core.graph.inputs import Registry
from ..core.paths import using_dirs
from ..core.progress import clear_cancel, request_cancel, set_reporter
from ..nodes.registry import registry as embedded_registry
from .hub import PREVIEW

Tell = Callable[[str, dict[str, Any]], None]
_MOST_ENGINES, _MOST_EARLY = 4, 1000
_SEND_SECONDS, _PREVIEW_PIXELS = 0.1, 256
_FOLDERS = re.compile(r"""(?<![\w.:/\\])(?:[A-Za-z]:)?[/\\](?:[^/\\\s'"()]+[/\\])+""")
"""The folders of an absolute path in a message; the name of the file stays."""


@dataclass(frozen=True)
class Task:
    """One attempt at a job. `graph` is in API format; `workflow` is the editor's form of it, for the picture's metadata."""

    job: str
    graph: dict[str, Any]
    workflow: dict[str, Any] | None = None
    input_dir: Path | None = None
    seconds: float = 600.0


@dataclass(frozen=True)
class Done:
    """What an attempt gave: the `ui` entries of nodes, the files that they name as (type, subfolder/name, path or bytes), and what ran.

    `steps` counts progress steps, for the meters. `cached` names nodes that gave earlier results.
    """

    outputs: dict[str, Any]
    files: list[tuple[str, str, Path | bytes]]
    seconds: dict[str, float] = field(default_factory=dict)
    cached: list[str] = field(default_factory=list)
    steps: int = 0


class OutOfTime(RapidDrawError):
    """A job took longer than it may."""


class Worker:
    """An engine that stays warm. :meth:`run` is for one thread; :meth:`cancel` may be called from any other."""

    def __init__(self, kind: str, scratch: Path, uploads: Path | None = None) -> None:
        self._kind, self._scratch = kind, scratch
        self._lock = threading.Lock()
        self._current, self._why = "", ""
        self._early: OrderedDict[str, str] = OrderedDict()
        self._engines: OrderedDict[str, Engine] = OrderedDict()
        shutil.rmtree(scratch, ignore_errors=True)
        self._comfy = _comfy_engine(scratch, uploads) if kind == "comfy" else None
        self.registry: Registry = self._comfy.registry if self._comfy else embedded_registry()

    @property
    def current(self) -> str:
        """The job that runs, or an empty text."""
        return self._current

    def check(self, graph: Graph, input_dir: Path | None) -> None:
        """Raise :class:`InvalidGraphError` with every reason why `graph` cannot run. Safe beside a running job."""
        if self._comfy is not None:
            self._comfy.check(graph)
            return
        with using_dirs(input_dir, self._scratch / "none", self._scratch / "none"):
            EmbeddedEngine(self.registry).check(graph)

    def cancel(self, job: str, why: str = "cancelled") -> bool:
        """Stop `job` at its next step, or as soon as it begins. False where it does not run now."""
        with self._lock:
            if self._current != job:
                self._early[job] = why
                if len(self._early) > _MOST_EARLY:
                    self._early.popitem(last=False)
                return False
            self._why = self._why or why
            request_cancel()
            return True

    def run(self, task: Task, tell: Tell) -> Done:
        """Run one attempt. Raises what the engine raises: :class:`NodeError`, :class:`Cancelled`, or :class:`OutOfTime`."""
        folder = self._scratch / task.job
        watch = threading.Timer(task.seconds, self.cancel, (task.job, "time"))
        watch.daemon = True
        with self._lock:
            clear_cancel()
            self._current, self._why = task.job, self._early.pop(task.job, "")
            if self._why:
                request_cancel()
        watch.start()
        try:
            with self._places(task, folder), self._heard(tell) as heard:
                engine = self._engine(task.graph)
                graph = Graph(task.workflow, task.graph, task.job)
                engine.check(graph)
                result = engine.run(graph, heard.on_node)
                files: list[tuple[str, str, Path | bytes]] = list(_files(result.outputs, engine.folders()))
            return Done(result.outputs, files, result.seconds, result.cached, heard.steps)
        except Cancelled as error:
            if self._why == "time":
                raise OutOfTime(f"the job took longer than {task.seconds:g} s, which is the most; ask for fewer steps or pixels") from error
            raise
        finally:
            watch.cancel()
            with self._lock:
                self._current = ""
                clear_cancel()

    def _places(self, task: Task, folder: Path) -> contextlib.AbstractContextManager[None]:
        """The folders of one job. ComfyUI's stay the same for all jobs: its cache may answer with a file of an earlier one."""
        if self._comfy is not None:
            return contextlib.nullcontext()
        return using_dirs(task.input_dir, folder / "output", folder / "temp")

    @contextlib.contextmanager
    def _heard(self, tell: Tell) -> Iterator[_Heard]:
        """Send the library's progress bars to `tell` until the block ends. ComfyUI's host has a reporter of its own, which stays."""
        heard = _Heard(tell)
        if self._comfy is not None:
            yield heard
            return
        set_reporter(lambda total, label, unit: _Bar(heard, total))
        try:
            yield heard
        finally:
            set_reporter(None)

    def clean(self, job: str) -> None:
        """Remove what a job left on this machine's disk."""
        shutil.rmtree(self._scratch / job, ignore_errors=True)

    def _engine(self, graph: dict[str, Any]) -> Engine:
        """The warm engine for the files that `graph` loads; the one used least lately goes where there are too many."""
        if self._comfy is not None:
            return self._comfy
        key = models_key(graph)
        engine = self._engines.pop(key, None) or EmbeddedEngine(self.registry)
        self._engines[key] = engine
        if len(self._engines) > _MOST_ENGINES:
            self._engines.popitem(last=False)
        cast(EmbeddedEngine, engine).forget_shown()
        return engine


def _comfy_engine(scratch: Path, uploads: Path | None) -> ComfyEngine:
    """ComfyUI in this process, with the cache that keeps models loaded between jobs unless its user chose another."""
    given = os.environ.get("COMFYUI_ARGS", "")
    if "--cache" not in given:
        os.environ["COMFYUI_ARGS"] = f"{given} --cache-classic".strip()
    if uploads is not None:
        uploads.mkdir(parents=True, exist_ok=True)
    return ComfyEngine(None if uploads is None else str(uploads), str(scratch / "output"))


def models_key(graph: dict[str, Any]) -> str:
    """Return a hash of the model files that a graph names: requests with one hash go where those models are loaded."""
    named = sorted(
        str(value)
        for node in graph.values()
        for value in node.get("inputs", {}).values()
        if isinstance(value, str) and value.endswith((".safetensors", ".ckpt", ".pt", ".pth", ".bin", ".gguf", ".sft"))
    )
    return hashlib.sha256(json.dumps(named).encode()).hexdigest()[:16]


class _Heard:
    """What a run reports: nodes as they begin, steps inside them, and at the end how many steps there were."""

    def __init__(self, tell: Tell) -> None:
        self.steps, self._node, self._tell = 0, "", tell

    def on_node(self, event: NodeEvent) -> None:
        if event.steps is not None:
            self.steps += 1
            self.progress(*event.steps)
        else:
            self._node = event.node_id
            self._tell("executing", {"node": event.node_id, "display_node": event.node_id, "class_type": event.class_type})

    def preview(self, picture: Any) -> None:
        """Send a picture of a step as JPEG, enlarged so that people see something."""
        from PIL import Image

        scale = max(1, _PREVIEW_PIXELS // max(picture.size))
        out = io.BytesIO()
        picture.resize((picture.width * scale, picture.height * scale), Image.Resampling.BILINEAR).save(out, "JPEG", quality=85)
        self._tell(PREVIEW, {"node": self._node, "jpeg": base64.b64encode(out.getvalue()).decode()})

    def progress(self, value: int, total: int) -> None:
        self._tell("progress", {"value": value, "max": total, "node": self._node})


class _Bar:
    """A progress bar of the library, sent to the clients at most ten times a second."""

    def __init__(self, heard: _Heard, total: int) -> None:
        self._heard, self._total, self._done, self._sent = heard, total, 0, 0.0

    def advance(self, count: int, info: dict[str, Any], preview: Any = None) -> None:
        self._done += count
        self._heard.steps += count
        now = time.monotonic()
        if now - self._sent >= _SEND_SECONDS or self._done >= self._total:
            self._sent = now
            self._heard.progress(self._done, self._total)
            if preview is not None:
                self._heard.preview(preview)

    def close(self) -> None: ...


def _files(outputs: dict[str, Any], folders: dict[str, Path]) -> Iterator[tuple[str, str, Path]]:
    """(type, name with sub-folder, path) of every file that nodes name in their `ui` entries."""
    for ui in outputs.values():
        for values in ui.values():
            for value in values if isinstance(values, list | tuple) else ():
                if isinstance(value, dict) and isinstance(value.get("filename"), str) and value.get("type", "output") in folders:
                    kind = value.get("type", "output")
                    name = "/".join(filter(None, (value.get("subfolder") or "", value["filename"])))
                    yield kind, name, folders[kind] / name


def failure(error: BaseException) -> dict[str, Any]:
    """Return an error as a job keeps it: `type`, `message`, and for a node's failure `node_id` and `class_type`. No folders of this machine
    and no traceback: both stay in the log."""
    entry: dict[str, Any] = {"type": type(error).__name__, "message": _FOLDERS.sub("", " ".join(str(error).split()))[:2000]}
    if isinstance(error, NodeError):
        entry |= {"node_id": error.node_id, "class_type": error.class_type}
    elif not isinstance(error, RapidDrawError):
        entry["message"] = "the service failed; its log says why"
    return entry
