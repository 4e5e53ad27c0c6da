"""Evolution to a budget: the least missed block for its cost goes first, the most missed transformer is copied, and no budget is missed."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from rapiddraw.core.errors import InputError
from rapiddraw.core.slim.blocks import RESIDUAL, TRANSFORMER, blocks_of
from rapiddraw.core.slim.changes import changes_of
from rapiddraw.core.slim.evolve import Goal, evolve, least_cost, removable
from rapiddraw.core.slim.rating import WHOLE
from rapiddraw.tests.slim_helpers import output, small_unet


def table(network: Any, **dear: float) -> dict[str, float]:
    """A cost of 1 for each residual block and transformer, a quarter for what is inside, and 2 for the rest of the network."""
    costs = {block.name: 1.0 if block.kind in (RESIDUAL, TRANSFORMER) else 0.25 for block in blocks_of(network)}
    costs |= {name.replace("__", "."): cost for name, cost in dear.items()}
    whole = sum(costs[block.name] for block in removable(network))
    return {**costs, WHOLE: whole + 2.0}


def silent(network: Any, *names: str) -> None:
    """Make blocks give nothing."""
    for block in blocks_of(network):
        if block.name in names:
            last = block.module.get_submodule("conv2" if block.kind == RESIDUAL else "proj_out")
            for weight in last.parameters():
                weight.data.zero_()


@pytest.mark.parametrize("rounds", [1, 3])
def test_what_nobody_misses_goes_first(rounds: int) -> None:
    network = small_unet()
    useless = ("down_blocks.0.attentions.1", "up_blocks.1.attentions.0", "up_blocks.1.resnets.2")
    silent(network, *useless)
    before, costs = output(network), table(network)
    done = evolve(network, costs, lambda: [output(network)], Goal(costs[WHOLE] - 3, rounds, copies=0))
    assert changes_of(network).removed == useless and done.cost == pytest.approx(costs[WHOLE] - 3)
    assert torch.equal(output(network), before) and len(done.actions) == 3


def test_a_dear_block_goes_before_a_cheap_one_of_equal_loss() -> None:
    network = small_unet()
    silent(network, "down_blocks.0.attentions.1")
    costs = table(network, down_blocks__0__attentions__0=1e9)
    costs[WHOLE] = sum(costs[block.name] for block in removable(network)) + 2
    evolve(network, costs, lambda: [output(network)], Goal(1e9, 1, copies=0))
    assert set(changes_of(network).removed) == {"down_blocks.0.attentions.0", "down_blocks.0.attentions.1"}


def test_the_budget_pays_for_copies() -> None:
    network = small_unet()
    costs = table(network)
    done = evolve(network, costs, lambda: [output(network)], Goal(0.8 * costs[WHOLE], copies=2))
    made = changes_of(network)
    assert sum(made.copies.values()) == 2 and done.cost <= 0.8 * costs[WHOLE] and made.removed
    assert [action for action in done.actions if action.startswith("copied")] == list(done.actions[-2:])


def test_a_budget_that_is_met_already_removes_nothing() -> None:
    network = small_unet()
    costs = table(network)
    done = evolve(network, costs, lambda: [output(network)], Goal(costs[WHOLE] + 1, copies=1))
    assert changes_of(network).removed == () and len(done.actions) == 1 and done.cost == costs[WHOLE] + 0.75


def test_a_budget_that_cannot_be_met_says_what_can() -> None:
    network = small_unet()
    costs = table(network)
    assert least_cost(network, costs) == 2.0
    with pytest.raises(InputError, match=rf"latency=0\.05 cannot be met: .* still takes {2 / costs[WHOLE]:.2f} of its time"):
        evolve(network, costs, lambda: [output(network)], Goal(0.05 * costs[WHOLE]))
    assert changes_of(network).removed == ()
