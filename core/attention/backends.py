"""Attention kernels: which exist on this machine, which calls each can compute, and how it is called.

Rapid Diffusion, section 3.2.2: "different FlashAttention kernel implementations for various combinations of computing devices and hardware
architectures and dynamic inputs". The choice among them is measured (:mod:`.select`), not made here.

Every kernel computes softmax(q k^T / sqrt(D) + mask) v. Where a kernel does not support a head size, the heads are padded with zeros. This
changes no score and adds zero columns to the result, which are removed again; the scale stays that of the true head size.
"""

from __future__ import annotations

import importlib
import importlib.util
import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own name for it
from einops import rearrange
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from .call import Call
from .tiled import tiled_attention

HALF = (torch.float16, torch.bfloat16)
MAX_SCORES = 2**28
"""Limit of scores (batch x heads x queries x keys) for a kernel that holds all of them in memory: 1 GB in float32."""
log = logging.getLogger("rapiddraw")


@dataclass(frozen=True)
class Backend:
    """A kernel. `run(q, k, v, mask)` takes (B, H, T, D) and an additive mask broadcastable to (B, H, Tq, Tk), or None.

    `takes(call)` says whether it can compute a call. `exact` means equal to the formula within the dtype's rounding. `package` is the
    Python package that it needs, if any.
    """

    name: str
    run: Callable[[Tensor, Tensor, Tensor, Tensor | None], Tensor]
    takes: Callable[[Call], bool]
    exact: bool = True
    package: str | None = None

    def available(self) -> bool:
        """Return whether the kernel is installed here. For devices see `takes`."""
        return self.package is None or has_package(self.package)


@cache
def has_package(name: str) -> bool:
    """Return whether a package is installed and can be imported. A package built for another torch or CUDA counts as missing."""
    try:
        if importlib.util.find_spec(name) is None:
            return False
        importlib.import_module(name)
    except Exception as error:  # a compiled package fails in many ways
        log.info("%s is installed but cannot be used (%s: %s)", name, type(error).__name__, error)
        return False
    return True


def pad_heads(q: Tensor, k: Tensor, v: Tensor, multiple: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return q, k, v with zeros after the last head feature, up to a multiple of `multiple`; the same objects where nothing is missing."""
    missing = -q.shape[-1] % multiple
    return (F.pad(q, (0, missing)), F.pad(k, (0, missing)), F.pad(v, (0, missing))) if missing else (q, k, v)


def _sdpa(kernel: SDPBackend, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    width = q.shape[-1]
    if q.is_cuda:
        q, k, v = pad_heads(q, k, v, 8)
    elif kernel == SDPBackend.FLASH_ATTENTION:
        # On a CPU torch chooses its flash kernel by itself. To force it costs as much as a small call and affects other threads.
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=width**-0.5)
    with sdpa_kernel(kernel):
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=width**-0.5)[..., :width]


def _flash_attn(module: str, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    width = q.shape[-1]
    q, k, v = (rearrange(t, "b h t d -> b t h d") for t in pad_heads(q, k, v, 8))
    out: Any = importlib.import_module(module).flash_attn_func(q, k, v, softmax_scale=width**-0.5)
    return rearrange(out[0] if isinstance(out, tuple) else out, "b t h d -> b h t d")[..., :width]


def _xformers(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    width = q.shape[-1]
    q, k, v = (rearrange(t, "b h t d -> b t h d") for t in pad_heads(q, k, v, 8))
    attention = importlib.import_module("xformers.ops").memory_efficient_attention
    return rearrange(attention(q, k, v, scale=width**-0.5), "b t h d -> b h t d")[..., :width]


def _sage(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    width = q.shape[-1]
    q, k, v = pad_heads(q, k, v, 64)
    attention = importlib.import_module("sageattention").sageattn
    return attention(q, k, v, tensor_layout="HND", is_causal=False, sm_scale=width**-0.5)[..., :width]


def _tiled(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    return tiled_attention(q, k, v, mask)


def _cuda(call: Call, oldest: int = 8, newest: int = 99) -> bool:
    """Return whether the call is on an NVIDIA GPU whose generation (major compute capability) is in this range."""
    if call.device.type != "cuda" or torch.version.cuda is None:
        return False
    return oldest <= torch.cuda.get_device_capability(call.device)[0] <= newest


def _takes_flash(call: Call) -> bool:
    if call.device.type == "cpu":
        return call.dtype.is_floating_point
    return _cuda(call) and call.dtype in HALF and call.head_dim <= 256 and not call.masked


def _takes_efficient(call: Call) -> bool:
    return _cuda(call, oldest=5) and call.dtype in (*HALF, torch.float32)


def _takes_math(call: Call) -> bool:
    return call.batch * call.heads * call.queries * call.keys <= MAX_SCORES


def _takes_package(call: Call, width: int = 256, newest: int = 99, oldest: int = 8) -> bool:
    return _cuda(call, oldest, newest) and call.dtype in HALF and call.head_dim <= width and not call.masked


BACKENDS: dict[str, Backend] = {
    one.name: one
    for one in (
        Backend("flash_attn_3", partial(_flash_attn, "flash_attn_interface"), partial(_takes_package, oldest=9, newest=9),
                package="flash_attn_interface"),
        Backend("flash_attn_2", partial(_flash_attn, "flash_attn"), _takes_package, package="flash_attn"),
        Backend("sdpa_flash", partial(_sdpa, SDPBackend.FLASH_ATTENTION), _takes_flash),
        Backend("sdpa_cudnn", partial(_sdpa, SDPBackend.CUDNN_ATTENTION), partial(_takes_package, width=128)),
        Backend("sdpa_efficient", partial(_sdpa, SDPBackend.EFFICIENT_ATTENTION), _takes_efficient),
        Backend("sdpa_math", partial(_sdpa, SDPBackend.MATH), _takes_math),
        Backend("xformers", _xformers, _takes_package, package="xformers"),
        Backend("sage", _sage, partial(_takes_package, width=128), exact=False, package="sageattention"),
        Backend("tiled", _tiled, lambda call: call.dtype.is_floating_point),
    )
}  # fmt: skip
"""Every kernel by name. ComfyUI's own choice is not among them: a patch gets it with each call, as the default."""
