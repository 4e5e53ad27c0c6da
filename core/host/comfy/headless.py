"""A whole ComfyUI inside this process, without its server: its nodes, installed packs, memory management and executor.

ComfyUI starts as its own `main.py` starts it, except that no socket is opened. A graph then goes through the queue that the server fills,
so that whatever this version does around a run is done. Nothing of ComfyUI is imported before :func:`start`.
"""

from __future__ import annotations

import asyncio
import atexit
import importlib
import logging
import os
import sys
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ...errors import Cancelled, InputError, MissingPackageError, NodeError, RapidDrawError
from ...progress import raise_if_cancelled

Event = Callable[[str, dict[str, Any]], object]
_OWN_NODE = "RapidDrawBundleLoader"
_QUIET = ("--preview-method", "none", "--database-url", "sqlite:///:memory:", "--disable-auto-launch")
_POLL, _END_SECONDS = 0.02, 10.0
_running: dict[str, ComfyProcess] = {}


@dataclass
class Ran:
    """Results of one prompt: the `ui` entries of nodes by id, the seconds in each node that ran, and nodes that gave earlier results."""

    outputs: dict[str, dict[str, Any]] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    cached: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Places:
    """Folders of a run: where ComfyUI lies, where this pack lies, and what replaces ComfyUI's own input, output and temp folders."""

    comfyui: Path
    pack: Path
    input: Path | None = None
    output: Path | None = None
    temp: Path | None = None


def start(places: Places, arguments: list[str]) -> ComfyProcess:
    """Make this process a ComfyUI and return it; a process is one ComfyUI at most, so a second call returns the first one.

    `arguments`: more of ComfyUI's own command line (`--lowvram`, `--base-directory DIR`). Without an accelerator `--cpu` is added. Raises
    :class:`InputError` where `places.comfyui` holds no ComfyUI, :class:`MissingPackageError` where this Python lacks a package of it, and
    :class:`RapidDrawError` where ComfyUI itself refuses to start.
    """
    if not _running:
        if not (places.comfyui / "main.py").is_file() or not (places.comfyui / "execution.py").is_file():
            raise InputError(f"{places.comfyui} holds no ComfyUI; expected the folder with its main.py. Set COMFYUI_PATH to that folder")
        try:
            _running["comfyui"] = ComfyProcess(*_start(places, arguments))
        except ModuleNotFoundError as error:
            raise MissingPackageError(
                f"{sys.executable} has no package {error.name!r}, which the ComfyUI in {places.comfyui} needs; set COMFYUI_PYTHON to the "
                "Python that runs this ComfyUI"
            ) from error
        except SystemExit as stop:  # ComfyUI's own answer to a wrong argument, or to a missing part
            raise RapidDrawError(
                f"the ComfyUI in {places.comfyui} did not start (exit code {stop.code}); see what it wrote above"
            ) from stop
    _running["comfyui"].use(places)
    return _running["comfyui"]


def _start(places: Places, arguments: list[str]) -> tuple[Any, Any]:
    """ComfyUI's module `main` and its server object, after everything is loaded."""
    sys.path.insert(0, str(places.comfyui))
    caching = [] if any(word.startswith("--cache") for word in arguments) else ["--cache-none"]
    before, sys.argv = sys.argv, ["main.py", *_QUIET, *caching, "--front-end-root", str(places.comfyui), *arguments]
    try:
        importlib.import_module("comfy.options").enable_args_parsing()
        args = importlib.import_module("comfy.cli_args").args
        for name in ("HF_HUB_DISABLE_TELEMETRY", "DO_NOT_TRACK"):
            os.environ.setdefault(name, "1")
        malloc = importlib.import_module("cuda_malloc")  # before torch: it chooses the allocator
        args.cpu = args.cpu or not (args.directml is not None or _has_accelerator())
        main: Any = importlib.import_module("main")
    finally:
        sys.argv = before
    main.cuda_malloc = malloc  # main.py imports it only where it is the program
    main.cleanup_temp = lambda: None  # the temp folder may be that of a ComfyUI that runs beside this one
    _use_folders(places)
    _, server, _ = main.start_comfyui()
    if _OWN_NODE not in main.nodes.NODE_CLASS_MAPPINGS:
        server.loop.run_until_complete(main.nodes.load_custom_node(str(places.pack)))
    main.comfy.utils.PROGRESS_BAR_ENABLED = False  # the caller draws one line
    sys.stderr.write("")  # ComfyUI's stream of log lines fails on a bar that is its first line
    if "DEBUG" not in arguments:  # its executor logs a traceback of what is reported here on one line
        for handler in logging.getLogger().handlers:
            handler.addFilter(lambda record: record.module != "execution")
    return main, server


def _has_accelerator() -> bool:
    import torch

    if hasattr(torch, "accelerator"):
        return torch.accelerator.is_available()
    return torch.cuda.is_available() or torch.backends.mps.is_available()


def _keep_loop(server: Any) -> None:
    """Keep the server's event loop running, because nodes may give it work; its messages go to nobody."""
    asyncio.set_event_loop(server.loop)
    messages = server.loop.create_task(server.publish_loop())
    server.loop.run_forever()
    messages.cancel()
    server.loop.run_until_complete(asyncio.gather(messages, return_exceptions=True))


def _end_thread(timeout: float | None = None) -> None:
    """Stands in for the queue's `get`, which ComfyUI's worker asks for ever."""
    raise SystemExit


