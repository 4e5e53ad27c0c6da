"""LoRA pairs: off is the base bit for bit, on is the merged weight; files in ComfyUI's layout, sound or refused by name."""

from __future__ import annotations

import pytest
import torch
from rapiddraw.core.bundles.lora_about import read_about
from rapiddraw.core.errors import BundleError, InputError
from rapiddraw.core.lowrank.factorize import factorize
from rapiddraw.core.lowrank.kronecker import add_deltas
from rapiddraw.core.lowrank.lora import attach_lora, attach_to
from rapiddraw.core.lowrank.lora_file import comfy_name, delta_of, read_lora, save_lora
from rapiddraw.core.lowrank.roles import DEFAULT_TARGETS
from rapiddraw.tests import sd_layout
from rapiddraw.tests.helpers import UNET_CONFIG, seeded
from safetensors.torch import save_file
from torch.nn import Conv2d, GroupNorm, Linear, ModuleDict

NAMES = ["line", "conv", "down", "wide", "point"]


def network():
    return seeded(
        lambda: ModuleDict({
            "line": Linear(16, 24), "conv": Conv2d(8, 16, 3, padding=1), "down": Conv2d(8, 8, 3, stride=2, padding=1, bias=False),
            "wide": Conv2d(8, 8, 3, padding=2, dilation=2), "point": Conv2d(8, 8, 1), "norm": GroupNorm(2, 8),
            "grouped": Conv2d(8, 8, 3, groups=2),
        })
    )  # fmt: skip


def call(net):
    generator = torch.Generator().manual_seed(1)
    x, image = torch.randn(2, 3, 16, generator=generator), torch.randn(2, 8, 6, 6, generator=generator)
    return [net["line"](x), *(net[name](image) for name in NAMES[1:])]


def unet():
    from diffusers import UNet2DConditionModel

    return seeded(lambda: UNet2DConditionModel(**UNET_CONFIG)).eval()


def trained(lora):
    for i, pair in enumerate(lora.pairs):
        pair.up.data.copy_(torch.randn(pair.up.shape, generator=torch.Generator().manual_seed(i)) * 0.1)
    return lora


def test_pairs_change_nothing_at_the_start_nor_when_off_and_equal_the_merged_weights_when_on():
    net, before = network(), call(network())
    names = set(net.state_dict())
    lora = attach_to(net, NAMES, 2, 4.0)
    assert all(map(torch.equal, call(net), before)) and set(net.state_dict()) == names
    trained(lora)
    changed = call(net)
    assert all(float((a - b).detach().abs().max()) > 1e-3 for a, b in zip(changed, before, strict=True))
    with lora.off():
        assert all(map(torch.equal, call(net), before))
    lora.strength = 0.5
    merged = network()
    add_deltas(merged, {name: delta_of(one) for name, one in lora.factors().items()}, 0.5)
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(call(net), call(merged), strict=True))
    lora.detach()
    assert all(map(torch.equal, call(net), before))


def test_only_the_pairs_are_parameters_of_theirs_and_gradients_reach_them_through_a_frozen_base():
    net = unet().requires_grad_(False)
    lora = attach_lora(net, ("attention",), 4)
    assert lora.names and all(".attn" in name for name in lora.names)
    x, tokens = torch.randn(1, 4, 8, 8), torch.randn(1, 5, UNET_CONFIG["cross_attention_dim"])
    net(x, torch.tensor([5]), encoder_hidden_states=tokens).sample.square().sum().backward()
    assert all(pair.up.grad is not None and pair.up.grad.abs().sum() > 0 for pair in lora.pairs)
    assert all(parameter.grad is None for parameter in net.parameters())
    assert len(list(lora.parameters())) == 2 * len(lora.names)


def test_roles_choose_layers_and_all_of_them_have_convolutions_among_them():
    few, more, most = (attach_lora(unet(), roles).names for roles in (("attention",), ("attention", "feed_forward"), DEFAULT_TARGETS))
    assert set(few) < set(more) < set(most) and any(name.endswith("conv1") for name in most)


