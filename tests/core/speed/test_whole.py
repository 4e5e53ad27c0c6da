"""A network in one piece: where that is faster and the same, and never compiled again for a call it was not made for."""

from __future__ import annotations

import pytest
import torch
from rapiddraw.core.speed import accelerator as accelerator_module
from rapiddraw.core.speed import apply as apply_module
from rapiddraw.core.speed import eager as eager_module
from rapiddraw.core.speed import whole as module
from rapiddraw.core.speed.accelerator import Accelerator
from rapiddraw.core.speed.plan import Options
from rapiddraw.core.speed.regions import Sample
from rapiddraw.tests.speed_helpers import ResnetBlock, X, fake_compiler, fastest
from torch import nn


class Network(nn.Module):
    """Takes residuals out of the lists it is given, as ComfyUI's U-Net does."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([ResnetBlock(8), ResnetBlock(8)])

    def forward(self, x, control=None):
        for block in self.blocks:
            x = block(x)
            if control is not None:
                x = x + control["output"].pop()
        return (x,)


@pytest.fixture
def network():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Network().requires_grad_(False)


@pytest.fixture
def clocks(monkeypatch):
    def set_to(blocks, whole, compiled):
        monkeypatch.setattr(eager_module, "best_seconds", fastest(blocks))
        monkeypatch.setattr(module, "best_seconds", fastest(whole))
        monkeypatch.setattr(accelerator_module, "best_seconds", fastest(compiled))
        monkeypatch.setattr(accelerator_module, "missing_compiler", lambda device: None)

    return set_to


@pytest.fixture
def graphs(monkeypatch):
    return fake_compiler(monkeypatch)


def run(speedy, network, x=X, control=None):
    with torch.no_grad():
        return speedy.run(lambda: network(x, control))[0]


def plain(network, x=X, control=None):
    with torch.no_grad():
        return network(x, control)[0]


def residuals(batch=2):
    return {"output": [torch.full((batch, 8, 6, 6), 0.5), torch.full((batch, 8, 6, 6), 0.25)]}


def test_bf16_throughout_where_it_beats_the_blocks(network, clocks):
    clocks("bf16", "bf16", "now")
    speedy = Accelerator("U-Net", network, Options("auto", "never"))
    run(speedy, network)
    out, exact = run(speedy, network), plain(network)
    assert speedy.whole.bf16 and out.dtype == torch.float32
    assert not torch.equal(out, exact) and (out - exact).norm() < 0.02 * exact.norm()
    assert "in one piece bf16; the network 2.00x" in speedy.summary() and "whole network" in speedy.report()
    assert "forward" not in vars(network) and "forward" not in vars(network.blocks[0])


def test_bf16_that_settles_it_spares_measuring_the_blocks(network, clocks, monkeypatch):
    clocks("bf16", "bf16", "now")
    speedy = Accelerator("U-Net", network, Options("auto", "never"))
    run(speedy, network)
    assert speedy.whole.bf16 and not any(plan.eager for plan in speedy.plans)
    monkeypatch.setattr(module, "SETTLED", 0.4)
    speedy = Accelerator("U-Net", network, Options("auto", "never"))
    run(speedy, network)
    assert speedy.whole.bf16 and all(plan.eager for plan in speedy.plans)


@pytest.mark.parametrize(("seconds", "limit", "used"), [(0.5, 1.0, True), (0.9, 1.0, False), (0.5, 1e-9, False)])
def test_a_slow_network_is_run_once_in_bf16_and_held_against_what_was_seen(network, clocks, monkeypatch, seconds, limit, used):
    clocks("none", "eager", "now")
    calls = []

    def timed(run, *_):
        calls.append(run())
        return calls[-1], seconds

    monkeypatch.setattr(module, "timed", timed)
    monkeypatch.setattr(module, "SAME", 0.02 * limit)
    seen = Sample(args=(X,), seconds=1.0, calls=1, seen=True, out=network(X))
    monkeypatch.setattr(module, "_LONG", 0.9)
    plan = module.whole_plan(network)
    module.try_bf16(plan, seen, float("inf"))
    assert len(calls) == 1 and plan.bf16 is used
    module.try_bf16(plan, seen, 0.0)
    assert len(calls) == 1, "no time left"


def test_keep_means_no_bf16(network, clocks):
    clocks("bf16", "bf16", "now")
    speedy = Accelerator("U-Net", network, Options("keep", "never"))
    run(speedy, network)
    assert torch.equal(run(speedy, network), plain(network)) and not speedy.whole.changed


def test_bf16_that_moves_the_result_too_far_is_not_used(network, clocks, monkeypatch):
    clocks("none", "bf16", "now")
    monkeypatch.setattr(module, "SAME", 1e-9)
    speedy = Accelerator("U-Net", network, Options("auto", "never"))
    run(speedy, network)
    assert torch.equal(run(speedy, network), plain(network))


def test_blocks_that_together_are_slower_stay_as_they_were(network, clocks):
    clocks("bf16", "eager", "now")
    speedy = Accelerator("U-Net", network, Options("auto", "never"))
    run(speedy, network)
    assert torch.equal(run(speedy, network), plain(network))
    assert "did not make the network faster" in speedy.report()


def test_blocks_are_weighed_in_the_memory_format_they_will_run_in(network, clocks, monkeypatch):
    clocks("last", "blocks", "now")
    seen = []

    def seconds(ways, repeats=1):
        handle = network.blocks[0].register_forward_pre_hook(
            lambda m, a: seen.append(a[0].is_contiguous(memory_format=torch.channels_last))
        )
        ways["blocks"]()
        handle.remove()
        return {name: 0.5 if name == "blocks" else 1.0 for name in ways}

    monkeypatch.setattr(module, "best_seconds", seconds)
    speedy = Accelerator("U-Net", network, Options("keep", "never"))
    run(speedy, network)
    assert seen == [True] and speedy.channels_last


def test_lists_that_the_network_empties_are_its_callers_alone(network, clocks):
    clocks("bf16", "bf16", "now")
    speedy = Accelerator("U-Net", network, Options("auto", "never"))
    given = residuals()
    first = run(speedy, network, control=given)
    torch.testing.assert_close(first, plain(network, control=residuals()))
    assert not given["output"] and speedy.whole.bf16, "one evaluation took them, measuring had copies"


def test_compiled_in_one_piece_and_never_again(network, clocks, graphs):
    clocks("none", "eager", "compiled")
    speedy = Accelerator("U-Net", network, Options(compile="at once", budget=100))
    run(speedy, network)
    assert speedy.whole.compiled and "in one piece compiled; the network 2.00x" in speedy.summary()
    count = len(graphs)
    for shape in ((2, 8, 6, 6), (4, 8, 9, 5), (1, 8, 6, 6)):
        x = torch.randn(shape)
        torch.testing.assert_close(run(speedy, network, x), plain(network, x))
    torch.testing.assert_close(run(speedy, network, control=residuals()), plain(network, control=residuals()))
    for number in range(3):  # a LoRA
        network.blocks[0].conv.weight = nn.Parameter(network.blocks[0].conv.weight + 0.1 * number, requires_grad=False)
        torch.testing.assert_close(run(speedy, network), plain(network))
    assert len(graphs) == count


def test_a_network_traced_in_many_pieces_stays_compiled(network, clocks, graphs, caplog, monkeypatch):
    monkeypatch.setattr(apply_module, "MAX_GRAPHS", 0)  # ComfyUI's own attention breaks the graph at every call
    clocks("none", "eager", "compiled")
    speedy = Accelerator("U-Net", network, Options(compile="at once", budget=100))
    for _ in range(3):
        torch.testing.assert_close(run(speedy, network), plain(network))
    assert graphs and speedy.whole.compiled
    assert "whole network had to be compiled" not in caplog.text


def test_one_piece_is_not_begun_where_the_budget_is_too_short(network, clocks, graphs):
    clocks("none", "eager", "compiled")
    speedy = Accelerator("U-Net", network, Options(compile="at once", budget=0.5))
    run(speedy, network)
    assert not speedy.whole.compiled and "not compiled in one piece" in speedy.report()
    torch.testing.assert_close(run(speedy, network), plain(network))


def test_a_network_that_cannot_be_traced_goes_on_by_blocks(network, clocks, graphs, monkeypatch):
    clocks("none", "eager", "compiled")
    real = accelerator_module.Compiled

    def picky(function, one_input):
        if function is Network.forward:
            raise RuntimeError("cannot trace this")
        return real(function, one_input)

    monkeypatch.setattr(accelerator_module, "Compiled", picky)
    speedy = Accelerator("U-Net", network, Options(compile="at once", budget=100))
    run(speedy, network)
    torch.testing.assert_close(run(speedy, network), plain(network))
    assert speedy.plans[0].compiled and not speedy.whole.changed and "cannot trace this" in speedy.report()


def test_no_time_to_measure_the_whole_leaves_the_blocks(network, clocks):
    clocks("bf16", "bf16", "now")
    speedy = Accelerator("U-Net", network, Options("auto", "never", 1e-3))
    speedy.whole.group.function = pytest.fail
    run(speedy, network)
    assert not speedy.whole.bf16


def test_a_network_of_two_halves_or_with_a_foreign_forward_is_left_to_its_blocks(network):
    network.forward = lambda x, control=None: (x,)
    assert module.whole_plan(network) is None
    halves = nn.Module()
    halves.encoder, halves.decoder = ResnetBlock(8), ResnetBlock(8)
    assert module.whole_plan(halves) is None
