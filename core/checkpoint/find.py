"""Search for checkpoints in the models folders. Needs no torch, so that a node can list them when it is shown.

A checkpoint is a `.safetensors` file or a diffusers folder (one with a `model_index.json`) below a folder named `checkpoints` in a weights
folder (the pack's `weights/`, those of `$RAPIDDRAW_WEIGHTS`), or below `models/checkpoints` of the ComfyUI in `$COMFYUI_PATH`.
"""

from __future__ import annotations

import difflib
import os
from pathlib import Path

from .. import paths
from ..errors import BundleError

INDEX = "model_index.json"
PICKLED = (".ckpt", ".pt", ".pth", ".bin")


def checkpoint_dirs() -> list[Path]:
    """Return the folders searched for checkpoints, first match wins. Folders that do not exist are left out."""
    folders = [folder / "checkpoints" for folder in paths.weights_dirs()]
    if comfyui := os.environ.get("COMFYUI_PATH", "").strip():
        folders.append(Path(comfyui).expanduser() / "models" / "checkpoints")
    return [folder for folder in folders if folder.is_dir()]


def list_checkpoints() -> list[str]:
    """Return the sorted names, relative to their folder, with `/` between parts. A `.ckpt` is listed, so that loading it can say what is
    wrong."""
    names: set[str] = set()
    for root in checkpoint_dirs():
        files = dict(paths.model_files(root))
        folders = {name.removesuffix(f"/{INDEX}") for name in files if name.endswith(f"/{INDEX}")}
        parts = tuple(f"{folder}/" for folder in folders)  # the parts of a folder are no checkpoints of their own
        names |= {folder for folder in folders if not folder.startswith(parts)}
        names |= {name for name in files if name.lower().endswith((".safetensors", ".ckpt")) and not name.startswith(parts)}
    return sorted(names)


def resolve_checkpoint(name: str) -> Path:
    """Return the file or folder that :func:`list_checkpoints` calls `name`.

    Raises :class:`InputError` for a name that leaves its folder, :class:`BundleError` for an unknown one, naming the nearest, and for a
    pickle.
    """
    for folder in checkpoint_dirs():
        path = paths.model_path(folder, name)
        if path.suffix.lower() in PICKLED and path.is_file():
            raise BundleError(
                f"{name} is a pickle, which can run code when it is read: convert it to .safetensors, "
                "for example with CheckpointSave in a ComfyUI where you trust the file"
            )
        if path.is_file() or (path / INDEX).is_file():
            return path
    known = list_checkpoints()
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.3) or known[:5]
    hint = f"near it there is {', '.join(near)}" if near else "there are none"
    where = paths.say_searched(checkpoint_dirs())
    raise BundleError(f"no checkpoint named {name!r}: {hint} ({where}). {HOW_TO_ADD}")


HOW_TO_ADD = "Put a .safetensors file or a diffusers folder into checkpoints/ of a folder that RAPIDDRAW_WEIGHTS names"
