"""Upscalers in ComfyUI, which keep to the CPU until a node uses them, as ComfyUI's own do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import comfy.model_management
import torch

from ...upscale.memory import BYTES_A_PIXEL
from ...upscale.rrdb import load_upscaler
from .lowrank import core_patcher


def load(path: Path) -> Any:
    """See :meth:`UpscaleTopic.load`."""
    upscaler: Any = load_upscaler(path)
    place = comfy.model_management.get_torch_device(), comfy.model_management.unet_offload_device()
    upscaler.patcher = core_patcher(upscaler.model, *place)  # newer versions' *Upscale Image (using Model)* loads the model by it
    return upscaler


def device_for(upscaler: Any, tile: int) -> torch.device:
    """See :meth:`UpscaleTopic.device_for`. ComfyUI makes room by its own estimate, which takes other models off the device."""
    device = comfy.model_management.get_torch_device()
    needed = comfy.model_management.module_size(upscaler.model) + tile * tile * max(upscaler.scale, 1) * BYTES_A_PIXEL
    comfy.model_management.free_memory(needed, device)
    return device
