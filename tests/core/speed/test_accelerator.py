"""Speeding a network up: the same results, whatever fails; nothing changed in the network given."""

from __future__ import annotations

import gc
import weakref

import pytest
import torch
from rapiddraw.core.errors import InputError
from rapiddraw.core.speed import accelerator as module
from rapiddraw.core.speed import eager as eager_module
from rapiddraw.core.speed import whole as whole_module
from rapiddraw.core.speed.accelerator import Accelerator, accelerator_for
from rapiddraw.core.speed.plan import Options
from rapiddraw.core.speed.regions import find_groups
from rapiddraw.tests.speed_helpers import ResnetBlock, X, fake_compiler, fastest
from torch import nn
from torch.nn import Conv2d, Linear


class FeedForward(nn.Module):
    """Stands for the libraries' blocks of that name."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.one, self.two = Linear(width, 2 * width), Linear(2 * width, width)

    def forward(self, x):
        return self.two(torch.relu(self.one(x)))


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([ResnetBlock(8), ResnetBlock(8), ResnetBlock(8)])
        self.ends = nn.ModuleList([FeedForward(8), FeedForward(8)])

    def forward(self, x):
        for block in self.blocks:
            x = block(x, None)
        x = x.permute(0, 2, 3, 1)
        for block in self.ends:
            x = x + block(x)
        return x


@pytest.fixture
def network():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Network().requires_grad_(False)


@pytest.fixture(autouse=True)
def blocks_win(monkeypatch):
    """The network in one piece is no faster than by its blocks, unless a test says so."""
    monkeypatch.setattr(whole_module, "best_seconds", fastest("blocks"))
    monkeypatch.setattr(module, "can_stay_closed", lambda: False)


@pytest.fixture
def compiled_wins(monkeypatch):
    monkeypatch.setattr(module, "best_seconds", fastest("compiled"))
    monkeypatch.setattr(eager_module, "best_seconds", fastest("none"))
    monkeypatch.setattr(module, "missing_compiler", lambda device: None)


def run(accelerator, network, x=X):
    with torch.no_grad():
        return accelerator.run(lambda: network(x))


def plain(network, x=X):
    with torch.no_grad():
        return network(x)


def test_blocks_of_one_structure_are_one_group(network):
    groups = find_groups(network)
    assert [(group.kind, len(group.modules)) for group in groups] == [("resnet", 3), ("feed-forward", 2)]
    network.blocks[0].forward = lambda x, temb=None: x
    assert [len(group.modules) for group in find_groups(network)] == [2, 2], "what somebody else has patched is left alone"


def test_a_change_of_size_is_a_block_that_is_never_compiled(compiled_wins, monkeypatch):
    class Upsample(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.grow = Conv2d(8, 8, 3, padding=1), nn.Upsample(scale_factor=2)

        def forward(self, x, output_shape=None):
            return self.conv(self.grow(x))

    graphs = fake_compiler(monkeypatch)
    monkeypatch.setattr(eager_module, "best_seconds", fastest("bf16"))
    network = nn.Sequential(Upsample(), ResnetBlock(8)).requires_grad_(False)
    kinds = [group.kind for group in find_groups(network)]
    assert kinds == ["resampling", "resnet"], "torch's own Upsample has no weights"
    speedy = Accelerator("VAE", network, Options("auto", "at once"))
    run(speedy, network)
    assert (run(speedy, network) - plain(network)).norm() < 0.02 * plain(network).norm()
    assert len(graphs) == 1 and [plan.how() for plan in speedy.plans][0] == "bf16"


def test_compiled_blocks_give_the_same_and_the_network_is_unchanged(network, compiled_wins, monkeypatch, caplog):
    graphs = fake_compiler(monkeypatch)
    before = plain(network)
    speedy = Accelerator("U-Net", network, Options(compile="at once"))
    with caplog.at_level("INFO", "rapiddraw"):
        first, second = run(speedy, network), run(speedy, network)
    assert torch.equal(first, before)
    torch.testing.assert_close(second, before)
    assert all(plan.compiled for plan in speedy.plans) and graphs
    assert not any("forward" in vars(block) or block._forward_pre_hooks for block in network.modules())
    assert torch.equal(plain(network), before)
    assert len(caplog.records) == 1 and "compiled; blocks 2.00x" in caplog.text
    assert "x3" in speedy.report() and "ms compiled" in speedy.report()


def test_other_sizes_batches_and_weights_need_no_new_compilation(network, compiled_wins, monkeypatch):
    graphs = fake_compiler(monkeypatch)
    speedy = Accelerator("U-Net", network, Options(compile="at once"))
    run(speedy, network)
    run(speedy, network, torch.randn(1, 8, 6, 6))
    count = len(graphs)
    for number in range(4):  # a LoRA: ComfyUI puts new parameters in the place of the old
        for weight in ("conv.weight", "conv.bias"):
            owner = network.blocks[0].conv
            name = weight.rpartition(".")[2]
            setattr(owner, name, nn.Parameter(getattr(owner, name) + 0.1 * number, requires_grad=False))
        for shape in ((2, 8, 6, 6), (1, 8, 9, 5), (4, 8, 12, 12)):
            x = torch.randn(shape)
            torch.testing.assert_close(run(speedy, network, x), plain(network, x))
    assert len(graphs) == count
    assert all(plan.compiled for plan in speedy.plans)


def test_the_same_network_keeps_what_was_learnt(network):
    one = accelerator_for("U-Net", network, Options())
    assert accelerator_for("U-Net", network, Options()) is one
    assert accelerator_for("U-Net", network, Options(precision="auto")) is not one


def test_a_compiler_that_fails_leaves_eager_and_one_warning(network, compiled_wins, monkeypatch, caplog):
    def broken(graph):
        raise RuntimeError("no such instruction")

    fake_compiler(monkeypatch, broken)
    speedy = Accelerator("U-Net", network, Options(compile="at once"))
    before = plain(network)
    for _ in range(3):
        assert torch.equal(run(speedy, network), before)
    warnings = [record for record in caplog.records if record.levelname == "WARNING" and record.name == "rapiddraw"]
    assert len(warnings) == 1 and "could not be compiled" in warnings[0].message and "eager runs" in warnings[0].message


def test_a_batch_of_any_size_that_does_not_compile_is_given_up_first(network, compiled_wins, monkeypatch, caplog):
    """Torch's compiler mistakes the memory format of some convolutions where the batch may be one."""
    real, asked = module.Compiled, []

    def picky(function, one_input):
        asked.append(one_input)

        def backend(graph, inputs):
            raise AssertionError("expected size 32==32, stride 1==1600 at dim=1")

        return real(function, one_input, backend if one_input else (lambda graph, inputs: graph.forward))

    monkeypatch.setattr(module, "Compiled", picky)
    speedy = Accelerator("U-Net", network, Options(compile="at once"))
    run(speedy, network)
    torch.testing.assert_close(run(speedy, network), plain(network))
    assert asked == [True, False] * 2 and all(plan.compiled for plan in speedy.plans)
    assert not [record for record in caplog.records if record.levelname == "WARNING" and record.name == "rapiddraw"]


