"""Runs with `--host comfy`: the right Python, a stdout of our own, and one line of progress."""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from ..api.engines import Engine
    from ..core.graph.execute import NodeEvent

_MOVED = "RAPIDDRAW_IN_COMFYUI_PYTHON"
_LAUNCH = """
import importlib.util, sys
sys.path[:] = [folder for folder in sys.path if folder]
root = sys.argv.pop(1)
spec = importlib.util.spec_from_file_location("rapiddraw", root + "/__init__.py", submodule_search_locations=[root])
sys.modules["rapiddraw"] = package = importlib.util.module_from_spec(spec)
spec.loader.exec_module(package)
from rapiddraw.cli import main
sys.exit(main(sys.argv[1:]))
"""


def comfy_python(comfyui: Path) -> str:
    """Return the Python that runs this ComfyUI: `$COMFYUI_PYTHON`, else that of a venv in its folder, else this one. Raises
    :class:`InputError` where `$COMFYUI_PYTHON` is no program."""
    from ..core.errors import InputError

    given = os.environ.get("COMFYUI_PYTHON", "").strip()
    if given:
        found = shutil.which(os.path.expanduser(given))
        if found is None:
            raise InputError(f"COMFYUI_PYTHON={given} is no program; set it to the Python that runs the ComfyUI in {comfyui}")
        return found
    inside = [comfyui / venv / place for venv in ("venv", ".venv") for place in ("bin/python", "Scripts/python.exe")]
    return next((str(python) for python in inside if python.is_file()), sys.executable)


def comfy_engine(input: str | None, output: str | None, is_verbose: bool) -> Engine:
    """Start ComfyUI in this process. Raises :class:`InputError` where COMFYUI_PATH names none."""
    from ..api.comfy import ComfyEngine

    logging.getLogger("rapiddraw").propagate = False  # ComfyUI's own handler would write each of our lines again
    return ComfyEngine(input, output, is_verbose)


def move_to_comfy_python(arguments: list[str]) -> int | None:
    """Run the same command with ComfyUI's Python where that is another one, and return its exit code. None where this is the one.

    On Windows, where a process cannot be replaced, the command runs as a child."""
    from ..api.comfy import comfy_folder
    from ..core.paths import pack_root

    python = comfy_python(comfy_folder())
    if os.environ.get(_MOVED) or os.path.abspath(python) == os.path.abspath(sys.executable):
        return None
    command = [python, "-c", _LAUNCH, str(pack_root()), *arguments]
    environment = {**os.environ, _MOVED: "1"}
    sys.stdout.flush()
    sys.stderr.flush()
    if os.name == "nt":
        return subprocess.call(command, env=environment)  # noqa: S603 (the user's own Python)
    os.execve(python, command, environment)  # noqa: S606 (the same)


@contextlib.contextmanager
def stdout_kept() -> Iterator[None]:
    """Send what ComfyUI and packs print to stderr until the block ends, so that stdout has the result alone."""
    sys.stdout.flush()
    kept = os.dup(1)
    os.dup2(2, 1)
    try:
        yield
    finally:
        sys.stdout.flush()
        os.dup2(kept, 1)
        os.close(kept)


def _terminal() -> TextIO:
    """The stderr that this process began with; ComfyUI puts a stream of its own before it."""
    return sys.__stderr__ or sys.stderr


class ProgressLine:
    """One line on a terminal that is written over; elsewhere a line for each node."""

    def __init__(self) -> None:
        self._is_terminal = _terminal().isatty()

    def __call__(self, event: NodeEvent) -> None:
        if self._is_terminal:
            steps = f" {event.steps[0]}/{event.steps[1]}" if event.steps else ""
            width = shutil.get_terminal_size().columns - 1
            _terminal().write("\r\x1b[2K" + f"  {event.name}{steps}"[:width])
            _terminal().flush()
        elif event.steps is None:
            _terminal().write(f"  {event.name}\n")

    def close(self) -> None:
        """Remove the line."""
        if self._is_terminal:
            _terminal().write("\r\x1b[2K")
            _terminal().flush()
