"""The processes of a run: one, which needs torch alone, or several, which Hugging Face accelerate connects.

Gradients are averaged by `accelerator.reduce`, not by a wrapper around each network, so that a recipe may call any method of its networks
and train several at once.
"""

from __future__ import annotations

import atexit
import os
from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from ..errors import Cancelled, InputError, MissingPackageError

if TYPE_CHECKING:
    from accelerate import Accelerator

_COUNTS = ("WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE")
"""Environment variables in which `accelerate launch`, `torchrun` and MPI tell a process how many there are."""


class Processes:
    """The only process of a run: `index` 0 of `count` 1, computing on `device`. Its methods have nothing to do."""

    count = 1
    index = 0

    def __init__(self, device: torch.device) -> None:
        self.device = device

    @property
    def main(self) -> bool:
        """Whether this process writes the files and shows the progress."""
        return self.index == 0

    def share_weights(self, modules: Iterable[nn.Module]) -> None:
        """Give every process the weights of the first."""

    def average_gradients(self, parameters: list[nn.Parameter]) -> None:
        """Replace each gradient by its mean over the processes."""

    def agree_to_stop(self, stop: BaseException | None) -> BaseException | None:
        """Return `stop`, or a :class:`Cancelled` where another process is asked to stop: all stop after the same step."""
        return stop

    def mean(self, value: float) -> float:
        """Return the mean of `value` over the processes."""
        return value

    def wait(self) -> None:
        """Wait until every process is here."""


class ConnectedProcesses(Processes):
    """One of several processes, connected by accelerate."""

    def __init__(self, accelerator: Accelerator, device: torch.device) -> None:
        super().__init__(device)
        # Where the group still stands when the interpreter ends, its threads now and then abort the process after its work is done.
        atexit.register(_leave_group)
        self.accelerator = accelerator
        self.count, self.index = accelerator.num_processes, accelerator.process_index

    def share_weights(self, modules: Iterable[nn.Module]) -> None:
        from accelerate.utils import broadcast

        with torch.no_grad():
            for module in modules:
                for tensor in (*module.parameters(), *module.buffers()):
                    tensor.copy_(broadcast(tensor.detach().clone()))

    def average_gradients(self, parameters: list[nn.Parameter]) -> None:
        grads = [p.grad if p.grad is not None else torch.zeros_like(p) for p in parameters]
        flat = self.accelerator.reduce(torch.cat([g.reshape(-1) for g in grads]), "mean")
        for p, part in zip(parameters, flat.split([g.numel() for g in grads]), strict=True):
            p.grad = part.view_as(p).clone()

    def agree_to_stop(self, stop: BaseException | None) -> BaseException | None:
        asked = self.accelerator.reduce(torch.tensor([float(stop is not None)], device=self.device), "sum")
        if stop is None and float(asked) > 0:
            return Cancelled("stopped because another process of this run was stopped")
        return stop

    def mean(self, value: float) -> float:
        return float(self.accelerator.reduce(torch.tensor([value], device=self.device), "mean"))

    def wait(self) -> None:
        self.accelerator.wait_for_everyone()


def join_processes(device: str | torch.device | None = None) -> Processes:
    """Return this process's place among the processes that were launched together. `device` overrides the choice of where to compute.

    Raises :class:`InputError` for a device that this machine does not have and :class:`MissingPackageError` where several processes were
    launched and accelerate, which connects them, is not installed.
    """
    given = None if device is None else _usable(device)
    count = next((int(text) for name in _COUNTS if (text := os.environ.get(name, "")).isdecimal()), 1)
    if count > 1:
        try:
            from accelerate import Accelerator
        except ImportError as error:
            raise MissingPackageError(
                f"{count} processes were launched, and the package accelerate, which connects them, is not installed: "
                "`pip install accelerate`, or train in one process, which needs no further package"
            ) from error
        accelerator = Accelerator()
        return ConnectedProcesses(accelerator, given or accelerator.device)
    return Processes(given or _usable(_default_device()))


def _leave_group() -> None:
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def check_precision(precision: str, device: torch.device) -> None:
    """Raise :class:`InputError` where `device` cannot compute in `precision` ("no" for float32, or "bf16")."""
    if precision == "bf16" and not _has_bf16(device):
        raise InputError(f"precision='bf16': {device} has no bfloat16 arithmetic; use precision=no (float32), or another device")


def sound_attention(device: torch.device) -> AbstractContextManager[None]:
    """Return a context without cuDNN's attention kernel on an NVIDIA GPU: its gradients were NaN in bfloat16 where keys are 64 tokens that
    need gradients and queries need none (torch 2.11, H200). torch has other kernels for the same."""
    if device.type != "cuda":
        return nullcontext()
    from torch.nn.attention import SDPBackend, sdpa_kernel

    kept: AbstractContextManager[None] = sdpa_kernel([SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH])
    return kept


def to_device(batch: Any, device: torch.device) -> Any:
    """Return `batch`, tensors in any nesting of dicts, lists and tuples, with its tensors on `device`."""
    if isinstance(batch, torch.Tensor):
        return batch.to(device, non_blocking=True)
    if isinstance(batch, dict):
        return {key: to_device(value, device) for key, value in batch.items()}
    if isinstance(batch, list):
        return [to_device(value, device) for value in batch]
    if isinstance(batch, tuple):
        moved = [to_device(value, device) for value in batch]
        return type(batch)(*moved) if hasattr(batch, "_fields") else tuple(moved)
    return batch


def _default_device() -> str:
    if os.environ.get("ACCELERATE_USE_CPU", "").lower() in ("1", "true", "yes"):  # what `accelerate launch --cpu` sets
        return "cpu"
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "xpu" if torch.xpu.is_available() else "cpu"


def _usable(device: str | torch.device) -> torch.device:
    try:
        place = torch.device(device)
        torch.zeros(1, device=place)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        first = (str(error).strip().splitlines() or ["unknown"])[0][:200]
        raise InputError(f"device={str(device)!r} cannot be used ({first}); expected one of this machine, such as cpu or cuda") from error
    return place


def _has_bf16(device: torch.device) -> bool:
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported()
    if not torch.amp.is_autocast_available(device.type):
        return False
    try:
        one = torch.ones(2, 2, device=device, dtype=torch.bfloat16)
        return bool(torch.isfinite(one @ one).all())
    except (RuntimeError, TypeError, NotImplementedError):
        return False
