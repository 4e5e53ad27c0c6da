"""Measurements inside a process of a real ComfyUI: its library is loaded, its server is not started."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..core.errors import InputError
from ..core.paths import pack_root


def comfyui_folder(given: str | None) -> Path | None:
    """Return the folder of ComfyUI: the `given` one, else COMFYUI_PATH, else None. Raises :class:`InputError` where it has no main.py."""
    path = given or os.environ.get("COMFYUI_PATH")
    if not path:
        return None
    root = Path(path).expanduser().resolve()
    if not (root / "main.py").is_file():
        raise InputError(f"{root} holds no ComfyUI: it has no main.py. Give its folder with --comfyui or in COMFYUI_PATH")
    return root


def needed_comfyui(given: str | None, what: str = "this benchmark") -> Path:
    """Return :func:`comfyui_folder`. Raises :class:`InputError` where there is none."""
    root = comfyui_folder(given)
    if root is None:
        raise InputError(f"{what} needs a ComfyUI: give its folder with --comfyui or in COMFYUI_PATH")
    return root


def comfyui_python() -> str:
    """Return the interpreter that ComfyUI's requirements are installed for: COMFYUI_PYTHON, else this one."""
    return os.environ.get("COMFYUI_PYTHON") or sys.executable


def in_comfyui(root: Path, module: str, settings: dict[str, Any]) -> dict[str, Any]:
    """Return what the benchmark's `module` measures in a process of the ComfyUI at `root`; it must call :func:`answer` when it is run.

    Raises RuntimeError where that process fails.
    """
    with tempfile.TemporaryDirectory(prefix="rapiddraw-bench-") as folder:
        (Path(folder) / "rapiddraw").symlink_to(pack_root(), target_is_directory=True)
        result = Path(folder) / "result.json"
        command = [comfyui_python(), "-m", f"rapiddraw.benchmarks.{module}", str(root), str(result), json.dumps(settings)]
        environment = {**os.environ, "PYTHONPATH": folder}
        done = subprocess.run(command, env=environment, cwd=folder, check=False)  # noqa: S603 - our own module, the user's interpreter
        if done.returncode or not result.is_file():
            raise RuntimeError(f"the measurement inside ComfyUI failed with exit code {done.returncode}; its output stands above")
        return json.loads(result.read_text(encoding="utf-8"))


def answer(measure: Callable[[dict[str, Any]], dict[str, Any]], cpu: bool = False) -> None:
    """Load ComfyUI's library as the command line of :func:`in_comfyui` says, call `measure(settings)`, and write its result as JSON.

    With `cpu` ComfyUI computes on the CPU even where there is a GPU.
    """
    import torch

    folder, result, settings = sys.argv[1:4]
    sys.argv = [sys.argv[0], *(["--cpu"] if cpu or not torch.cuda.is_available() else [])]
    sys.path.insert(0, folder)
    os.chdir(folder)
    importlib.import_module("comfy.options").enable_args_parsing()
    with torch.inference_mode():
        found = measure(json.loads(settings))
    found["comfyui"] = importlib.import_module("comfyui_version").__version__
    Path(result).write_text(json.dumps(found), encoding="utf-8")