def _use_folders(places: Places) -> None:
    import folder_paths

    for name in ("input", "output", "temp"):
        folder = getattr(places, name)
        if folder is not None:
            getattr(folder_paths, f"set_{name}_directory")(str(folder.absolute()))


class ComfyProcess:
    """A ComfyUI that was started in this process. Not for use by several threads at once."""

    def __init__(self, main: Any, server: Any) -> None:
        self._main, self._server = main, server
        self._send = server.send_sync
        self._workers = [thread for thread in threading.enumerate() if "prompt_worker" in thread.name]
        self._loop = threading.Thread(target=_keep_loop, args=(server,), daemon=True)
        self._loop.start()
        atexit.register(self._end)

    def _end(self) -> None:
        """End ComfyUI's threads: one that is inside torch while Python shuts down aborts the process."""
        queue = self._server.prompt_queue
        queue.get = _end_thread
        with queue.mutex:
            queue.not_empty.notify_all()
        self._server.loop.call_soon_threadsafe(self._server.loop.stop)
        for thread in (*self._workers, self._loop):
            thread.join(_END_SECONDS)

    def use(self, places: Places) -> None:
        """Use other input, output and temp folders from now on; those that are None stay."""
        _use_folders(places)

    @property
    def node_classes(self) -> dict[str, type]:
        """The classes of all nodes: ComfyUI's, those of installed packs, and this pack's."""
        return self._main.nodes.NODE_CLASS_MAPPINGS

    @property
    def folders(self) -> dict[str, Path]:
        """The folders `input`, `output` and `temp`."""
        paths = self._main.folder_paths
        return {name: Path(getattr(paths, f"get_{name}_directory")()) for name in ("input", "output", "temp")}

    def problems(self, prompt: dict[str, Any]) -> tuple[list[tuple[str, str]], list[str]]:
        """Return ComfyUI's own reasons against `prompt` (API format) as (node id, text) pairs, and the output nodes that it would run."""
        answer = self._main.execution.validate_prompt("check", prompt, None)
        valid, error, outputs, node_errors = asyncio.run(answer) if asyncio.iscoroutine(answer) else answer
        found = [(str(node_id), _told(reason)) for node_id, entry in node_errors.items() for reason in entry.get("errors", [])]
        if not valid and not found:
            found = [(str((error.get("extra_info") or {}).get("node_id", "")), _told(error))]
        return found, list(outputs)

    def run(self, prompt: dict[str, Any], workflow: dict[str, Any] | None, outputs: list[str], on_event: Event) -> Ran:
        """Run a prompt (API format) that was checked, and return its results. `on_event` is told ComfyUI's messages (`executing` ...).

        Raises :class:`NodeError` where a node fails, and :class:`Cancelled` after a stop, which the running node is told of.
        """
        raise_if_cancelled()
        ran, clock, prompt_id = Ran(), _Clock(), uuid.uuid4().hex

        def hear(event: Any, data: Any, sid: Any = None) -> None:
            if event == "executing" and isinstance(data, dict):
                clock.at(data.get("display_node") or data.get("node"))
            if event == "execution_cached":
                ran.cached += [str(node_id) for node_id in data["nodes"]]
            if isinstance(event, str) and isinstance(data, dict):
                on_event(event, data)

        self._server.send_sync = hear
        extra = {"client_id": "rapiddraw", "create_time": int(time.time() * 1000)}
        pnginfo = {"extra_pnginfo": {"workflow": workflow}} if workflow else {}
        try:
            self._server.prompt_queue.put((0, prompt_id, prompt, {**extra, **pnginfo}, outputs, {}))
            record = self._wait(prompt_id)
        finally:
            self._server.send_sync = self._send
        clock.at(None)
        ran.seconds = clock.seconds
        for kind, data in record["status"]["messages"]:
            if kind == "execution_interrupted":
                raise Cancelled("stopped at the user's request")
            if kind == "execution_error":
                raise NodeError(_failure(data), str(data["node_id"]), data["node_type"])
        ran.outputs = record["outputs"]
        return ran

    def _wait(self, prompt_id: str) -> dict[str, Any]:
        """The record of a prompt once it is done. A request to stop is passed on until the run has ended."""
        queue = self._server.prompt_queue
        while True:
            with queue.mutex:  # a record is put in first and filled then
                if prompt_id in queue.history:
                    return queue.history[prompt_id]
            try:
                raise_if_cancelled()
            except Cancelled:
                self._main.nodes.interrupt_processing()
            except BaseException:
                self._main.nodes.interrupt_processing()
                raise
            if self._workers and not any(worker.is_alive() for worker in self._workers):
                raise RapidDrawError("ComfyUI's executor stopped with an error; it stands above")
            time.sleep(_POLL)


class _Clock:
    """Seconds in each node."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._node, self._since = "", 0.0

    def at(self, node_id: Any) -> None:
        """The node that runs from now on; None for no node."""
        now = time.perf_counter()
        if self._node:
            self.seconds[self._node] = self.seconds.get(self._node, 0.0) + now - self._since
        self._node, self._since = "" if node_id is None else str(node_id), now


def _told(reason: dict[str, Any]) -> str:
    """ComfyUI's error entry on one line."""
    return " ".join(": ".join(part for part in (reason.get("message", ""), reason.get("details", "")) if part).split())


def _failure(data: dict[str, Any]) -> str:
    """Why a node failed, on one line. An error of this pack needs no name of its class."""
    kind, text = str(data["exception_type"]), " ".join(str(data["exception_message"]).split())
    return text if ".core.errors." in kind else f"failed with {kind.rpartition('.')[2]}: {text}"
