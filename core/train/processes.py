"""What several processes of one run tell each other; with a single process nothing happens here.

Gradients are averaged by `accelerator.reduce`, not by a wrapper around each network, so that a recipe may call any method of its networks
and train several at once.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import torch
from torch import nn

from ..errors import Cancelled

if TYPE_CHECKING:
    from accelerate import Accelerator


def share_weights(accelerator: Accelerator, modules: Iterable[nn.Module]) -> None:
    """Give every process the first one's weights."""
    if accelerator.num_processes == 1:
        return
    from accelerate.utils import broadcast

    with torch.no_grad():
        for module in modules:
            for tensor in (*module.parameters(), *module.buffers()):
                tensor.copy_(broadcast(tensor.detach().clone()))


def average_gradients(accelerator: Accelerator, parameters: list[nn.Parameter]) -> None:
    """Replace each gradient by its mean over the processes."""
    if accelerator.num_processes == 1:
        return
    grads = [p.grad if p.grad is not None else torch.zeros_like(p) for p in parameters]
    flat = accelerator.reduce(torch.cat([g.reshape(-1) for g in grads]), "mean")
    for p, part in zip(parameters, flat.split([g.numel() for g in grads]), strict=True):
        p.grad = part.view_as(p).clone()


def agree_to_stop(accelerator: Accelerator, stop: BaseException | None, device: torch.device) -> BaseException | None:
    """`stop`, or a :class:`Cancelled` where another process is asked to stop: all of them stop after the same step."""
    if accelerator.num_processes > 1:
        flag = accelerator.reduce(torch.tensor([float(stop is not None)], device=device), "sum")
        if float(flag) > 0 and stop is None:
            return Cancelled("stopped because another process of this run was stopped")
    return stop
