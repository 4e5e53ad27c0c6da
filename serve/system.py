"""ComfyUI's answer about its machine (`/system_stats`), with the versions of what runs here."""

from __future__ import annotations

import platform
import re
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

from ..api.comfy import comfy_folder
from ..core.errors import InputError
from ..core.paths import pack_root

UNKNOWN = "0.0.0"
"""The version that is given where none can be read: clients expect a version here."""


def machine_stats(engine: str) -> dict[str, Any]:
    """Return what ComfyUI says of its machine, without names of files.

    `comfyui_version` is that of the ComfyUI that runs the graphs (`engine` is `comfy`). Where none does, it is the pack's own version with
    the suffix `+rapiddraw`, which version parsers take for a local build. `rapiddraw_version` is the pack's own in any case.
    """
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    free, total = torch.cuda.mem_get_info() if device == "cuda" else (0, 0)
    own = pack_version(pack_root())
    system = {
        "os": platform.system().lower(), "python_version": platform.python_version(), "pytorch_version": torch.__version__,
        "comfyui_version": comfyui_version() if engine == "comfy" else f"{own}+rapiddraw", "rapiddraw_version": own,
        "embedded_python": False, "argv": ["rapiddraw serve"], "ram_total": 0, "ram_free": 0, "byteorder": sys.byteorder,
    }  # fmt: skip
    entry = {
        "name": device, "type": device, "index": 0, "vram_total": total, "vram_free": free, "torch_vram_total": total,
        "torch_vram_free": free,
    }  # fmt: skip
    return {"system": system, "devices": [entry]}


def pack_version(root: Path) -> str:
    """Return the version of the pack in the folder `root`: that of its `pyproject.toml`, else that of the installed package."""
    found = _version_in(root / "pyproject.toml", "version")
    if found == UNKNOWN:
        try:
            return metadata.version("rapiddraw")
        except metadata.PackageNotFoundError:
            pass
    return found


def comfyui_version() -> str:
    """Return the version of the ComfyUI in `$COMFYUI_PATH`. The file is read, because it may run in another process."""
    try:
        return _version_in(comfy_folder() / "comfyui_version.py", "__version__")
    except InputError:
        return UNKNOWN


def _version_in(path: Path, name: str) -> str:
    """Return the text that a line `name = "..."` of the file gives; :data:`UNKNOWN` where there is no such file or line."""
    try:
        found = re.search(rf'^{name} = "([^"]+)"', path.read_text(encoding="utf-8"), re.MULTILINE)
    except (OSError, UnicodeDecodeError):
        return UNKNOWN
    return found[1] if found else UNKNOWN
