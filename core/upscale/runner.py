"""One batch of tiles through an upscaler's network, as fast as its device allows and with the same pixels."""

from __future__ import annotations

import contextlib
import logging
import weakref
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ..speed.eager import in_bf16
from ..speed.measure import GAIN, best_seconds
from ..speed.regions import find_groups, replaced

PRECISIONS = ("keep", "auto")
SAME = 0.75 / 255
"""The most that bf16 may change a pixel of the sample. Less than the 1/255 that is allowed, because the sample is not the picture."""
_SAMPLE = 64
_holds: weakref.WeakKeyDictionary[nn.Module, dict[str, bool]] = weakref.WeakKeyDictionary()
log = logging.getLogger("rapiddraw")


class TileRunner:
    """Calls `model` (an UPSCALE_MODEL) on `device`. Networks of convolutions alone get channels-last tiles.

    `precision` "auto" tries the products of an ESRGAN's dense blocks, most of its work, in bf16 on the middle of the first tile. It keeps
    bf16 where that is faster and no pixel of the sample differs by more than 0.75/255. Sums and the layers that make the picture stay in
    full precision.
    """

    def __init__(self, model: Any, device: torch.device, precision: str = "keep") -> None:
        self.model, self.device, self.dtype = model, device, next(model.model.parameters()).dtype
        self.is_convolutional = not any(isinstance(module, nn.Linear | nn.MultiheadAttention) for module in model.model.modules())
        dense = [group for group in find_groups(model.model) if group.kind == "dense block"]
        self._dense = dense if precision == "auto" and self.dtype == torch.float32 else []
        self.bf16: bool | None = _holds.get(model.model, {}).get(device.type) if self._dense else False

    def __call__(self, pixels: Tensor) -> Tensor:
        """Return (k, C', h*scale, w*scale) float32 on the CPU, from (k, C, h, w) in [0, 1] on the CPU."""
        pixels = self._moved(pixels)
        if self.bf16 is None:
            self._try_bf16(pixels)
        return self._half(pixels) if self.bf16 else self._full(pixels)

    def full(self, pixels: Tensor) -> Tensor:
        """Return the same in the network's own precision, whatever was decided on bf16."""
        return self._full(self._moved(pixels))

    def _moved(self, pixels: Tensor) -> Tensor:
        pixels = pixels.to(self.device, self.dtype)
        return pixels.contiguous(memory_format=torch.channels_last) if self.is_convolutional else pixels

    def _full(self, pixels: Tensor) -> Tensor:
        return self.model(pixels).float().cpu()

    def _half(self, pixels: Tensor) -> Tensor:
        with contextlib.ExitStack() as stack:
            for group in self._dense:
                stack.enter_context(replaced(group, partial(partial, in_bf16, group.function)))
            return self.model(pixels).float().cpu()

    def _try_bf16(self, pixels: Tensor) -> None:
        top, left = (max(0, (side - _SAMPLE) // 2) for side in pixels.shape[2:])
        sample = pixels[:1, :, top : top + _SAMPLE, left : left + _SAMPLE]
        ways = {"full": lambda: self._full(sample), "bf16": lambda: self._half(sample)}
        seconds = best_seconds(ways, 1)
        off = float((ways["bf16"]() - ways["full"]()).abs().max())
        self.bf16 = off <= SAME and seconds["bf16"] < GAIN * seconds["full"]  # a NaN is not within anything
        _holds.setdefault(self.model.model, {})[self.device.type] = self.bf16  # once for each network, not for each picture
        log.info("upscaling: bf16 %s (a sample is off by %.2f/255 at most)", "is used" if self.bf16 else "is not used", off * 255)
