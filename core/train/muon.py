"""Muon: momentum whose matrices are made orthogonal before each step (Jordan et al. 2024), for inner layers of a network.

torch's own `torch.optim.Muon` takes matrices only and is there from torch 2.9 on; this one takes convolutions too, as matrices of
(output channels, everything else), and runs on every torch that the pack supports.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

COEFFICIENTS = (3.4445, -4.7750, 2.0315)
"""Of the quintic whose five rounds bring every singular value near 1 (Jordan et al. 2024)."""
ROUNDS = 5


class Muon(torch.optim.Optimizer):
    """Nesterov momentum, made orthogonal by Newton-Schulz rounds.

    Each step moves a weight by `lr * 0.2 * sqrt(max(rows, columns))` times an orthogonal matrix, which has about the root mean square of a
    step of AdamW (Liu et al. 2025), so that both optimizers share a learning rate. Raises :class:`ValueError` for a parameter of fewer than
    two dimensions.
    """

    def __init__(self, parameters: Iterable[Tensor], lr: float = 1e-3, momentum: float = 0.95, weight_decay: float = 0.0) -> None:
        super().__init__(parameters, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})
        small = [tuple(p.shape) for group in self.param_groups for p in group["params"] if p.dim() < 2]
        if small:
            raise ValueError(f"Muon orthogonalises matrices; {small[0]} has fewer than two dimensions: give it to AdamW")

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # type: ignore[override]
        """Take one step from the gradients that are there."""
        loss = closure() if closure is not None else None
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is None:
                    continue
                state = self.state[p]
                if "momentum" not in state:
                    state["momentum"] = torch.zeros_like(p, memory_format=torch.preserve_format)
                mean = state["momentum"].lerp_(p.grad, 1 - group["momentum"])
                update = orthogonalised(p.grad.lerp(mean, group["momentum"]).flatten(1))
                if group["weight_decay"]:
                    p.mul_(1 - group["lr"] * group["weight_decay"])
                p.add_(update.reshape(p.shape), alpha=-group["lr"] * 0.2 * math.sqrt(max(update.shape)))
        return loss


def orthogonalised(matrix: Tensor) -> Tensor:
    """Return the orthogonal matrix nearest to `matrix` (rows, columns), approximately: its singular values become 0.7 to 1.2."""
    a, b, c = COEFFICIENTS
    tall = matrix.shape[0] > matrix.shape[1]
    x = matrix.T if tall else matrix
    x = x / (x.norm() + 1e-7)
    for _ in range(ROUNDS):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.T if tall else x


def matrices_of(network: torch.nn.Module, first_and_last: Iterable[torch.nn.Module] = ()) -> tuple[list[Tensor], list[Tensor]]:
    """Return (the trainable weights of inner convolutions and linear layers, all other trainable parameters).

    The layers `first_and_last`, which meet pictures and latents, count among the others: their rows mean colours, not directions.
    """
    kept = {id(p) for module in first_and_last for p in module.parameters()}
    chosen: list[Tensor] = [p for p in network.parameters() if p.requires_grad]
    inner = [p for p in chosen if p.dim() in (2, 4) and id(p) not in kept and min(p.flatten(1).shape) > 1]
    taken = {id(p) for p in inner}
    return inner, [p for p in chosen if id(p) not in taken]
