"""One batch of tiles through an upscaler's network, as fast as its device allows and no pixel worse."""

from __future__ import annotations

import logging
import time
from typing import Any

import torch
from torch import Tensor, amp, nn

PRECISIONS = ("keep", "auto")
SAME = 1 / 255
log = logging.getLogger("rapiddraw")


class TileRunner:
    """Calls `model` (an UPSCALE_MODEL) on `device`. Networks of convolutions alone get channels-last tiles: convolutions read them without
    a copy, and an ESRGAN is a third faster on a CPU. `precision` "auto" tries bf16 on the first call and keeps it where it is faster and
    no pixel of that call differs by more than 1/255."""

    def __init__(self, model: Any, device: torch.device, precision: str = "keep") -> None:
        self.model, self.device, self.dtype = model, device, next(model.model.parameters()).dtype
        self.is_convolutional = not any(isinstance(module, nn.Linear | nn.MultiheadAttention) for module in model.model.modules())
        self.bf16: bool | None = None if precision == "auto" and self.dtype == torch.float32 else False

    def __call__(self, pixels: Tensor) -> Tensor:
        """(k, C, h, w) in [0, 1] on the CPU -> (k, C', h*scale, w*scale) float32 on the CPU."""
        pixels = pixels.to(self.device, self.dtype)
        if self.is_convolutional:
            pixels = pixels.contiguous(memory_format=torch.channels_last)
        if self.bf16 is None:
            return self._try_bf16(pixels)
        return self._half(pixels) if self.bf16 else self.model(pixels).float().cpu()

    def _half(self, pixels: Tensor) -> Tensor:
        with amp.autocast(self.device.type, torch.bfloat16):
            return self.model(pixels).float().cpu()

    def _try_bf16(self, pixels: Tensor) -> Tensor:
        started = time.perf_counter()
        result = self.model(pixels).float().cpu()
        between = time.perf_counter()
        half = self._half(pixels)
        taken = between - started, time.perf_counter() - between
        off = float((half - result).abs().max())
        self.bf16 = off <= SAME and taken[1] < taken[0]  # a NaN is not within anything
        log.info("upscaling: bf16 %s (off by %.2f/255 at most)", "is used" if self.bf16 else "is not used", off * 255)
        return result
