"""Factoring a network: identities at full rank, the best rank-k error, ratios that come out, and files that are refused by name."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from rapiddraw.core.errors import BundleError, InputError
from rapiddraw.core.lowrank.factorize import factored_names, factorize, merge_back, open_factors, put_factors
from rapiddraw.core.lowrank.layers import LowRankConv2d, LowRankLinear, dense_weight
from rapiddraw.core.lowrank.plan import make_plan
from rapiddraw.core.lowrank.savings import Report, draw_report, network_size
from rapiddraw.core.lowrank.svd import Spectrum, break_even, rank_for_ratio
from rapiddraw.core.networks import build_network
from rapiddraw.tests.helpers import UNET_CONFIG
from torch import nn
from torch.nn import Conv2d, Linear


def build_unet(config):
    from diffusers import UNet2DConditionModel

    return UNet2DConditionModel(**config)


@pytest.fixture
def unet():
    torch.manual_seed(0)
    return build_unet({**UNET_CONFIG, "block_out_channels": [64, 128]}).eval()


def call(network, seed=1):
    generator = torch.Generator().manual_seed(seed)
    x, context = torch.randn(2, 4, 8, 8, generator=generator), torch.randn(2, 5, UNET_CONFIG["cross_attention_dim"], generator=generator)
    with torch.no_grad():
        return network(x, torch.tensor([3, 500]), encoder_hidden_states=context, return_dict=False)[0]


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 24), st.integers(1, 24), st.sampled_from(["paper", "symmetric"]), st.integers(0, 5))
def test_full_rank_gives_the_weight_back_and_less_gives_the_best_error(out, inner, split, seed):
    w = torch.randn(out, inner, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    if seed == 0:
        w[0] = 0  # a weight whose rank is not full
    spectrum = Spectrum.of(w)
    full = min(out, inner)
    for rank in {1, max(1, full // 2), full}:
        a, b = spectrum.factors(rank, split)
        assert a.shape == (out, rank) and b.shape == (rank, inner)
        best = float(torch.linalg.svdvals(w)[rank:].square().sum().sqrt())
        assert float((w - a @ b).norm()) == pytest.approx(best, abs=1e-6)
        assert spectrum.error(rank) * float(w.norm()) == pytest.approx(best, abs=1e-6)


def test_paper_split_puts_the_singular_values_into_a_and_the_symmetric_one_shares_them():
    w = torch.randn(6, 9, generator=torch.Generator().manual_seed(0))
    s = Spectrum.of(w).s
    a, b = Spectrum.of(w).factors(4, "paper")
    assert torch.allclose(a.T @ a, s[:4].square().diag(), atol=1e-8) and torch.allclose(
        b @ b.T, torch.eye(4, dtype=torch.float64), atol=1e-8
    )
    a, b = Spectrum.of(w).factors(4, "symmetric")
    assert torch.allclose(a.T @ a, s[:4].diag(), atol=1e-8) and torch.allclose(b @ b.T, s[:4].diag(), atol=1e-8)


def test_energy_and_break_even_count_as_they_say():
    w = torch.diag(torch.tensor([3.0, 2.0, 1.0]))
    assert [Spectrum.of(w).rank_for_energy(e) for e in (0.5, 9 / 14, 0.9, 1.0)] == [1, 1, 2, 3]
    for out, inner in ((4, 4), (320, 320), (1280, 11520), (1, 9)):
        k = break_even(out, inner)
        assert k * (out + inner) < out * inner <= (k + 1) * (out + inner)
        assert rank_for_ratio(0.5, out, inner) * (out + inner) <= max(0.5 * out * inner, out + inner)


def test_a_network_at_full_rank_is_the_dense_one(unet):
    dense = call(unet)
    factored = copy.deepcopy(unet)
    for layer in make_plan(unet, "rank", 1):
        weight = unet.get_submodule(layer.name).weight
        put_factors(factored, layer.name, Spectrum.of(weight).factors(min(layer.out, layer.inner)))
    kinds = {type(m) for m in factored.modules()}
    assert LowRankLinear in kinds and LowRankConv2d in kinds
    assert (call(factored) - dense).abs().max() / dense.abs().max() < 1e-5


@pytest.mark.parametrize("ratio", [0.5, 0.61, 0.8])
def test_the_ratio_is_that_of_the_whole_network(unet, ratio):
    before = network_size(unet)[0]
    planned = make_plan(unet, "param_ratio", ratio)
    plan = factorize(unet, "param_ratio", ratio)
    assert plan == planned
    assert network_size(unet)[0] / before == pytest.approx(ratio, abs=0.01) and network_size(unet)[0] <= ratio * before
    assert before - network_size(unet)[0] == sum(layer.dense_parameters - layer.parameters for layer in plan)
    report = Report(tuple(plan), (before, network_size(unet)[0]), (1, 1))
    assert f"{network_size(unet)[0]:,}" in report.table() and draw_report(report).shape[-1] == 3


def test_factored_and_merged_networks_compute_the_same(unet):
    factorize(unet, "param_ratio", 0.6, split="symmetric")
    dense = copy.deepcopy(unet)
    merge_back(dense)
    assert dense.state_dict().keys() == build_unet(dict(unet.config)).state_dict().keys()
    assert torch.allclose(call(dense), call(unet), atol=1e-5)


def test_merged_and_factored_again_it_is_the_same(unet):
    """A product of rank k is found again by its own SVD at rank k."""
    plan = factorize(unet, "param_ratio", 0.6)
    again = copy.deepcopy(unet)
    merge_back(again)
    spectra = {one.name: Spectrum.of(again.get_submodule(one.name).weight) for one in plan}
    for one in plan:
        if one.rank is not None:
            assert spectra[one.name].error(one.rank) < 1e-5
            put_factors(again, one.name, spectra[one.name].factors(one.rank))
    assert torch.allclose(call(again), call(unet), atol=1e-5) and network_size(again) == network_size(unet)


def test_the_size_of_factors_can_be_had_without_their_values(unet):
    valued, empty = copy.deepcopy(unet), copy.deepcopy(unet)
    plans = [factorize(network, "param_ratio", 0.6, values=values) for network, values in ((valued, True), (empty, False))]
    assert [one.rank for one in plans[0]] == [one.rank for one in plans[1]] and network_size(valued) == network_size(empty)
    with pytest.raises(InputError, match="values"):
        factorize(copy.deepcopy(unet), "energy", 0.9, values=False)


def test_a_saved_network_loads_again_into_the_same(unet):
    factorize(unet, "param_ratio", 0.6)
    tensors = dict(unet.state_dict())
    again = build_network(type(unet), dict(unet.config), tensors, "file")
    assert torch.equal(call(again), call(unet)) and factored_names(tensors)


def test_a_layer_stays_dense_where_that_is_asked_and_says_why(unet):
    plan = make_plan(unet, "rank", 4, ["attention"], keep_dense=lambda name, layer, rank: "slower" if "to_q" in name else None)
    assert {p.reason for p in plan if p.rank is None} == {"slower"} and all(("to_q" in p.name) == (p.rank is None) for p in plan)
    high = make_plan(unet, "rank", 10_000, ["attention"])
    assert all(p.rank is None and "break-even" in p.reason for p in high)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("param_ratio", 0.0), "above 0"), (("param_ratio", 0.01), "cannot be reached"), (("energy", 1.5), "at most 1"),
        (("rank", 0), "whole number"), (("rank", float("nan")), "whole number"), (("svd", 1), "expected param_ratio"),
        (("rank", 4, ["norms"]), "'norms'"), (("rank", 4, []), "nothing to factor"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused(unet, arguments, words):
    with pytest.raises(InputError, match=words):
        make_plan(unet, *arguments)


def test_a_low_rank_network_is_not_factored_again(unet):
    factorize(unet, "rank", 4)
    with pytest.raises(InputError, match="already low-rank"):
        factorize(unet, "rank", 2)


def test_weights_that_are_not_finite_are_refused(unet):
    next(m for n, m in unet.named_modules() if n.endswith("to_q")).weight.data[0, 0] = float("nan")
    with pytest.raises(InputError, match="NaN"):
        make_plan(unet, "rank", 4)


def damaged(tensors, name, how):
    a, b = f"{name}.a.weight", f"{name}.b.weight"
    if how == "half":
        del tensors[a]
    elif how == "shape":
        tensors[a] = tensors[a][:-1]
    elif how == "rank":
        tensors[b] = tensors[b][:-1]
    elif how == "above":
        out, inner = tensors[a].shape[0], tensors[b].shape[1]
        tensors[a], tensors[b] = torch.zeros(out, min(out, inner)), torch.zeros(min(out, inner), inner)
    elif how == "stranger":
        tensors["mid_block.nothing.a.weight"], tensors["mid_block.nothing.b.weight"] = tensors[a], tensors[b]
    elif how == "norm":
        tensors["conv_norm_out.a.weight"], tensors["conv_norm_out.b.weight"] = tensors[a], tensors[b]
    return tensors


@pytest.mark.parametrize(
    ("how", "words"),
    [("half", "a.weight is missing"), ("shape", "do not make"), ("rank", "disagree"), ("above", "no smaller"),
     ("stranger", "mid_block.nothing"), ("norm", "conv_norm_out, which is no")],
)  # fmt: skip
def test_broken_factors_are_refused_by_name(unet, how, words):
    factorize(unet, "rank", 4, ["attention"])
    tensors = dict(unet.state_dict())
    name = factored_names(tensors)[0]
    with pytest.raises(BundleError, match=words):
        open_factors(build_unet(dict(unet.config)), damaged(tensors, name, how), "file")


def test_strided_convolutions_and_biases_are_kept():
    torch.manual_seed(0)
    box = nn.ModuleDict({"resnets": nn.ModuleDict({"0": nn.ModuleDict({"conv1": Conv2d(8, 12, 3, stride=2, padding=1)})})})
    dense = box["resnets"]["0"]["conv1"]
    x = torch.randn(1, 8, 9, 7)
    put_factors(box, "resnets.0.conv1", Spectrum.of(dense.weight).factors(12))
    made = box["resnets"]["0"]["conv1"]
    assert torch.allclose(made(x), dense(x), atol=1e-5) and torch.allclose(dense_weight(made), dense.weight, atol=1e-6)


@pytest.mark.parametrize("dense", [Linear(24, 40), Conv2d(8, 16, 3, stride=2, padding=1, bias=False)])
def test_a_factored_layer_tells_the_dense_weights_shape_and_dtype_and_stores_none(dense):
    box = nn.Sequential(dense.half())
    put_factors(box, "0", Spectrum.of(dense.weight.float()).factors(4))
    layer = box[0].half()
    assert layer.weight.shape == dense.weight.shape and layer.weight.dtype == torch.float16 and layer.weight.is_meta
    assert layer.bias is None and not {"weight", "bias"} & set(layer.state_dict())
    assert len(list(layer.parameters())) == 2 + (dense.bias is not None)
