"""The embedded host's process: diffusers and transformers networks behind ComfyUI's sockets, on one device.

The embedded host is for headless runs, tests and first steps; it is not a second ComfyUI. It manages no memory beyond one device and knows
no areas and no masks on conditionings. What it does, it does by ComfyUI's rules, so that a graph gives the same picture in both.
"""

from __future__ import annotations

import os
from pathlib import Path

import torch

from ...checkpoint.loras import list_loras, resolve_lora
from ...errors import InputError
from ...paths import output_dir


def start() -> None:
    """See :meth:`ProcessTopic.start`. Raises :class:`InputError` where `$RAPIDDRAW_DEVICE` is no torch device."""
    device()


def device() -> torch.device:
    """See :meth:`ProcessTopic.device`. `$RAPIDDRAW_DEVICE` overrides the choice: CUDA where there is one, else the CPU."""
    chosen = os.environ.get("RAPIDDRAW_DEVICE") or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return torch.device(chosen)
    except RuntimeError as error:
        raise InputError(f"RAPIDDRAW_DEVICE={chosen!r} is no torch device; give cpu or cuda") from error


def make_room(size: int) -> torch.device:
    """See :meth:`ProcessTopic.make_room`. Nothing is moved: there is one device."""
    return device()


def workflow_folder() -> Path:
    """See :meth:`ProcessTopic.workflow_folder`."""
    return output_dir() / "workflows"


def lora_names() -> list[str]:
    """See :meth:`ProcessTopic.lora_names`."""
    return list_loras()


def lora_path(name: str) -> Path:
    """See :meth:`ProcessTopic.lora_path`."""
    return resolve_lora(name)


def node_classes() -> dict[str, type]:
    """See :meth:`ProcessTopic.node_classes`."""
    return {}


def saves_graphs() -> bool:
    """See :meth:`ProcessTopic.saves_graphs`."""
    return True
