"""Search for LoRA files in the models folders. Needs no torch, so that a node can list them when it is shown.

A LoRA is a `.safetensors` file in `loras` of a weights folder, in `loras` of the output folder (where trainers write them, as ComfyUI's own
do), or in `models/loras` of the ComfyUI in `$COMFYUI_PATH`.
"""

from __future__ import annotations

import difflib
import os
from pathlib import Path

from .. import paths
from ..errors import BundleError


def made_lora_path(filename: str) -> Path:
    """Return where a node writes the LoRA `filename` (a relative name, `.safetensors` added): `loras` in the output folder. Raises
    :class:`InputError` for a name that leaves that folder."""
    name = filename.strip().removesuffix(".safetensors")
    return paths.safe_join(paths.output_dir() / "loras", f"{name}.safetensors" if name else name)


def lora_dirs() -> list[Path]:
    """Return the folders searched for LoRAs, first match wins. Folders that do not exist are left out."""
    folders = [paths.output_dir() / "loras", *(folder / "loras" for folder in paths.weights_dirs())]
    if comfyui := os.environ.get("COMFYUI_PATH", "").strip():
        folders.append(Path(comfyui).expanduser() / "models" / "loras")
    return [folder for folder in folders if folder.is_dir()]


def list_loras() -> list[str]:
    """Return the sorted names, relative to their folder, with `/` between parts."""
    return sorted({name for root in lora_dirs() for name, _ in paths.model_files(root) if name.lower().endswith(".safetensors")})


def resolve_lora(name: str) -> Path:
    """Return the file that :func:`list_loras` calls `name`.

    Raises :class:`InputError` for a name that leaves its folder, :class:`BundleError` for an unknown one, naming the nearest.
    """
    for folder in lora_dirs():
        path = paths.model_path(folder, name)
        if path.is_file():
            return path
    known = list_loras()
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.3) or known[:5]
    hint = f"near it there is {', '.join(near)}" if near else "there are none"
    raise BundleError(f"no LoRA named {name!r}: {hint}. Put a .safetensors file into loras/ of a folder that RAPIDDRAW_WEIGHTS names")
