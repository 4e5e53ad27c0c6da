"""Speed and size of factored U-Nets: step time, memory and multiply-adds against the dense one, at several ratios and sizes.

    python -m rapiddraw bench lowrank-speed

The shipped U-Net, and one of SD 1.5's size with random weights. Each variant takes turns with the dense network in one process. `count` and
`measure` are the latency rules: a layer stays dense where its factors would not be faster, by multiply-adds or by time. The factors are
zeros, because the time of a product does not depend on them. `layers` in the result says for each layer whether it was factored and why.
Peak memory is that of the weights and of what one step adds to the process (on a GPU: what torch allocated).
"""

from __future__ import annotations

import argparse
import ctypes
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..core.metrics.bootstrap import Estimate, smallest
from . import common
from .checks import CHOSEN, Expectation, at_least, at_most, exact
from .stopwatch import gain_cells, interleave, ratio, turns

PAPER = 0.61
"""The paper's share of the parameters (ELR-Diffusion)."""
VARIANTS: tuple[tuple[float, str], ...] = ((0.8, "off"), (PAPER, "off"), (0.4, "off"), (PAPER, "count"), (PAPER, "measure"))
SIZES = {"orchard": (128, 256, 512), "sd15": (256, 512)}
LARGE = ((PAPER, "off"), (PAPER, "measure"))  # the variants that are measured at a network's largest size as well
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
    parser.add_argument("--repeats", type=int, default=7, help="measured steps of each (7)")


def expectations(args: argparse.Namespace) -> dict[str, Expectation]:
    """Return the expectations by key."""
    timed, networks = turns(args.repeats), [args.only] if args.only else sorted(SIZES)
    wanted = {
        rule: Expectation(f"times as fast as dense under the rule {rule}, the least of the rows", at_least(0.97), CHOSEN, timed)
        for rule in ("count", "measure")
    }
    if "sd15" in networks:
        wanted["large"] = Expectation(f"times as fast as dense at {PAPER}, SD 1.5's size, the least", at_least(1.15), CHOSEN, timed)
    weights = f"memory of the weights at {PAPER} of the parameters, over the dense one's, the most"
    return wanted | {"weights": Expectation(weights, at_most(PAPER + 5e-4), CHOSEN, exact(len(networks), "networks"))}


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Measure and return the result (see :func:`common.result`)."""
    rows: list[dict[str, Any]] = []
    gains: dict[tuple[str, float, str, int], Estimate] = {}
    layers: dict[str, list[dict[str, Any]]] = {}
    for name in [args.only] if args.only else sorted(SIZES):
        network = BUILD[name]()
        sizes = args.sizes or SIZES[name]
        for side in sizes:
            wanted = VARIANTS if len(sizes) == 1 or side < max(sizes) else LARGE
            for share, rule in wanted:
                row, listed, gains[name, share, rule, side] = measure(network, side, share, rule, args.repeats)
                rows.append({"network": name, "size": side, **row})
                layers[f"{name} {side} px, {share:g}, {rule}"] = listed
        del network
    command = "python -m rapiddraw bench lowrank-speed"
    if args.sizes:
        command += f" --sizes {' '.join(map(str, args.sizes))}"
    return common.result("lowrank_speed", command, rows, _checks(expectations(args), rows, gains), notes=NOTES, layers=layers)


NOTES = (
    "One picture a step, float32 on a CPU. A ratio is of the whole network's parameters; under a rule layers stay dense and more is left. "
    "A gain is the median over the turns of dense seconds over factored ones; 'at least 0.97' allows 3% of noise."
)


def _checks(wanted: dict[str, Expectation], rows: list[dict[str, Any]], gains: dict[tuple[str, float, str, int], Estimate]) -> list[Any]:
    checks = [wanted[rule].judge(smallest([gain for key, gain in gains.items() if key[2] == rule])) for rule in ("count", "measure")]
    if "large" in wanted:
        checks.append(wanted["large"].judge(smallest([gain for key, gain in gains.items() if key[:3] == ("sd15", PAPER, "off")])))
    paper = [row for row in rows if row["ratio"] == PAPER and row["rule"] == "off"]
    return [*checks, wanted["weights"].judge(max(row["weights MB"] / row["dense weights MB"] for row in paper))]


def measure(network: Any, side: int, share: float, rule: str, repeats: int) -> tuple[dict[str, Any], list[dict[str, Any]], Estimate]:
    """Measure `network` against a copy that keeps `share` of its parameters, on pictures of `side` px.

    Returns the row, a line for each layer, and how many times as fast the copy is.
    """
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
    gain = ratio(times["dense"], times["low-rank"])
    row = {
        "ratio": share,
        "rule": rule,
        "left": round(few / parameters, 3),
        "dense ms": times["dense"].milliseconds(),
        "low-rank ms": times["low-rank"].milliseconds(),
        **gain_cells(gain, "times as fast"),
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
    return row, listed, gain


def step_of(network: Any, side: int) -> Callable[[], None]:
    """Return a function that evaluates one picture of `side` px under a prompt of 77 tokens."""
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
    """Return what `step()` adds to the memory in use at its height; None where the system does not say (Linux and CUDA do)."""
    import torch

    from ..core.device import wait

    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        step()
        wait()
        return (torch.cuda.max_memory_allocated() - before) / 2**20
    try:
        ctypes.CDLL("libc.so.6").malloc_trim(0)  # memory that was freed earlier must not hide what is taken now
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # forget the highest mark so far
        before = _status("VmRSS")
        step()
        return max(_status("VmHWM") - before, 0) / 2**10
    except (OSError, AttributeError, KeyError):
        return None


def _status(key: str) -> int:
    """Return a number of /proc/self/status, in kilobytes."""
    lines = Path("/proc/self/status").read_text(encoding="ascii", errors="replace").splitlines()
    return int({line.partition(":")[0]: line for line in lines}[key].split()[1])


def _orchard() -> Any:
    from diffusers import UNet2DConditionModel

    from ..core.bundles.load import load_bundle
    from ..core.networks import network_of
    from .shipped import shipped

    return _on_device(network_of(UNet2DConditionModel, load_bundle(shipped("unet", "unet"))))


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
    """Draw times as fast over the share of the parameters that is left, a line a network and size."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 3.4), layout="constrained")
    axes = figure.add_subplot()
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
    figure.savefig(path, format="png", dpi=110)
