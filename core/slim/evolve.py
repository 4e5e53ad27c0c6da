"""Evolution of a U-Net's architecture: blocks are removed and copied until a latency budget is met (SnapFusion, Algorithm 1).

The loss of an action is the change of the network's raw output, where the paper takes the drop of a CLIP score; its saving comes from a
table of latencies. A removed block saves its own time, a copied one costs that of the block it is a copy of. Only transformers are copied,
as in the paper's result.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ..errors import InputError
from .blocks import LIST, RESIDUAL, TRANSFORMER, Block, blocks_of
from .rating import WHOLE, changes_without
from .stand_ins import remove
from .tricks import copy_transformer

Predict = Callable[[], Sequence[Tensor]]


@dataclass(frozen=True)
class Goal:
    """The cost to reach, in the unit of the table of costs; in how many `rounds` blocks are rated; how many blocks are copied at most.

    Between two rounds an equal part of what is too much is removed."""

    budget: float
    rounds: int = 3
    copies: int = 1


@dataclass(frozen=True)
class Evolved:
    """The cost of the network that came out, by the table, and a line for each action."""

    cost: float
    actions: tuple[str, ...]


def removable(network: Any) -> list[Block]:
    """Return the blocks that an action may remove: residual blocks and whole transformers."""
    return [block for block in blocks_of(network) if block.kind in (RESIDUAL, TRANSFORMER) and not block.is_removed]


def least_cost(network: Any, costs: Mapping[str, float]) -> float:
    """Return the cost of `network` with every removable block gone, by the table `costs`."""
    return costs[WHOLE] - sum(costs[block.name] for block in removable(network))


def check_goal(network: Any, costs: Mapping[str, float], goal: Goal, whole: float) -> None:
    """Raise :class:`InputError` where not even the removal of every block meets the budget. `whole` is the cost that shares refer to."""
    least = least_cost(network, costs)
    if least > goal.budget:
        raise InputError(
            f"latency={goal.budget / whole:.2f} cannot be met: with every residual block and transformer removed this model still takes "
            f"{least / whole:.2f} of its time here. Give more than that, or fewer steps, a smaller picture or a smaller model"
        )


def evolve(network: Any, costs: Mapping[str, float], predict: Predict, goal: Goal) -> Evolved:
    """Remove and copy blocks of `network`, in place, until its cost by the table is at most the budget.

    `costs` has the cost of every block by name and that of the whole network; `predict()` gives the network's raw outputs for fixed inputs.
    In each round all blocks are rated, and those of the least loss for a saved unit are removed. Then the transformers of the largest loss
    for a unit are copied while the budget lasts. Raises :class:`InputError` for a budget that cannot be met."""
    check_goal(network, costs, goal, costs[WHOLE])
    total, actions = costs[WHOLE], []
    dearest = sorted((_copy_cost(block, costs) for block in removable(network) if block.kind == TRANSFORMER), reverse=True)
    least = max(least_cost(network, costs), goal.budget - sum(dearest[: goal.copies])) if total > goal.budget else goal.budget
    too_much = max(0.0, total - least)
    worth: dict[str, float] = {}
    for number in range(1, goal.rounds + 1):
        left = removable(network)
        changed = changes_without(network, left, predict)
        worth = {block.name: changed[block.name] / max(costs[block.name], 1e-12) for block in left}
        chosen: list[Block] = []
        for block in sorted(left, key=lambda block: worth[block.name]):
            if total <= least + too_much * (goal.rounds - number) / goal.rounds + 1e-12 * costs[WHOLE]:
                break
            chosen.append(block)
            total -= costs[block.name]
            actions.append(f"round {number}: removed {block.name}, change {changed[block.name]:.4g}")
        remove(network, chosen)
    copied = 0
    kept = [block for block in removable(network) if block.kind == TRANSFORMER]
    for block in sorted(kept, key=lambda block: -worth.get(block.name, 0.0)):
        cost = _copy_cost(block, costs)
        if copied < goal.copies and total + cost <= goal.budget:
            copy_transformer(block)
            total, copied = total + cost, copied + 1
            actions.append(f"copied the last block of {block.name}")
    return Evolved(total, tuple(actions))


def _copy_cost(block: Block, costs: Mapping[str, float]) -> float:
    """Return the cost of one more block at the end of a transformer: that of its last one's parts, or its own share by number."""
    last = len(getattr(block.module, LIST)) - 1
    inner = [cost for name, cost in costs.items() if name.startswith(f"{block.name}.{LIST}.{last}.")]
    return sum(inner) if inner else costs[block.name] / (last + 1)
