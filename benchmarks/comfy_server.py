"""Client of a real ComfyUI in a process of its own, over HTTP and WebSocket. Standard library only."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import shutil
import socket
import struct
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

Graph = dict[str, dict[str, Any]]
START_SECONDS, RUN_SECONDS = 900, 1800
_MODELS = ("checkpoints", "controlnet", "loras", "rapiddraw", "upscale_models")
_FOLDERS = ("custom_nodes", "input", "output", "temp", "user", *(f"models/{name}" for name in _MODELS))


@dataclass
class Run:
    """Record of one prompt. `events`: the messages in order; `previews`: the number of preview pictures."""

    prompt_id: str
    events: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    previews: int = 0
    outputs: dict[str, dict[str, Any]] = field(default_factory=dict)
    status: str = ""
    node_errors: dict[str, Any] = field(default_factory=dict)

    def of(self, kind: str) -> list[dict[str, Any]]:
        """Return the data of every message of one kind."""
        return [data for name, data in self.events if name == kind]

    @property
    def error(self) -> str:
        """Return the message of the node that failed, or an empty text."""
        return "".join(f"{e['node_type']}: {e['exception_message']}" for e in self.of("execution_error"))


class Server:
    """ComfyUI at `path`, on a free port, on the CPU, with a base directory of its own at `base` that holds nothing but this pack.

    `api_nodes`: with ComfyUI's nodes for paid services.
    """

    def __init__(self, path: Path, python: str, base: Path, pack: Path, weights: Path, *, api_nodes: bool = False) -> None:
        self.path, self.python, self.base, self.weights, self.api_nodes = path, python, base, weights, api_nodes
        for name in _FOLDERS:
            (base / name).mkdir(parents=True, exist_ok=True)
        (base / "custom_nodes" / "rapiddraw").symlink_to(pack, target_is_directory=True)
        self.log = base / "comfyui.log"
        self.port = _free_port()
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start ComfyUI and wait until it answers. Raises RuntimeError with the end of the log where it does not."""
        command = [
            self.python, str(self.path / "main.py"), "--cpu", "--port", str(self.port), "--base-directory", str(self.base),
            "--disable-auto-launch", "--database-url", "sqlite:///:memory:", *([] if self.api_nodes else ["--disable-api-nodes"]),
        ]  # fmt: skip
        if os.environ.get("COMFYUI_FRONTEND"):
            command += ["--front-end-root", os.environ["COMFYUI_FRONTEND"]]
        environment = {**os.environ, "RAPIDDRAW_WEIGHTS": str(self.weights), "HF_HUB_OFFLINE": "1"}
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=environment, cwd=self.base)  # noqa: S603
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline and self._process.poll() is None:
            with contextlib.suppress(OSError):
                self.get("/system_stats")
                return
            time.sleep(0.5)
        self.stop()
        raise RuntimeError(f"ComfyUI did not start:\n{self.tail()}")

    def stop(self) -> None:
        """End the process and wait until it has ended."""
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(30)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()

    def tail(self, size: int = 6000) -> str:
        """Return the end of its log."""
        return self.log.read_text(encoding="utf-8", errors="replace")[-size:]

    def logged(self, since: int = 0) -> list[str]:
        """Return the lines of its log after the first `since`."""
        return self.log.read_text(encoding="utf-8", errors="replace").splitlines()[since:]

    def memory(self) -> int:
        """Return the bytes of memory that the process holds (Linux)."""
        if self._process is None:
            raise RuntimeError("ComfyUI is not running: call start() first")
        lines = Path(f"/proc/{self._process.pid}/status").read_text(encoding="ascii").splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmRSS"))

    def get(self, path: str) -> Any:
        """Return the JSON answer to a GET."""
        return json.loads(self.get_bytes(path))

    def get_bytes(self, path: str) -> bytes:
        """Return the bytes of the answer to a GET."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=60) as reply:  # noqa: S310 - our own server
            return reply.read()

    def post(self, path: str, data: dict[str, Any]) -> dict[str, Any]:
        """Send JSON by POST and return the answer. An answer of 400 (an invalid prompt) is returned like any other."""
        request = urllib.request.Request(  # noqa: S310 - our own server
            f"http://127.0.0.1:{self.port}{path}", json.dumps(data).encode(), {"Content-Type": "application/json"}
        )
        try:
            with urllib.request.urlopen(request, timeout=60) as reply:  # noqa: S310
                text = reply.read()
        except urllib.error.HTTPError as error:
            text = error.read()
        return json.loads(text) if text.strip() else {}

    def forget(self) -> None:
        """Unload every model and forget every result, so that the next run computes everything again."""
        self.post("/free", {"unload_models": True, "free_memory": True})
        time.sleep(1.5)  # it is done by the thread that runs prompts, a moment later

    def run(self, graph: Graph, workflow: dict[str, Any] | None = None, cancel_at: int | None = None) -> Run:
        """Queue a graph and follow it to its end. `cancel_at`: interrupt after that number of progress messages."""
        client = uuid.uuid4().hex
        with _Events(self.port, client) as events:
            extra: dict[str, Any] = {"preview_method": "latent2rgb"}
            if workflow is not None:
                extra["extra_pnginfo"] = {"workflow": workflow}
            answer = self.post("/prompt", {"prompt": graph, "client_id": client, "extra_data": extra})
            run = Run(answer.get("prompt_id", ""), node_errors=answer.get("node_errors") or {})
            if not run.prompt_id:
                run.status = json.dumps(answer.get("error"))
                return run
            for message in events:
                if message is None:
                    run.previews += 1
                    continue
                kind, data = message
                if data.get("prompt_id", run.prompt_id) != run.prompt_id:
                    continue
                run.events.append((kind, data))
                if cancel_at is not None and kind == "progress" and len(run.of("progress")) == cancel_at:
                    self.post("/interrupt", {})
                if kind in ("execution_success", "execution_error", "execution_interrupted"):
                    break
        history: dict[str, Any] = {}
        while not history:  # written just after the last message
            history = self.get(f"/history/{run.prompt_id}")
            time.sleep(0.05)
        entry = history[run.prompt_id]
        run.outputs, run.status = entry["outputs"], entry["status"]["status_str"]
        return run

    def pictures(self, run: Run, kind: str = "output") -> list[bytes]:
        """Return the PNG files that a run has saved, in the order of its nodes."""
        found = []
        for _, shown in sorted(run.outputs.items()):
            for image in shown.get("images", []):
                if image["type"] == kind:
                    found.append(self.get_bytes("/view?" + urllib.parse.urlencode(image)))
        return found

    def clear_output(self) -> None:
        """Delete the files that runs have saved."""
        shutil.rmtree(self.base / "output", ignore_errors=True)
        (self.base / "output").mkdir()


class _Events:
    """The server's WebSocket, read only: yields (kind, data) for a text message and None for a preview picture."""

    def __init__(self, port: int, client: str) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=RUN_SECONDS)
        key = base64.b64encode(os.urandom(16)).decode()
        self._socket.sendall(
            (
                f"GET /ws?clientId={client} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                f"Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n\r\n"
            ).encode()
        )
        self._file = self._socket.makefile("rb")
        while self._file.readline() not in (b"\r\n", b""):
            pass

    def __enter__(self) -> _Events:
        return self

    def __exit__(self, *error: object) -> None:
        self._file.close()
        self._socket.close()

    def __iter__(self) -> Iterator[tuple[str, dict[str, Any]] | None]:
        while True:
            opcode, payload = self._frame()
            if opcode == 1:
                message = json.loads(payload)
                yield message["type"], message.get("data") or {}
            elif opcode == 2 and struct.unpack(">I", payload[:4])[0] in (1, 4):
                yield None
            elif opcode == 8:
                raise RuntimeError("ComfyUI closed the connection")

    def _frame(self) -> tuple[int, bytes]:
        opcode, payload, last = 0, b"", False
        while not last:
            first, length = self._read(2)
            last, length = bool(first & 0x80), length & 0x7F
            if length > 125:
                length = struct.unpack(">H" if length == 126 else ">Q", self._read(2 if length == 126 else 8))[0]
            opcode, payload = first & 0x0F or opcode, payload + self._read(length)
        return opcode, payload

    def _read(self, count: int) -> bytes:
        data = self._file.read(count)
        if len(data) < count:
            raise RuntimeError("ComfyUI is gone")
        return data


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
