"""Copies, MobileDiffusion's changes, and the record that a bundle keeps of them."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from rapiddraw.core.errors import BundleError, InputError
from rapiddraw.core.slim import tricks
from rapiddraw.core.slim.attention import SlimAttention, relu_attention, softmax_attention, uses_relu
from rapiddraw.core.slim.blocks import CROSS, FEED_FORWARD, RESIDUAL, SELF, TRANSFORMER, blocks_of, choose
from rapiddraw.core.slim.changes import KEY, Changes, apply_changes, changes_of, open_changes, read_changes
from rapiddraw.core.slim.stand_ins import remove_named
from rapiddraw.tests.slim_helpers import CONFIG, output, small_unet

DEEP = "up_blocks.1.attentions.1"
EVERY = Changes(
    copies={"mid_block.attentions.0": 2, DEEP: 1},
    shared=("mid_block.attentions.0.transformer_blocks.2.attn1", f"{DEEP}.transformer_blocks.0.attn1"),
    relu=(f"{DEEP}.transformer_blocks.0.attn1", f"{DEEP}.transformer_blocks.0.attn2"),
    swish=(f"{DEEP}.transformer_blocks.1.ff",),
    trimmed={"down_blocks.0.attentions.0.transformer_blocks.0.ff": 48},
    separable=("down_blocks.1.resnets.0", "mid_block.resnets.0"),
    removed=("down_blocks.0.attentions.1", "up_blocks.1.resnets.2", "up_blocks.1.attentions.2.transformer_blocks.0.attn1"),
)


def blocks(network: Any, kind: str) -> list[Any]:
    return [block for block in blocks_of(network) if block.kind == kind]


def test_a_copy_changes_nothing() -> None:
    network = small_unet()
    before, parameters = output(network), sum(p.numel() for p in network.parameters())
    for block in blocks(network, TRANSFORMER):
        tricks.copy_transformer(block, 2)
    assert torch.equal(output(network), before)
    assert sum(p.numel() for p in network.parameters()) > 1.2 * parameters
    assert changes_of(network).copies == {block.name: 2 for block in blocks(network, TRANSFORMER)}


def test_a_copy_can_learn() -> None:
    network = small_unet().requires_grad_(False)
    block = blocks(network, TRANSFORMER)[0]
    tricks.copy_transformer(block)
    made = block.module.transformer_blocks[-1].requires_grad_(True)
    from rapiddraw.tests.slim_helpers import LATENT, TOKENS

    network(LATENT, 300, encoder_hidden_states=TOKENS).sample.square().mean().backward()
    for layer in (made.attn1.to_out[0], made.attn2.to_out[0], made.ff.net[2]):
        assert float(layer.weight.grad.abs().sum()) > 0


def test_slim_attention_without_changes_is_attention() -> None:
    network = small_unet()
    before = output(network)
    for block in [*blocks(network, SELF), *blocks(network, CROSS)]:
        tricks._replace(network, block.path, SlimAttention(block.module, False, False))
    torch.testing.assert_close(output(network), before)


def test_shared_keys_are_values() -> None:
    network = small_unet()
    other = copy.deepcopy(network)
    for block, same in zip(blocks(network, SELF), blocks(other, SELF), strict=True):
        tricks.share_projections(network, block)
        same.module.to_v.weight.data.copy_(same.module.to_k.weight.data)
    torch.testing.assert_close(output(network), output(other))
    assert not any("attn1.to_v" in name for name in network.state_dict())
    assert blocks(network, SELF)[0].module.to_v is blocks(network, SELF)[0].module.to_k


@pytest.mark.parametrize("mask", [None, "bool", "additive"])
def test_relu_attention_is_its_formula(mask: str | None) -> None:
    q, k, v = torch.randn(2, 1500, 8), torch.randn(2, 7, 8), torch.randn(2, 7, 8)
    hidden = torch.rand(2, 1, 7) > 0.3
    given = {None: None, "bool": hidden, "additive": torch.zeros(2, 1, 7).masked_fill(~hidden, -1e9)}[mask]
    kept = hidden[:, 0, :, None] if mask else torch.ones(2, 7, 1)
    for h in range(2):
        one = slice(4 * h, 4 * h + 4)
        weights = torch.relu(q[..., one] @ k[..., one].transpose(1, 2) / 2) / 7
        wanted = weights @ (v[..., one] * kept)
        torch.testing.assert_close(relu_attention(q, k, v, 2, given)[..., one], wanted)


def test_relu_never_meets_a_kernel_and_softmax_does() -> None:
    calls = []

    def override(function: Any, *args: Any, **kwargs: Any) -> Any:
        calls.append(function)
        return function(*args, **kwargs)

    attention = blocks(small_unet(), SELF)[0].module
    x, options = torch.randn(1, 5, 32), {"optimized_attention_override": override}
    for relu in (True, False):
        made = SlimAttention(attention, True, relu)
        assert made(x, transformer_options=options).shape == x.shape and uses_relu(made) == relu
    assert calls == [softmax_attention]


def test_an_attention_patch_reaches_shared_attention() -> None:
    made = SlimAttention(blocks(small_unet(), SELF)[0].module, True, False)
    x = torch.randn(1, 5, 32)
    doubled = {"patches": {"attn1_patch": [lambda q, k, v, _: (2 * q, k, v)]}}
    assert not torch.allclose(made(x, transformer_options=doubled), made(x))
    assert torch.equal(made(x, context=x, transformer_options=doubled), made(x)), "ComfyUI's block has applied it"


def test_swish_replaces_gelu() -> None:
    network = small_unet()
    block = blocks(network, FEED_FORWARD)[0]
    x = torch.randn(2, 3, 32)
    hidden, gate = block.module.net[0].proj(x).chunk(2, -1)
    wanted = block.module.net[2](hidden * gate * torch.sigmoid(gate))
    tricks.swish_for_gelu(network, block)
    torch.testing.assert_close(block.module(x), wanted)
    with pytest.raises(InputError, match="has a GatedSwish and no gated gelu"):
        tricks.swish_for_gelu(network, block)


def test_trimming_units_that_give_nothing_changes_nothing() -> None:
    network = small_unet()
    block = blocks(network, FEED_FORWARD)[0]
    dead = torch.tensor([3, 50, 77])
    gate, out = block.module.net[0].proj, block.module.net[2]
    out.weight.data[:, dead] = 0
    gate.weight.data[dead] = gate.weight.data[dead + 128] = 0
    before = output(network)
    tricks.trim(network, block, 125)
    torch.testing.assert_close(output(network), before)
    for width in (125, 0, 200):
        with pytest.raises(InputError, match="has 125 hidden units"):
            tricks.trim(network, block, width)


def test_a_separable_kernel_is_found_exactly() -> None:
    network = small_unet()
    block = blocks(network, RESIDUAL)[0]
    for name in ("conv1", "conv2"):
        conv = block.module.get_submodule(name)
        conv.weight.data = torch.randn(1, 32, 3, 3) * torch.randn(32, 32, 1, 1) * 0.1
    before = output(network)
    tricks.separate(network, block)
    torch.testing.assert_close(output(network), before, rtol=1e-3, atol=1e-4)
    assert sum(p.numel() for p in block.module.conv1.parameters()) == 32 * 9 + 32 * 32 + 32


def test_a_record_makes_the_same_network_again() -> None:
    from diffusers import UNet2DConditionModel

    network = small_unet()
    apply_changes(network, EVERY)
    assert changes_of(network) == EVERY
    read = read_changes(EVERY.stored(), "it")
    assert read == EVERY
    with torch.device("meta"):
        fresh = UNet2DConditionModel(**CONFIG)
        open_changes(fresh, read, "it")
    fresh.load_state_dict(network.state_dict(), strict=True, assign=True)
    assert torch.equal(output(fresh.eval()), output(network))
    assert "2 blocks removed" not in EVERY.summary() and EVERY.summary().startswith("3 removed, 3 copied")


def test_changes_add_up_in_any_order() -> None:
    network = small_unet()
    remove_named(network, "down_blocks.0.attentions.1")
    tricks.copy_transformer(choose(blocks_of(network), DEEP)[0])
    remove_named(network, f"{DEEP}.transformer_blocks.1.attn2")
    made = changes_of(network)
    assert made.copies == {DEEP: 1} and made.removed == ("down_blocks.0.attentions.1", f"{DEEP}.transformer_blocks.1.attn2")
    again = small_unet()
    apply_changes(again, made)
    again.load_state_dict(network.state_dict())
    assert torch.equal(output(again), output(network))


def test_an_untouched_network_has_no_record() -> None:
    assert changes_of(small_unet()).stored() == {} and read_changes({}, "it") is None
    assert changes_of(torch.nn.Identity()) == Changes() and Changes().summary() == "nothing changed"
    open_changes(None, None, "it")


@pytest.mark.parametrize(
    ("stored", "message"),
    [
        ([], "cannot be understood"),
        ({"removed": ["a"], "colour": []}, "cannot be understood"),
        ({"removed": "down_blocks.0.attentions.0"}, "removed blocks is not a list of names"),
        ({"removed": [3]}, "removed blocks is not a list of names"),
        ({"copies": {"mid_block.attentions.0": 2.5}}, "copies blocks is not a table of numbers"),
        ({"copies": {"mid_block.attentions.0": True}}, "copies blocks is not a table of numbers"),
        ({"copies": {"a": 1000}}, "more than 64 copied blocks"),
        ({"trimmed": ["a"]}, "trimmed blocks is not a table of numbers"),
    ],
)
def test_a_false_record_is_refused(stored: Any, message: str) -> None:
    with pytest.raises(BundleError, match=f"it: .*{message}"):
        read_changes({KEY: stored}, "it")


@pytest.mark.parametrize(
    "changes",
    [
        Changes(removed=("down_blocks.9.resnets.0",)),
        Changes(copies={"down_blocks.0.resnets.0": 1}),
        Changes(relu=("mid_block.attentions.0",)),
        Changes(shared=("mid_block.attentions.0.transformer_blocks.3.attn1",), copies={"mid_block.attentions.0": 1}),
        Changes(trimmed={"mid_block.attentions.0.transformer_blocks.0.ff": 100000}),
    ],
)
def test_a_record_of_another_network_is_refused(changes: Changes) -> None:
    with pytest.raises(BundleError, match="does not fit its network"):
        open_changes(small_unet(), changes, "it")


def test_softmax_kernels_are_refused_for_relu(tiny_weights: Any) -> None:
    from rapiddraw.core.attention.patch import AttentionPatch
    from rapiddraw.core.host import current

    host = current()
    model = host.model.load(tiny_weights / "tiny-unet.safetensors")

    def relu(network: Any) -> None:
        tricks.relu_for_softmax(network, blocks(network, SELF)[0])

    made = host.surgery.rebuild(model, relu)
    with pytest.raises(InputError, match="relu in the place of softmax"):
        host.attention.patch_model(made, AttentionPatch())
    assert host.attention.patch_model(model, AttentionPatch()) is not model
