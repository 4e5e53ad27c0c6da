"""The ways to compute a block without compiling it: another memory format, bf16 products."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import amp, nn

from .dense import dense_in_bf16, layers
from .measure import GAIN, best_seconds, difference
from .plan import Plan
from .regions import Group, Sample, channels_last, first_tensor

BF16_SAME = 1e-2
"""The most that bf16 may change a block's result, relative to its size."""
Order = list[tuple[Plan, Sample]]
"""Every group with what was seen of it, the costliest first."""


def choose(order: Order, allow_bf16: bool, deadline: float) -> bool:
    """Measure a block of each group until `deadline` (of `time.perf_counter`), decide on bf16 in the plans, and return whether the whole
    network should compute in channels-last memory."""
    total = sum(sample.seconds for _, sample in order) or 1.0
    sums = {False: 0.0, True: 0.0}
    tried: list[tuple[Plan, dict[str, float]]] = []
    for plan, sample in order:
        module = next(iter(plan.group.alive()), None)
        plan.share = sample.seconds / total
        if not sample.seen or module is None or time.perf_counter() > deadline:
            continue
        ways = _ways(plan.group, module, sample, allow_bf16)
        times = best_seconds(ways)
        if "bf16" in ways and difference(ways["bf16"](), ways["eager"]()) > BF16_SAME:
            times = {name: seconds for name, seconds in times.items() if "bf16" not in name}
        tried.append((plan, times))
        for last in sums:
            able = [seconds for name, seconds in times.items() if ("last" in name) == last]
            sums[last] += len(plan.group.modules) * min(able or times.values())
    last_first = sums[True] < GAIN * sums[False]
    for plan, times in tried:
        plain = times["last" if last_first and "last" in times else "eager"]
        half = times.get("bf16 last" if last_first and "last" in times else "bf16", float("inf"))
        plan.bf16, plan.eager = half < GAIN * plain, times["eager"]
        plan.now = half if plan.bf16 else plain
    return last_first


def in_bf16(function: Callable[..., Any], module: nn.Module, *args: Any, **kwargs: Any) -> Any:
    """The block with its products in bf16; its input and its result, tensors, in the dtype it was given. `function` is
    its own method, or that compiled; a dense block's own is computed as :mod:`.dense` does."""
    if function is type(module).forward and len(args) == 1 and (convolutions := layers(module)) is not None:
        return dense_in_bf16(convolutions, args[0])
    first = next(value for value in args if isinstance(value, torch.Tensor))
    with amp.autocast(first.device.type, torch.bfloat16):
        out = function(module, *args, **kwargs)
    return _as(first.dtype, out)


def _as(dtype: torch.dtype, out: Any) -> Any:
    if isinstance(out, tuple):
        return tuple(_as(dtype, one) for one in out)
    return out.to(dtype) if isinstance(out, torch.Tensor) and out.is_floating_point() else out


def _ways(group: Group, module: nn.Module, sample: Sample, allow_bf16: bool) -> dict[str, Callable[[], Any]]:
    args, kwargs = sample.args, sample.kwargs
    turned = tuple(channels_last(value) for value in args)
    first = first_tensor(args)
    ways: dict[str, Callable[[], Any]] = {"eager": partial(group.function, module, *args, **kwargs)}
    differs = any(a is not b for a, b in zip(args, turned, strict=True))
    if differs:
        ways["last"] = partial(group.function, module, *turned, **kwargs)
    if allow_bf16 and first is not None and first.dtype == torch.float32:
        ways["bf16"] = partial(in_bf16, group.function, module, *args, **kwargs)
        if differs:
            ways["bf16 last"] = partial(in_bf16, group.function, module, *turned, **kwargs)
    return ways
