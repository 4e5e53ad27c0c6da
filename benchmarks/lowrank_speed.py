"""Are factored U-Nets really smaller and faster? Step time, memory and multiply-adds against the dense one, at several ratios and sizes.

    python -m rapiddraw bench lowrank-speed

The shipped U-Net, and one of SD 1.5's size with random weights. Each variant takes turns with the dense network in one process. `count` and
`measure` are the latency rules: a layer stays dense where its factors would not be faster, by multiply-adds or by time. The factors are
zeros, because how long a product takes does not depend on them. For each layer, whether it was factored and why: `layers` in the result.
Peak memory is that of the weights and of what one step adds to the process (on a GPU: what torch allocated).
"""

from __future__ import annotations

import argparse
import ctypes
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from . import common
from .stopwatch import interleave, ratio

PAPER = 0.61
VARIANTS: tuple[tuple[float, str], ...] = ((0.8, "off"), (PAPER, "off"), (0.4, "off"), (PAPER, "count"), (PAPER, "measure"))
SIZES = {"orchard": (128, 256, 512), "sd15": (256, 512)}
LARGE = ((PAPER, "off"), (PAPER, "measure"))  # of the variants, those that are measured at a network's largest size as well
SLACK, GAIN = 0.97, 1.15
WHY = {"break-even": "above the break-even", "multiply-adds": "by count", "dense time": "slower here", "": "for another reason"}
SD15: dict[str, Any] = {
    "block_out_channels": (320, 640, 1280, 1280),
    "layers_per_block": 2,
    "cross_attention_dim": 768,
    "attention_head_dim": 8,
}  # the rest of it are diffusers' defaults


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--only", choices=sorted(SIZES), help="one of the networks (default both)")
    parser.add_argument("--sizes", type=int, nargs="*", metavar="PIXELS", help="sides of a picture (default 128, 256, 512; sd15 256, 512)")
    parser.add_argument("--repeats", type=int, default=3, help="measured steps of each (3)")


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Measure and return the result (see :func:`common.result`)."""
    rows: list[dict[str, Any]] = []
    layers: dict[str, list[dict[str, Any]]] = {}
    for name in [args.only] if args.only else sorted(SIZES):
        network = BUILD[name]()
        sizes = args.sizes or SIZES[name]
        for side in sizes:
            wanted = VARIANTS if len(sizes) == 1 or side < max(sizes) else LARGE
            for share, rule in wanted:
                row, listed = measure(network, side, share, rule, args.repeats)
                rows.append({"network": name, "size": side, **row})
                layers[f"{name} {side} px, {share:g}, {rule}"] = listed
        del network
    command = "python -m rapiddraw bench lowrank-speed"
    if args.sizes:
        command += f" --sizes {' '.join(map(str, args.sizes))}"
    return common.result("lowrank_speed", command, rows, _checks(rows), notes=NOTES, layers=layers)


NOTES = (
    "One picture a step, float32 on a CPU. A ratio is of the whole network's parameters; under a rule layers stay dense and more is left. "
    f"A gain is the median over turns of dense seconds by factored ones; 'never slower' allows {1 - SLACK:.0%} of noise."
)


def _checks(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    checks = []
    for rule in ("count", "measure"):
        least = min((row["times as fast"] for row in rows if row["rule"] == rule), default=1.0)
        checks.append(common.check(f"least gain under the rule {rule}", least, f"at least {SLACK} (never slower)", least >= SLACK))
    paper = [row for row in rows if row["ratio"] == PAPER and row["rule"] == "off"]
    large = [row["times as fast"] for row in paper if row["network"] == "sd15"]
    if large:
        checks.append(common.check(f"times as fast at {PAPER}, SD 1.5's size", min(large), f"at least {GAIN}", min(large) >= GAIN))
    weights = max((row["weights MB"] / row["dense weights MB"] for row in paper), default=0.0)
    checks.append(common.check(f"memory of the weights at {PAPER}", round(weights, 4), f"at most {PAPER}", weights <= PAPER + 5e-4))
    return checks


def measure(network: Any, side: int, share: float, rule: str, repeats: int) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """A row, and a line for each layer, of `network` against a copy that keeps `share` of its parameters, on pictures of `side` px."""
    import copy

    import torch

    from ..core.lowrank.factorize import factorize
    from ..core.lowrank.latency import layer_inputs, multiply_adds, slower_when_counted, slower_when_measured
    from ..core.lowrank.savings import network_size

    once = step_of(network, side)
    with torch.no_grad():
        inputs = layer_inputs(network, once)
        keep = {"off": None, "count": slower_when_counted(inputs), "measure": slower_when_measured(inputs)}[rule]
        low = copy.deepcopy(network)
        plan = factorize(low, "param_ratio", share, keep_dense=keep, values=False)
        quick = step_of(low, side)
        made = layer_inputs(low, quick)
        times = interleave({"dense": once, "low-rank": quick}, repeats)
        peaks = [peak_megabytes(step) for step in (once, quick)]
    (parameters, size), (few, small) = network_size(network), network_size(low)
    kept = Counter(next(why for word, why in WHY.items() if word in layer.reason) for layer in plan if layer.rank is None)
    row = {
        "ratio": share,
        "rule": rule,
        "left": round(few / parameters, 3),
        "dense ms": times["dense"].milliseconds(),
        "low-rank ms": times["low-rank"].milliseconds(),
        "times as fast": round(ratio(times["dense"], times["low-rank"]), 3),
        "dense GMAC": round(multiply_adds(network, inputs) / 1e9, 3),
        "GMAC": round(multiply_adds(low, made) / 1e9, 3),
        "dense weights MB": round(size / 2**20, 1),
        "weights MB": round(small / 2**20, 1),
        "dense peak MB": None if peaks[0] is None else round(size / 2**20 + peaks[0], 1),
        "peak MB": None if peaks[1] is None else round(small / 2**20 + peaks[1], 1),
        "factored": f"{sum(layer.rank is not None for layer in plan)} of {len(plan)}",
        "left dense": ", ".join(f"{count} {why}" for why, count in kept.most_common()),
    }
    listed = [{"layer": one.name, "weight": f"{one.out}x{one.inner}", "rank": one.rank, "why": one.reason} for one in plan]
    return row, listed


def step_of(network: Any, side: int) -> Callable[[], None]:
    """One evaluation of one picture of `side` px, under a prompt of 77 tokens."""
    import torch

    generator = torch.Generator().manual_seed(0)
    x = torch.randn(1, int(network.config["in_channels"]), side // 8, side // 8, generator=generator)
    tokens = torch.randn(1, 77, int(network.config["cross_attention_dim"]), generator=generator)
    device = next(network.parameters()).device
    x, tokens, t = x.to(device), tokens.to(device), torch.tensor([500], device=device)

    def once() -> None:
        with torch.no_grad():
            network(x, t, encoder_hidden_states=tokens, return_dict=False)

    return once


def peak_megabytes(step: Callable[[], None]) -> float | None:
    """What `step()` adds to the memory in use at its height; None where the system does not say (Linux and CUDA do)."""
    import torch

    from ..core.device import wait

    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        step()
        wait()
        return (torch.cuda.max_memory_allocated() - before) / 2**20
    try:
        ctypes.CDLL("libc.so.6").malloc_trim(0)  # what was freed earlier must not hide what is taken now
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # forget the highest mark so far
        before = _status("VmRSS")
        step()
        return max(_status("VmHWM") - before, 0) / 2**10
    except (OSError, AttributeError, KeyError):
        return None


def _status(key: str) -> int:
    """A line of /proc/self/status, in kilobytes."""
    lines = Path("/proc/self/status").read_text(encoding="ascii", errors="replace").splitlines()
    return int({line.partition(":")[0]: line for line in lines}[key].split()[1])


def _orchard() -> Any:
    from diffusers import UNet2DConditionModel

    from ..core.bundles.find import resolve_bundle
    from ..core.bundles.load import load_bundle
    from ..core.networks import network_of

    return _on_device(network_of(UNet2DConditionModel, load_bundle(resolve_bundle("orchard-unet.safetensors", "unet"))))


def _sd15() -> Any:
    import torch
    from diffusers import UNet2DConditionModel

    with torch.device("meta"):
        network: Any = UNet2DConditionModel(**SD15)
    network = network.to_empty(device="cpu").eval().requires_grad_(False)
    generator = torch.Generator().manual_seed(0)
    for parameter in network.parameters():
        parameter.uniform_(-0.02, 0.02, generator=generator)
    return _on_device(network)


def _on_device(network: Any) -> Any:
    import torch

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return network.to(device)


BUILD: dict[str, Callable[[], Any]] = {"orchard": _orchard, "sd15": _sd15}


def plot(outcome: dict[str, Any], path: Path) -> None:
    """Times as fast against the share of the parameters that is left, a line a network and size."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(6, 3.4))
    markers = {"off": "o", "count": "s", "measure": "^"}
    for network, size in dict.fromkeys((row["network"], row["size"]) for row in outcome["rows"]):
        rows = [row for row in outcome["rows"] if (row["network"], row["size"]) == (network, size)]
        line = axes.plot([], [], label=f"{network}, {size} px")[0]
        for row in rows:
            axes.plot(row["left"], row["times as fast"], markers[row["rule"]], color=line.get_color())
    axes.axhline(1, color="grey", linewidth=0.8)
    axes.set_xlabel("share of the parameters (circle: no rule, square: count, triangle: measure)")
    axes.set_ylabel("times as fast")
    axes.legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    pyplot.close(figure)
