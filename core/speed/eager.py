"""Ways to compute a block without compiling it: another memory format, products in bf16."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import amp, nn

from .dense import dense_in_bf16, layers
from .measure import GAIN, best_seconds, difference
from .plan import Plan
from .regions import Group, Sample, first_tensor, in_channels_last

BF16_SAME = 1e-2
"""The most that bf16 may change a block's result, relative to its size."""


@dataclass(frozen=True)
class Way:
    """How a block computes without a compiler: with its products in bf16 or in its own dtype, in channels-last or in the given memory."""

    bf16: bool = False
    channels_last: bool = False


EAGER, BF16 = Way(), Way(bf16=True)
Order = list[tuple[Plan, Sample]]
"""Every group with its sample, the costliest first."""


def choose(order: Order, allow_bf16: bool, deadline: float) -> bool:
    """Measure a block of each group until `deadline` (of `time.perf_counter`), write the decision on bf16 into the plans, and return
    whether the whole network should compute in channels-last memory."""
    total = sum(sample.seconds for _, sample in order) or 1.0
    sums = {False: 0.0, True: 0.0}
    tried: list[tuple[Plan, dict[Way, float]]] = []
    for plan, sample in order:
        module = next(iter(plan.group.alive()), None)
        plan.share = sample.seconds / total
        if not sample.seen or module is None or time.perf_counter() > deadline:
            continue
        ways = _ways(plan.group, module, sample, allow_bf16)
        times = best_seconds(ways)
        if BF16 in ways and difference(ways[BF16](), ways[EAGER]()) > BF16_SAME:
            times = {way: seconds for way, seconds in times.items() if not way.bf16}
        tried.append((plan, times))
        for layout in sums:
            able = [seconds for way, seconds in times.items() if way.channels_last == layout]
            sums[layout] += len(plan.group.modules) * min(able or times.values())
    channels_last = sums[True] < GAIN * sums[False]
    for plan, times in tried:
        layout = channels_last and Way(channels_last=True) in times
        plain = times[Way(channels_last=layout)]
        half = times.get(Way(bf16=True, channels_last=layout), float("inf"))
        plan.bf16, plan.eager = half < GAIN * plain, times[EAGER]
        plan.now = half if plan.bf16 else plain
    return channels_last


def in_bf16(function: Callable[..., Any], module: nn.Module, *args: Any, **kwargs: Any) -> Any:
    """Return the block's result with its products in bf16; input and result keep their dtype. `function` is the block's own method, or
    the compiled one; a dense block's own method is computed by :mod:`.dense`."""
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


def _ways(group: Group, module: nn.Module, sample: Sample, allow_bf16: bool) -> dict[Way, Callable[[], Any]]:
    arguments = {False: sample.args, True: tuple(in_channels_last(value) for value in sample.args)}
    if all(a is b for a, b in zip(arguments[False], arguments[True], strict=True)):
        del arguments[True]
    first = first_tensor(sample.args)
    ways: dict[Way, Callable[[], Any]] = {}
    for layout, args in arguments.items():
        ways[Way(channels_last=layout)] = partial(group.function, module, *args, **sample.kwargs)
        if allow_bf16 and first is not None and first.dtype == torch.float32:
            ways[Way(bf16=True, channels_last=layout)] = partial(in_bf16, group.function, module, *args, **sample.kwargs)
    return ways
