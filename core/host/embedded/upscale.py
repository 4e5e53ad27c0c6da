"""Upscalers in the embedded host."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from ...upscale.rrdb import load_upscaler
from . import process


def load(path: Path) -> Any:
    """See :meth:`UpscaleTopic.load`."""
    return load_upscaler(path).to(process.device())


def device_for(upscaler: Any, tile: int) -> torch.device:
    """See :meth:`UpscaleTopic.device_for`."""
    return process.device()
