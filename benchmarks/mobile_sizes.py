"""Sizes of U-Nets at the papers' sizes, counted without weights: the first part of `bench mobile`."""

from __future__ import annotations

from typing import Any

from .checks import PAPER, Check, Expectation, above, between, exact

PAPERS = {"sd15": (862, 392), "snapfusion": (848, 285), "mobile": (386, 182), "mobile-lite": (278, 153)}
"""Parameters in millions and GFLOPs of MobileDiffusion's Table 1, for latents of 64 x 64."""
NAMES = {"sd15": "SD 1.5", "snapfusion": "SnapFusion", "mobile": "MobileDiffusion", "mobile-lite": "MobileDiffusion-Lite"}
SAVES = {
    "no self-attention at high resolution": "multiply-adds",
    "one projection for keys and values": "parameters",
    "trimmed feed-forward": "parameters",
    "separable convolutions": "parameters",
    "fewer residual blocks": "multiply-adds",
}
"""What the slides say that a change saves. "More transformers in the middle" saves by fewer channels, which no surgery gives."""
TOLERANCE, SIDE, TOKENS = 0.05, 64, 77
_TABLE, _SLIDES = "MobileDiffusion, Table 1", "MobileDiffusion, Attention Modules and Conv Modules"


def expectations() -> dict[str, Expectation]:
    """Return the expectations by key: sizes within 5% of the paper's, and the sign of what each change saves."""
    bound, wanted = between(1 - TOLERANCE, 1 + TOLERANCE), {}
    for name in PAPERS:
        for what in ("parameters", "GFLOPs"):
            wanted[f"{name} {what}"] = Expectation(f"{what} of {NAMES[name]}, by the paper's", bound, PAPER, exact(1, "networks"), _TABLE)
    for name, what in SAVES.items():
        wanted[name] = Expectation(f"share of SD 1.5's {what} saved by '{name}'", above(0), PAPER, exact(1, "networks"), _SLIDES)
    return wanted


def measure() -> tuple[list[dict[str, Any]], list[Check]]:
    """Return the rows and the checks. No network gets memory, so that this takes seconds."""
    import torch

    from ..core.slim.changes import apply_changes
    from ..core.slim.presets import build
    from ..core.slim.switches import SWITCHES, switched

    wanted, rows, checks, found = expectations(), [], [], {}
    with torch.device("meta"):
        for name, (millions, giga) in PAPERS.items():
            found[name] = cost = _cost(build(name))
            rows.append({"table": "papers", "model": NAMES[name], **_cells(*cost), "paper M": millions, "paper GFLOPs": giga})
            checks.append(wanted[f"{name} parameters"].judge(cost[0] / 1e6 / millions))
            checks.append(wanted[f"{name} GFLOPs"].judge(cost[1] / 1e9 / giga))
        dense = found["sd15"]
        for name in SWITCHES:
            network = build("sd15")
            apply_changes(network, switched(network, [name]), values=False)
            cost = _cost(network)
            rows.append({"table": "changes of SD 1.5", "model": name, **_cells(*cost)})
            if name in SAVES:
                which = ("parameters", "multiply-adds").index(SAVES[name])
                checks.append(wanted[name].judge(1 - cost[which] / dense[which]))
    return rows, checks


def _cost(network: Any) -> tuple[int, int]:
    """Return (parameters, multiply-adds of one evaluation) of a U-Net without memory."""
    import torch

    from ..core.metrics.blocks import Cost, metered, weight_size

    costs: dict[str, Cost] = {}
    with metered(network, costs, count=True), torch.no_grad():
        x = torch.empty(1, network.config["in_channels"], SIDE, SIDE)
        network(x, torch.zeros(1), encoder_hidden_states=torch.empty(1, TOKENS, network.config["cross_attention_dim"]))
    return weight_size(network)[0], costs["all"].multiply_adds


def _cells(parameters: int, multiply_adds: int) -> dict[str, float]:
    return {"parameters M": round(parameters / 1e6, 1), "GMAC": round(multiply_adds / 1e9, 1)}
