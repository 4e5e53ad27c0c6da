"""Kronecker updates through hooks: off is the base bit for bit, on is the merged weight, on dense and on factored layers."""

from __future__ import annotations

import pytest
import torch
from rapiddraw.core.errors import InputError
from rapiddraw.core.lowrank.factorize import factorize, merge_back
from rapiddraw.core.lowrank.hooked import paired_layers
from rapiddraw.core.lowrank.kronecker import add_deltas, materialize
from rapiddraw.core.lowrank.kronecker_hooks import hook_updates
from rapiddraw.tests.core.lowrank.test_lora import NAMES, call, network, unet

CPU = torch.device("cpu")


def moved(hooked):
    for i, part in enumerate(hooked.pairs):
        part.kron_u.data.copy_(torch.randn(part.kron_u.shape, generator=torch.Generator().manual_seed(i)) * 0.1)
    return hooked


def test_updates_change_nothing_at_the_start_nor_when_off_and_equal_the_merged_weights_when_on():
    net, before = network(), call(network())
    keys = set(net.state_dict())
    hooked = hook_updates(net, NAMES, 2, CPU)
    assert all(map(torch.equal, call(net), before)) and set(net.state_dict()) == keys
    moved(hooked)
    changed, merged = call(net), network()
    assert all(float((a - b).detach().abs().max()) > 1e-3 for a, b in zip(changed, before, strict=True))
    with hooked.off():
        assert all(map(torch.equal, call(net), before))
    add_deltas(merged, {name: materialize(*update) for name, update in hooked.updates().items()})
    for one, other in zip(changed, call(merged), strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)
    hooked.detach()
    assert all(map(torch.equal, call(net), before))


def test_a_factored_layer_counts_as_the_dense_one_and_half_precision_is_kept():
    net = unet()
    factorize(net, "rank", 4, targets=("attention", "resnet"))
    names = [name for name, _ in paired_layers(net) if "down_blocks.0" in name]
    moved(hooked := hook_updates(net, names, 2, CPU))
    given = (torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0)), 5, torch.ones(1, 3, 32))
    with torch.no_grad():
        changed = net(*given, return_dict=False)[0]
        hooked.detach()
        merge_back(net)
        add_deltas(net, {name: materialize(*update) for name, update in hooked.updates().items()})
        torch.testing.assert_close(changed, net(*given, return_dict=False)[0], atol=1e-4, rtol=1e-4)
    half = network().bfloat16()
    hook_updates(half, ["line"], 2, CPU)
    assert half["line"](torch.ones(1, 16, dtype=torch.bfloat16)).dtype == torch.bfloat16


@pytest.mark.parametrize(("names", "rank", "words"), [([], 2, "nothing to train"), (["norm"], 2, "is no linear"), (["line"], 0, "rank=0")])
def test_what_cannot_take_an_update_is_named(names, rank, words):
    with pytest.raises(InputError, match=words):
        hook_updates(network(), names, rank, CPU)
