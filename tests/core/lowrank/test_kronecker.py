"""The Kronecker update: its fast product, its rank, its start, and adapters on disk that are sound or refused by name."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from rapiddraw.core.bundles.format import BundleInfo, save_bundle
from rapiddraw.core.bundles.load import load_bundle
from rapiddraw.core.errors import BundleError, InputError
from rapiddraw.core.lowrank.adapter import deltas_for, load_adapter, save_adapter
from rapiddraw.core.lowrank.factorize import factorize
from rapiddraw.core.lowrank.kronecker import (
    KroneckerConv2d,
    KroneckerLinear,
    add_deltas,
    attach,
    can_update,
    detach,
    kronecker_product,
    materialize,
    start_update,
    terms_for,
    updates_of,
)
from rapiddraw.tests.helpers import UNET_CONFIG
from torch.nn import Conv2d, GroupNorm, Linear, ModuleDict


def random_update(out, inner, rank, terms=None, seed=0):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        a, u, v = start_update(out, inner, rank, terms)
        return a, torch.randn_like(u), v


@settings(max_examples=40, deadline=None)
@given(st.sampled_from([1, 2, 4, 8]), st.integers(1, 4), st.integers(1, 4), st.integers(1, 3), st.integers(0, 99))
def test_the_fast_product_is_that_of_the_whole_matrix(n, out, inner, rank, seed):
    a, u, v = (t.double() for t in random_update(n * out, n * inner, rank, n, seed))
    whole = materialize(a, u, v)
    by_definition = sum(torch.kron(a[i], u[i] @ v[i].T) for i in range(n))
    assert torch.allclose(whole, by_definition, atol=1e-12)
    x = torch.randn(2, 3, n * inner, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    assert torch.allclose(kronecker_product(x, a, u, v), x @ whole.T, atol=1e-10)


def test_its_rank_is_far_above_that_of_a_lora_of_as_many_parameters():
    a, u, v = random_update(64, 48, 2, 4)
    assert int(torch.linalg.matrix_rank(materialize(a, u, v))) == 32  # n^2 r; a LoRA of rank 2 has 224 parameters and rank 2
    assert a.numel() + u.numel() + v.numel() == 4**3 + 2 * (64 + 48) == 288


def test_terms_divide_both_sides_and_a_start_changes_nothing():
    assert [terms_for(*sides) for sides in ((64, 32), (12, 8), (6, 4), (3, 8), (320, 2880))] == [8, 4, 2, 1, 8]
    a, u, v = start_update(16, 24, 2)
    assert not materialize(a, u, v).any() and v.abs().max() > 0 and a.std() == pytest.approx(8**-0.5, rel=0.2)
    with pytest.raises(InputError, match="no equal parts"):
        start_update(6, 8, 2, 4)
    with pytest.raises(InputError, match="rank=0"):
        start_update(8, 8, 0)


def network():
    torch.manual_seed(0)
    return ModuleDict({
        "line": Linear(16, 24), "conv": Conv2d(8, 16, 3, padding=1), "down": Conv2d(8, 8, 3, stride=2, padding=1, bias=False),
        "wide": Conv2d(8, 8, 3, padding=2, dilation=2), "point": Conv2d(8, 8, 1), "norm": GroupNorm(2, 8),
    })  # fmt: skip


def call(net, seed=1):
    generator = torch.Generator().manual_seed(seed)
    x, image = torch.randn(2, 3, 16, generator=generator), torch.randn(2, 8, 6, 6, generator=generator)
    return [net["line"](x), *(net[name](image) for name in ("conv", "down", "wide", "point"))]


NAMES = ["line", "conv", "down", "wide", "point"]


def trained(net):
    for i, (_, u, _) in enumerate(updates_of(net).values()):
        u.data.copy_(torch.randn(u.shape, generator=torch.Generator().manual_seed(i)))
    return net


@pytest.mark.parametrize("share", [False, True])
def test_wrapped_layers_start_as_they_were_and_then_equal_the_merged_ones(share):
    net, plain = network(), network()
    assert attach(net, NAMES, 2, share) == sorted(NAMES)
    assert isinstance(net["line"], KroneckerLinear) and isinstance(net["conv"], KroneckerConv2d)
    assert all(torch.equal(x, y) for x, y in zip(call(net), call(plain), strict=True))
    trainable = {name for name, p in net.named_parameters() if p.requires_grad}
    assert trainable and all(".kron_" in name for name in trainable)
    sum(y.sum() for y in call(trained(net))).backward()
    assert all(p.grad is not None and p.grad.any() for p in net.parameters() if p.requires_grad)
    merged = network()
    add_deltas(merged, {name: materialize(*update) for name, update in updates_of(net).items()})
    for x, y, before in zip(call(net), call(merged), call(plain), strict=True):
        assert torch.allclose(x, y, atol=1e-4) and not torch.allclose(x, before, atol=1e-2)
    half = network()
    add_deltas(half, {name: materialize(*update) for name, update in updates_of(net).items()}, 0.5)
    for x, y, before in zip(call(half), call(merged), call(plain), strict=True):
        assert torch.allclose(x - before, (y - before) / 2, atol=1e-4)  # strength is linear
    detach(net)
    assert all(torch.equal(x, y) for x, y in zip(call(net), call(plain), strict=True))


def test_factored_layers_take_updates_and_become_dense_when_they_are_merged():
    from diffusers import UNet2DConditionModel

    torch.manual_seed(0)
    unet = UNet2DConditionModel(**UNET_CONFIG).eval()
    factorize(unet, "param_ratio", 0.7)
    x, context = torch.randn(1, 4, 8, 8), torch.randn(1, 5, UNET_CONFIG["cross_attention_dim"])
    merged = copy.deepcopy(unet)
    layers = {name: layer for name, layer in unet.named_modules() if can_update(layer) and not name.endswith((".a", ".b"))}
    attach(unet, [name for name in layers if ".attn" in name or ".conv1" in name], 2)
    trained(unet)
    add_deltas(merged, {name: materialize(*update) for name, update in updates_of(unet).items()})
    with torch.no_grad():
        first, second = (net(x, torch.tensor([5]), encoder_hidden_states=context).sample for net in (unet, merged))
    assert torch.allclose(first, second, atol=1e-3, rtol=1e-3)


def test_what_takes_no_update_is_named():
    for name, words in (("nothing", "no layer 'nothing'"), ("norm", "norm is a GroupNorm")):
        with pytest.raises(InputError, match=words):
            attach(network(), [name], 2)


@pytest.mark.parametrize("share", [False, True])
def test_an_adapter_survives_the_disk(tmp_path, share):
    net = network()
    attach(net, NAMES, 2, share)
    trained(net)
    path = save_adapter(tmp_path / "a.safetensors", updates_of(net), "unet", {"recipe": "test"}, rank=2)
    again = load_adapter(path)
    assert again.keys() == updates_of(net).keys()
    assert sum("shared" in name for name in load_bundle(path).tensors) == (1 if share else 0)
    for name, update in updates_of(net).items():
        assert torch.allclose(materialize(*again[name]), materialize(*update), atol=2e-2, rtol=1e-2)
    with pytest.raises(BundleError, match="for a 'unet' network"):
        load_adapter(path, "control")


def parts(n=2, out=4, inner=4, rank=1):
    return {"x.kron_a": torch.ones(n, n, n), "x.kron_u": torch.ones(n, out, rank), "x.kron_v": torch.ones(n, inner, rank)}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"x.kron_u": None}, "x lacks kron_u"), ({"x.kron_a": None}, "x lacks kron_a"), ({"x.weight": torch.ones(2, 2)}, "'x.weight'"),
        ({"x.kron_a": torch.ones(3, 3, 3)}, "make no update"), ({"x.kron_u": torch.ones(2, 4, 2)}, "make no update"),
        ({"x.kron_u": torch.ones(8)}, "is no part"), ({"x.kron_v": torch.ones(4, 4, 1)}, "make no update"),
        (parts(3), "with n of"), ({"x.kron_u": torch.ones(2, 4, 0), "x.kron_v": torch.ones(2, 4, 0)}, "make no update"),
        ({"x.kron_u": torch.ones(2, 4, 1, dtype=torch.int32)}, "is no part"),
        ({"x.kron_a": None, "x.kron_u": None, "x.kron_v": None}, "no update"),
    ],
)  # fmt: skip
def test_broken_files_are_refused_by_name(tmp_path, change, words):
    tensors = {key: tensor for key, tensor in {**parts(), **change}.items() if tensor is not None}
    path = save_bundle(tmp_path / "bad.safetensors", tensors, BundleInfo("adapter", {"format": "kronecker", "network": "unet"}))
    with pytest.raises(BundleError, match=words) as caught:
        load_adapter(path)
    assert "bad.safetensors" in str(caught.value)


def test_an_adapter_of_another_model_or_format_is_refused(tmp_path):
    path = save_bundle(tmp_path / "o.safetensors", parts(), BundleInfo("adapter", {"format": "other"}))
    with pytest.raises(BundleError, match="format 'other'"):
        load_adapter(path)
    path = save_bundle(tmp_path / "k.safetensors", parts(), BundleInfo("adapter", {"format": "kronecker", "network": "unet"}))
    with pytest.raises(BundleError, match="changes x, which this model does not have"):
        deltas_for(load_adapter(path), {}, "k")
    with pytest.raises(BundleError, match="of 8 x 8, this model's is 8 x 9"):
        deltas_for(load_adapter(path), {"x": torch.Size((8, 9))}, "k")
    assert deltas_for(load_adapter(path), {"x": torch.Size((8, 2, 2, 2))}, "k")["x"].shape == (8, 2, 2, 2)


def test_values_that_are_no_numbers_are_refused(tmp_path):
    from safetensors.torch import load_file, save_file

    path = save_bundle(tmp_path / "k.safetensors", parts(), BundleInfo("adapter", {"format": "kronecker", "network": "unet"}))
    from safetensors import safe_open

    with safe_open(str(path), "pt") as file:
        meta = file.metadata()
    tensors = load_file(str(path))
    tensors["x.kron_u"][0, 0, 0] = float("nan")
    save_file(tensors, str(path), metadata=meta)
    with pytest.raises(BundleError, match="NaN"):
        load_adapter(path)