def test_compiled_code_that_fails_later_is_replaced_by_eager(network, compiled_wins, monkeypatch, caplog):
    state = {"fail": False}

    def fragile(graph):
        def call(*args):
            if state["fail"]:
                raise RuntimeError("illegal address")
            return graph.forward(*args)

        return call

    fake_compiler(monkeypatch, fragile)
    speedy = Accelerator("U-Net", network, Options(compile="at once"))
    run(speedy, network)
    state["fail"] = True
    torch.testing.assert_close(run(speedy, network), plain(network))
    assert not any(plan.compiled for plan in speedy.plans)
    assert "illegal address" in caplog.text and "eager runs from here" in speedy.report()


def test_wrong_results_of_a_compiler_are_not_used(network, compiled_wins, monkeypatch):
    fake_compiler(monkeypatch, lambda graph: lambda *args: tuple(value + 1 for value in graph.forward(*args)))
    speedy = Accelerator("U-Net", network, Options(compile="at once"))
    run(speedy, network)
    assert not any(plan.compiled for plan in speedy.plans) and "differed from eager" in speedy.report()


@pytest.mark.parametrize(("dtype", "used"), [(torch.float32, False), (torch.float16, True), (torch.bfloat16, True)])
def test_rounding_of_the_models_own_dtype_is_no_difference(network, compiled_wins, monkeypatch, dtype, used):
    """Compilers round less often: in half precision their results differ by more than float32's do, and are no worse."""
    fake_compiler(monkeypatch, lambda graph: lambda *args: tuple(value * (1 + 2**-10) for value in graph.forward(*args)))
    speedy = Accelerator("U-Net", network.to(dtype), Options(compile="at once"))
    run(speedy, network, X.to(dtype))
    assert all(bool(plan.compiled) == used for plan in speedy.plans)


def test_without_a_compiler_one_warning_and_eager(network, monkeypatch, caplog):
    monkeypatch.setenv("CXX", "no-such-compiler")
    speedy = Accelerator("U-Net", network, Options(compile="at once"))
    before = plain(network)
    assert torch.equal(run(speedy, network), before) and torch.equal(run(speedy, network), before)
    assert [record.message for record in caplog.records if record.levelname == "WARNING"] == [
        "speed: U-Net: not compiled: no C++ compiler (no-such-compiler) is on this machine; eager runs"
    ]


