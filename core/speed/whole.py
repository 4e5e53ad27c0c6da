"""A network as one region: all of it in bf16, or compiled in one piece, where that is faster than the decisions for its blocks.

Block by block, every result is converted back to full precision and nothing is joined across blocks. In one piece, bf16 is kept throughout,
and the compiler joins norms, activations and sums of neighbouring layers. This costs the most compiling and serves fewer calls: a call that
the compiled piece does not fit (a batch of one instead of two, another ControlNet) runs as before, and nothing is compiled again.
"""

from __future__ import annotations

import time
import weakref
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import nn

from ..device import timed
from .apply import call_afresh
from .eager import in_bf16
from .measure import GAIN, best_seconds, difference, rounding
from .plan import Plan
from .regions import Group, Sample, first_tensor, halves

KIND = "whole network"
SAME = 2e-2
"""The largest change of a network's result by bf16, relative to its size: twice that of a single block."""
THROUGHOUT = 3.0
"""Factor from the rounding allowed in a block to that in the whole network, where it adds up (measured: 1.1e-3 in float16, 8e-3 in
bf16)."""
A_LAYER = 0.4
"""Seconds of compiling for each layer, on two cores (measured: 70 to 105 s for the Orchard's U-Net of 230)."""
SETTLED = 0.8
"""Where bf16 throughout takes less than this part of the time, the blocks are not measured."""
_LONG = 1.0  # for an evaluation of more seconds, one run is enough


def whole_plan(network: nn.Module) -> Plan | None:
    """Return a plan for the network in one piece; None where it is used by halves (a VAE) or other code has patched its `forward`."""
    if halves(network) or "forward" in vars(network):
        return None
    return Plan(Group(KIND, "forward", type(network).forward, [weakref.ref(network)]), share=1.0)


def try_bf16(whole: Plan, sample: Sample, deadline: float) -> None:
    """Put bf16 throughout into the plan where it is clearly faster (:data:`SETTLED`) and the result stays equal. A slow network is run once
    and compared with the evaluation in `sample`. Nothing is run where that would end after `deadline`."""
    ways = _ways(whole, sample)
    if not _is_float32(sample):
        return
    left = deadline - time.perf_counter()
    if sample.seconds > _LONG and sample.calls == 1 and left > sample.seconds:
        out, seconds = timed(ways["bf16"])
        times, reference = {"eager": sample.seconds, "bf16": seconds}, sample.out
    elif left > 6 * sample.seconds:
        out, reference = ways["bf16"](), ways["eager"]()
        times = best_seconds(ways, 2)
    else:
        return
    if times["bf16"] < SETTLED * times["eager"] and difference(out, reference) <= SAME:
        whole.bf16, whole.eager, whole.now = True, times["eager"], times["bf16"]


def arrange(whole: Plan, sample: Sample, by_blocks: Callable[[], Any] | None, allow_bf16: bool, deadline: float) -> bool:
    """Run the network eagerly, as decided for its blocks (`by_blocks()`; None without decisions) and, where allowed, in bf16; write the
    decision for the whole network into its plan. Return whether to keep the blocks' decisions: not where all of them together are slower
    than eager, or wrong. Nothing is run where that would end after `deadline` (of `time.perf_counter`)."""
    ways = _ways(whole, sample)
    if not allow_bf16 or not _is_float32(sample):
        del ways["bf16"]
    if by_blocks is not None:
        ways["blocks"] = by_blocks
    runs = 1 if sample.seconds > _LONG else 2
    if len(ways) == 1 or time.perf_counter() + (runs + 2) * len(ways) * sample.seconds > deadline:
        return True
    reference = ways["eager"]()
    limit = max(SAME, THROUGHOUT * rounding(reference))
    wrong = {name for name, way in ways.items() if name != "eager" and difference(way(), reference) > limit}
    times = {name: seconds for name, seconds in best_seconds(ways, runs).items() if name not in wrong}
    eager, together, half = times["eager"], times.get("blocks", float("inf")), times.get("bf16", float("inf"))
    whole.eager, whole.bf16 = eager, half < GAIN * min(eager, together)
    whole.now = half if whole.bf16 else min(eager, together)
    return by_blocks is None or together < eager


def compiling_time(whole: Plan) -> float:
    """Return the seconds that compiling the network may take with an empty cache on disk."""
    return A_LAYER * sum(not list(module.children()) for module in whole.group.alive()[0].modules())


def can_stay_closed() -> bool:
    """Whether torch can be told to compile nothing more: from 2.6."""
    return hasattr(torch.compiler, "set_stance")


def _ways(whole: Plan, sample: Sample) -> dict[str, Callable[[], Any]]:
    network, function = whole.group.alive()[0], whole.group.function
    runs = {"eager": partial(function, network), "bf16": partial(in_bf16, function, network)}
    return {name: partial(call_afresh, run, sample) for name, run in runs.items()}


def _is_float32(sample: Sample) -> bool:
    first = first_tensor(sample.args)
    return first is not None and first.dtype == torch.float32
