"""Headless Chromium, driven by its own DevTools protocol over a pipe. Standard library only (Linux and macOS)."""

from __future__ import annotations

import base64
import contextlib
import fcntl
import itertools
import json
import os
import queue
import shutil
import subprocess
import threading
import time
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
WAIT_SECONDS = 300
_FLAGS = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--disable-extensions", "--no-first-run", "--mute-audio",
    "--hide-scrollbars", "--disable-background-networking", "--remote-debugging-pipe",
)  # fmt: skip


def find_browser() -> str | None:
    """The Chromium to use: $CHROMIUM, or the first on the path."""
    return os.environ.get("CHROMIUM") or next((found for name in NAMES if (found := shutil.which(name))), None)


class Page:
    """One tab of a Chromium of its own, its profile in `profile`. `problems` collects console errors and uncaught exceptions."""

    def __init__(self, executable: str, profile: Path, width: int = 1600, height: int = 900) -> None:
        self.problems: list[str] = []
        self._answers: dict[int, queue.Queue[dict[str, Any]]] = {}
        self._numbers = itertools.count(1)
        self._session: str | None = None
        theirs_in, self._out = os.pipe()
        self._in, theirs_out = os.pipe()
        # Chromium reads from descriptor 3 and writes to 4, whatever the pipes' numbers are here.
        high = [fcntl.fcntl(fd, fcntl.F_DUPFD, 10) for fd in (theirs_in, theirs_out)]

        def place() -> None:
            os.dup2(high[0], 3)
            os.dup2(high[1], 4)

        command = [executable, *_FLAGS, f"--user-data-dir={profile}", f"--window-size={width},{height}", "about:blank"]
        quiet = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        self._process = subprocess.Popen(command, **quiet, close_fds=False, preexec_fn=place)  # type: ignore[call-overload] # noqa: S603, PLW1509
        for fd in (theirs_in, theirs_out, *high):
            os.close(fd)
        threading.Thread(target=self._listen, daemon=True).start()
        self._size = (width, height, 1.0)
        self._context = ""
        self.fresh()

    def fresh(self) -> None:
        """A new tab that knows nothing of the one before it: no cookies, no storage, no questions about unsaved changes."""
        if self._context:
            self._send("Target.disposeBrowserContext", {"browserContextId": self._context})
        self._context = self._send("Target.createBrowserContext", {})["browserContextId"]
        target = self._send("Target.createTarget", {"url": "about:blank", "browserContextId": self._context})["targetId"]
        self._session = self._send("Target.attachToTarget", {"targetId": target, "flatten": True})["sessionId"]
        self.problems.clear()
        for domain in ("Page", "Runtime", "Log"):
            self.command(f"{domain}.enable")
        self.show(*self._size)

    def close(self) -> None:
        """End the browser."""
        with contextlib.suppress(Exception):
            self._send("Browser.close", {}, seconds=10)
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        os.close(self._out)

    def command(self, method: str, **parameters: Any) -> dict[str, Any]:
        """One command of the protocol to this tab, and its answer."""
        return self._send(method, parameters, self._session)

    def show(self, width: int, height: int, scale: float = 1.0) -> None:
        """The size of the page as it is laid out, and the pixels of the screen for each of its own."""
        self._size = (width, height, scale)
        self.command("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=scale, mobile=False)

    def go(self, url: str) -> None:
        """Start loading a page."""
        self.command("Page.navigate", url=url)

    def run(self, script: str, *arguments: Any) -> Any:
        """What the body of an async function returns, called with `arguments` as `args`; JSON both ways. An exception there is one here."""
        call = f"(async (args) => {{ {script} }})({json.dumps(list(arguments))})"
        answer = self.command("Runtime.evaluate", expression=call, awaitPromise=True, returnByValue=True, userGesture=True)
        if "exceptionDetails" in answer:
            raise RuntimeError(_exception(answer["exceptionDetails"]))
        return answer["result"].get("value")

    def wait(self, condition: str, *arguments: Any, seconds: float = WAIT_SECONDS) -> Any:
        """Ask until the expression `condition` is true, and return it. Raises TimeoutError with the expression."""
        deadline, said = time.monotonic() + seconds, ""
        while time.monotonic() < deadline:
            try:
                if value := self.run(f"return {condition}", *arguments):
                    return value
            except RuntimeError as error:  # the page may be on its way to another
                said = f"; last error: {error}"
            time.sleep(0.3)
        raise TimeoutError(f"not so after {seconds:.0f} s: {condition}{said}; problems: {self.problems}")

    def click(self, x: float, y: float, times: int = 1) -> None:
        """As a mouse makes it, once or twice in a row: that is told by the events' own times, however long the page takes over each."""
        self.command("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)
        now = time.time()
        for number in range(2 * times):
            what = {"type": ("mousePressed", "mouseReleased")[number % 2], "clickCount": number // 2 + 1, "timestamp": now + 0.02 * number}
            self.command("Input.dispatchMouseEvent", x=x, y=y, button="left", **what)

    def drag(self, start: tuple[float, float], end: tuple[float, float]) -> None:
        """Press the mouse's left button at one point and let go of it at another."""
        middle = ((start[0] + end[0]) / 2, (start[1] + end[1]) / 2)
        moves = [("mouseMoved", start), ("mousePressed", start), ("mouseMoved", middle), ("mouseMoved", end), ("mouseReleased", end)]
        for kind, (x, y) in moves:
            self.command("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", buttons=1, clickCount=1)

    def type(self, text: str) -> None:
        """Write text where the cursor stands."""
        self.command("Input.insertText", text=text)

    def press(self, key: str, code: int) -> None:
        """Press and release a key, given by its name and its number as Windows has it."""
        text = "\r" if key == "Enter" else ""
        for kind in ("keyDown", "keyUp"):
            self.command("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=code, text=text)

    def screenshot(self) -> bytes:
        """What is seen now, as PNG."""
        return base64.b64decode(self.command("Page.captureScreenshot", format="png")["data"])

    def _send(self, method: str, parameters: dict[str, Any], session: str | None = None, seconds: float = WAIT_SECONDS) -> dict[str, Any]:
        waiting: queue.Queue[dict[str, Any]] = queue.Queue()
        number = next(self._numbers)
        self._answers[number] = waiting
        message = {"id": number, "method": method, "params": parameters} | ({"sessionId": session} if session else {})
        os.write(self._out, json.dumps(message).encode() + b"\0")
        try:
            answer = waiting.get(timeout=seconds)
        except queue.Empty:
            raise TimeoutError(f"{method}: no answer from the browser in {seconds:.0f} s") from None
        if "error" in answer:
            raise RuntimeError(f"{method}: {answer['error']['message']}")
        return answer["result"]

    def _listen(self) -> None:
        with os.fdopen(self._in, "rb") as stream:
            rest = b""
            while chunk := os.read(stream.fileno(), 2**16):
                *messages, rest = (rest + chunk).split(b"\0")
                for text in messages:
                    message = json.loads(text)
                    if "id" in message:
                        self._answers.pop(message["id"]).put(message)
                    elif message.get("sessionId") == self._session:
                        self._note(message["method"], message.get("params", {}))
        for waiting in self._answers.values():
            waiting.put({"error": {"message": "the browser is gone"}})

    def _note(self, method: str, data: dict[str, Any]) -> None:
        if method == "Runtime.exceptionThrown":
            self.problems.append(_exception(data["exceptionDetails"]))
        elif method == "Runtime.consoleAPICalled" and data["type"] in ("error", "assert"):
            words = " ".join(str(one.get("value", one.get("description", ""))) for one in data["args"])
            callers = dict.fromkeys(frame["url"] for frame in data.get("stackTrace", {}).get("callFrames", []))
            self.problems.append(f"{words} ({', '.join(callers)})")
        elif method == "Log.entryAdded" and data["entry"]["level"] == "error":
            self.problems.append(f"{data['entry']['text']} ({data['entry'].get('url', '')})")


def _exception(details: dict[str, Any]) -> str:
    return f"{details.get('exception', {}).get('description') or details['text']} ({details.get('url', '')})"