def test_what_is_not_faster_is_not_used(network, monkeypatch):
    monkeypatch.setattr(module, "missing_compiler", lambda device: None)
    monkeypatch.setattr(module, "best_seconds", fastest("now"))
    graphs = fake_compiler(monkeypatch)
    speedy = Accelerator("U-Net", network, Options(compile="at once"))
    run(speedy, network)
    assert not any(plan.compiled for plan in speedy.plans) and len(graphs) <= 4, "one try for each kind of block"
    assert "not used" in speedy.report()


def test_compiling_waits_until_it_can_pay(network, compiled_wins, monkeypatch):
    graphs = fake_compiler(monkeypatch)
    speedy = Accelerator("U-Net", network, Options(budget=5.0))
    run(speedy, network)
    assert not graphs and "compiling not begun yet" in speedy.summary()
    speedy.busy = 6.0
    run(speedy, network)
    assert graphs
    never = Accelerator("U-Net", network, Options(compile="never"))
    never.busy = 1e9
    run(never, network)
    assert not any(plan.compiled for plan in never.plans)


def test_a_spent_budget_ends_it(network, compiled_wins, monkeypatch):
    graphs = fake_compiler(monkeypatch)
    speedy = Accelerator("U-Net", network, Options(compile="at once", budget=0.0))
    run(speedy, network)
    assert not graphs and "budget of 0 s ended" in speedy.report()


def test_bf16_where_it_is_faster_and_allowed(network, monkeypatch):
    monkeypatch.setattr(eager_module, "best_seconds", fastest("bf16"))
    before = plain(network)
    exact = Accelerator("U-Net", network, Options(compile="never"))
    run(exact, network)
    assert torch.equal(run(exact, network), before)
    half = Accelerator("U-Net", network, Options("auto", "never"))
    run(half, network)
    out = run(half, network)
    assert all(plan.bf16 for plan in half.plans) and out.dtype == torch.float32
    assert not torch.equal(out, before) and (out - before).norm() < 0.02 * before.norm()
    monkeypatch.setattr(eager_module, "BF16_SAME", 1e-9)
    strict = Accelerator("U-Net", network, Options("auto", "never"))
    run(strict, network)
    assert torch.equal(run(strict, network), before)


def test_channels_last_where_it_is_faster(network, monkeypatch):
    monkeypatch.setattr(eager_module, "best_seconds", fastest("last"))
    speedy = Accelerator("U-Net", network, Options(compile="never"))
    before = run(speedy, network)
    seen = []
    handle = network.blocks[0].register_forward_pre_hook(lambda m, a: seen.append(a[0].is_contiguous(memory_format=torch.channels_last)))
    torch.testing.assert_close(run(speedy, network), before)
    handle.remove()
    assert seen == [True] and not network._forward_pre_hooks and "channels-last" in speedy.report()


def test_an_error_of_the_network_is_its_own(network):
    speedy = Accelerator("U-Net", network, Options())
    with pytest.raises(RuntimeError, match="channels"):
        run(speedy, network, torch.randn(2, 3, 6, 6))
    assert run(speedy, network).shape == (2, 6, 6, 8), "and the next evaluation runs"


def test_what_another_node_speeds_up_is_left_to_it_with_one_warning(network, caplog):
    speedy = Accelerator("U-Net", network, Options())
    for _ in range(2):
        assert torch.equal(speedy.run(lambda: plain(network), "another node compiles this"), plain(network))
    assert speedy.report() == "U-Net: another node compiles this"
    assert [record.message for record in caplog.records if record.levelname == "WARNING"] == ["speed: U-Net: another node compiles this"]
    run(speedy, network)
    assert "another node" not in speedy.report(), "once that node is gone"


def test_a_training_is_left_alone(network):
    speedy = Accelerator("U-Net", network, Options())
    speedy.run(lambda: network(X))
    assert "has not run yet" in speedy.report()


def test_a_network_is_not_kept_alive():
    def use():
        lonely = Network()
        with torch.no_grad():
            accelerator_for("U-Net", lonely, Options(compile="never")).run(lambda: lonely(X))
        return weakref.ref(lonely)

    alive = use()
    gc.collect()
    assert alive() is None


@pytest.mark.parametrize("wrong", [{"precision": "fp8"}, {"compile": "maybe"}, {"budget": -1}, {"budget": float("nan")}])
def test_options_are_checked(wrong):
    with pytest.raises(InputError):
        Options(**wrong)


def test_another_networks_block_of_a_known_name_is_left_alone():
    class ResBlock(torch.nn.Sequential):
        """Stable Cascade's has no `_forward`."""

    assert find_groups(torch.nn.Sequential(ResBlock(torch.nn.PReLU()))) == []