def test_a_factored_layer_takes_one_pair():
    net = unet()
    plain = attach_lora(net, ("attention",), 2)
    plain.detach()
    factorize(net, "rank", 4, ("attention",))
    x, tokens = torch.randn(1, 4, 8, 8), torch.randn(1, 5, UNET_CONFIG["cross_attention_dim"])
    before = net(x, torch.tensor([5]), encoder_hidden_states=tokens).sample
    lora = trained(attach_lora(net, ("attention",), 2))
    assert lora.names == plain.names
    with lora.off():
        assert torch.equal(net(x, torch.tensor([5]), encoder_hidden_states=tokens).sample, before)
    on = net(x, torch.tensor([5]), encoder_hidden_states=tokens).sample
    lora.detach()
    add_deltas(net, {name: delta_of(one) for name, one in lora.factors().items()})
    assert torch.allclose(net(x, torch.tensor([5]), encoder_hidden_states=tokens).sample, on, atol=1e-4)


def test_values_out_of_range_are_refused():
    for wanted, roles, rank, alpha in (
        ("roles", ("attentoin",), 4, None),
        ("rank=0", ("attention",), 0, None),
        ("alpha", ("attention",), 4, 0.0),
    ):
        with pytest.raises(InputError, match=wanted):
            attach_lora(unet(), roles, rank, alpha)
    with pytest.raises(InputError, match="nothing to train"):
        attach_lora(network())
    with pytest.raises(InputError, match="grouped"):
        attach_to(network(), ["grouped"], 2)


def test_a_file_holds_the_factors_and_two_equal_ones_are_equal(tmp_path):
    lora = trained(attach_to(network(), NAMES, 2, 4.0))
    named = {f"diffusion_model.{name}": one for name, one in lora.factors().items()}
    first, second = (save_lora(tmp_path / f"{n}.safetensors", named, {"recipe": "test", "seed": 3}) for n in "ab")
    assert first.read_bytes() == second.read_bytes()
    found = read_lora(first)
    assert read_about(first) == {"recipe": "test", "seed": 3} and set(found) == set(named)
    other = attach_to(network(), NAMES, 2, 4.0)
    other.load({key.removeprefix("diffusion_model."): one for key, one in found.items()})
    for a, b in zip(lora.pairs, other.pairs, strict=True):
        assert torch.allclose(a.up, b.up, atol=1e-3) and torch.allclose(a.down, b.down, atol=1e-3)
    with pytest.raises(BundleError, match="other layers"):
        other.load({"line": found["diffusion_model.line"]})
    with pytest.raises(BundleError, match="these pairs have"):
        attach_to(network(), NAMES, 3, 4.0).load(lora.factors())


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"x.lora_up.weight": torch.zeros(4, 2)}, "lacks lora_down"),
        ({"x.lora_up.weight": torch.zeros(4, 3), "x.lora_down.weight": torch.zeros(2, 4)}, "make no LoRA"),
        ({"x.hada_w1_a": torch.zeros(4, 3)}, "no part of a LoRA"),
        ({"x.lora_up.weight": torch.full((4, 2), float("nan")), "x.lora_down.weight": torch.zeros(2, 4)}, "finite"),
    ],
)
def test_damaged_files_are_refused_by_name(tmp_path, tensors, message):
    save_file(tensors, tmp_path / "bad.safetensors")
    with pytest.raises(BundleError, match=f"bad.safetensors.*{message}|{message}"):
        read_lora(tmp_path / "bad.safetensors")


@pytest.mark.parametrize("layers", [1, 2])
def test_names_of_a_diffusers_unet_become_comfyuis(layers):
    from diffusers import UNet2DConditionModel

    config = {
        "block_out_channels": [32, 64, 64], "layers_per_block": layers, "cross_attention_dim": 32, "attention_head_dim": 2,
        "down_block_types": ["CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"],
        "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"],
    }  # fmt: skip
    net = UNet2DConditionModel(**config)
    shapes = sd_layout.unet([32, 64, 64], [1, 1, 0], 1, layers, 32)
    done = set()
    for name in attach_lora(net, rank=1).names:
        named = comfy_name(name, layers)
        assert named and shapes[f"{named}.weight"] == tuple(net.get_submodule(name).weight.shape), (name, named)
        done.add(named)
    assert len(done) == len(attach_lora(net, rank=1).names)
