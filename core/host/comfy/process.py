"""ComfyUI's process: its device, its memory, its settings, and its progress bar behind ours. Nothing of ComfyUI is changed.

What the pack relies on is listed in :mod:`.requirements` and checked before anything else here runs.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import comfy.cli_args
import comfy.model_management
import comfy.utils
import folder_paths
import torch

from ... import progress
from ...checkpoint.loras import list_loras, resolve_lora
from .requirements import check_requirements

_PREVIEW_SIZE = 512
_ROOM = 1.2  # of a network's weights: what it computes with needs memory too


def start() -> None:
    """See :meth:`ProcessTopic.start`. Raises :class:`MissingPackageError` for a ComfyUI that lacks what the pack needs."""
    check_requirements()
    progress.set_reporter(ComfyReporter)
    progress.set_cancel_check(comfy.model_management.throw_exception_if_processing_interrupted)


def device() -> torch.device:
    """See :meth:`ProcessTopic.device`."""
    return comfy.model_management.get_torch_device()


def make_room(size: int) -> torch.device:
    """See :meth:`ProcessTopic.make_room`. A network that the device could never hold stays on the CPU."""
    chosen, needed = device(), size * _ROOM
    if needed > comfy.model_management.get_total_memory(chosen):
        return torch.device("cpu")
    comfy.model_management.free_memory(needed, chosen)
    return chosen


def workflow_folder() -> Path:
    """See :meth:`ProcessTopic.workflow_folder`: that of ComfyUI's first user, who is the only one unless ComfyUI was told otherwise."""
    return Path(folder_paths.get_user_directory()) / "default" / "workflows"


def lora_names() -> list[str]:
    """See :meth:`ProcessTopic.lora_names`: those that Load LoRA lists, and those that trainers of the pack have written."""
    return sorted({*folder_paths.get_filename_list("loras"), *list_loras()})


def lora_path(name: str) -> Path:
    """See :meth:`ProcessTopic.lora_path`."""
    found = folder_paths.get_full_path("loras", name)
    return Path(found) if found else resolve_lora(name)


def node_classes() -> dict[str, type]:
    """See :meth:`ProcessTopic.node_classes`."""
    import nodes

    return dict(nodes.NODE_CLASS_MAPPINGS)


def saves_graphs() -> bool:
    """See :meth:`ProcessTopic.saves_graphs`."""
    return not comfy.cli_args.args.disable_metadata


class ComfyReporter:
    """A progress bar of the pack shown as ComfyUI's: steps and previews go to the node that runs, and ComfyUI's cancel stops the work."""

    def __init__(self, total: int, label: str, unit: str) -> None:
        comfy.model_management.throw_exception_if_processing_interrupted()
        self.done, self._bar = 0, comfy.utils.ProgressBar(total)

    def advance(self, count: int, info: dict[str, Any], preview: Any = None) -> None:
        """Report `count` more steps; `preview` is a PIL image."""
        comfy.model_management.throw_exception_if_processing_interrupted()  # the bar itself looks only now and then
        self.done += count
        self._bar.update_absolute(self.done, preview=None if preview is None else ("JPEG", preview, _PREVIEW_SIZE))

    def close(self) -> None:
        """Do nothing: ComfyUI's bar goes with its node."""
