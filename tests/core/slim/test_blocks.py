"""Blocks of a U-Net by name, and stand-ins in their place."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from rapiddraw.core.errors import InputError
from rapiddraw.core.slim.blocks import CROSS, FEED_FORWARD, RESIDUAL, SELF, TRANSFORMER, blocks_of, choose
from rapiddraw.core.slim.stand_ins import remove, remove_named, without
from rapiddraw.tests.slim_helpers import LATENT, output, small_unet


def test_every_block_is_found_in_the_order_in_which_it_runs() -> None:
    network = small_unet()
    blocks = blocks_of(network)
    ran: list[str] = []
    names = {id(block.module): block.name for block in blocks}
    for block in blocks:
        block.module.register_forward_hook(lambda module, *_: ran.append(names[id(module)]))
    output(network)
    whole = [block.name for block in blocks if block.kind in (RESIDUAL, TRANSFORMER)]
    assert [name for name in ran if name in whole] == whole
    assert set(ran) == set(names.values())
    kinds = {kind: sum(block.kind == kind for block in blocks) for kind in (RESIDUAL, TRANSFORMER, SELF, CROSS, FEED_FORWARD)}
    assert kinds == {RESIDUAL: 4 + 2 + 6, TRANSFORMER: 2 + 1 + 3, SELF: 6, CROSS: 6, FEED_FORWARD: 6}
    assert [block.name for block in blocks if block.changes_channels] == [
        "down_blocks.1.resnets.0", *(f"up_blocks.{i}.resnets.{j}" for i in (0, 1) for j in range(3))
    ]  # fmt: skip


def test_names_and_patterns() -> None:
    blocks = blocks_of(small_unet())
    chosen = choose(blocks, "up_blocks.*.attentions.0, \n down_blocks.0.resnets.1\n")
    assert [block.name for block in chosen] == ["down_blocks.0.resnets.1", "up_blocks.1.attentions.0"]
    assert choose(blocks, " \n") == []
    with pytest.raises(InputError, match=r"no block .* 'down_blocks.0.resnet.1'; the nearest names are down_blocks.0.resnets.1"):
        choose(blocks, "down_blocks.0.resnet.1")
    with pytest.raises(InputError, match="a Identity is no U-Net"):
        blocks_of(torch.nn.Identity())
    with pytest.raises(InputError, match="a ModuleDict is no U-Net"):  # as Stable Cascade's stages
        blocks_of(torch.nn.ModuleDict({"down_blocks": torch.nn.ModuleList(), "up_blocks": torch.nn.ModuleList()}))


@pytest.mark.parametrize("kind", [RESIDUAL, TRANSFORMER, SELF, CROSS, FEED_FORWARD])
def test_a_removed_block_is_the_identity(kind: str) -> None:
    """Its network gives what it gives when the block adds nothing to what comes in, bit for bit."""
    network = small_unet()
    silent, block = copy.deepcopy(network), next(block for block in blocks_of(network) if block.kind == kind)
    last = {RESIDUAL: "conv2", TRANSFORMER: "proj_out", SELF: "to_out.0", CROSS: "to_out.0", FEED_FORWARD: "net.2"}[kind]
    for weight in silent.get_submodule(f"{block.path}.{last}").parameters():
        weight.data.zero_()
    before = output(network)
    parameters = sum(p.numel() for p in network.parameters())
    remove(network, [block])
    assert torch.equal(output(network), output(silent)) and not torch.equal(output(network), before)
    assert sum(p.numel() for p in network.parameters()) < parameters - sum(p.numel() for p in block.module.parameters()) + 1


def test_a_residual_block_that_changes_channels_leaves_its_shortcut() -> None:
    network = small_unet()
    block = choose(blocks_of(network), "up_blocks.0.resnets.1")[0]
    x, emb = torch.randn(1, 128, 4, 4), torch.zeros(1, 128)
    wanted = block.module.conv_shortcut(x)  # type: ignore[operator]
    remove(network, [block])
    assert torch.equal(network.up_blocks[0].resnets[1](x, emb), wanted)
    assert "up_blocks.0.resnets.1.conv_shortcut.weight" in network.state_dict()


def test_all_blocks_can_be_removed_and_put_back() -> None:
    network = small_unet()
    before = output(network)
    for kind in (RESIDUAL, TRANSFORMER, SELF, CROSS, FEED_FORWARD):
        with without(network, [block for block in blocks_of(network) if block.kind == kind]):
            assert torch.isfinite(output(network)).all() and not torch.equal(output(network), before)
    with pytest.raises(ZeroDivisionError), without(network, blocks_of(network)):
        raise ZeroDivisionError
    assert torch.equal(output(network), before)


def test_blocks_inside_a_removed_transformer_go_with_it() -> None:
    network = small_unet()
    removed = remove_named(network, "down_blocks.0.attentions.0*")
    assert len(removed) == 4
    left = {block.name: block for block in blocks_of(network)}
    assert left["down_blocks.0.attentions.0"].is_removed and "down_blocks.0.attentions.0.transformer_blocks.0.attn1" not in left
    again = blocks_of(network)
    remove(network, again)
    assert [block.name for block in blocks_of(network) if block.is_removed] == [
        block.name for block in again if block.kind in (RESIDUAL, TRANSFORMER)
    ]
    with pytest.raises(InputError, match="no block is named"):
        remove_named(network, "")


def test_a_picture_of_another_size_goes_through() -> None:
    network: Any = small_unet()
    remove_named(network, "mid_block.*")
    assert output(network, torch.randn(1, 4, 16, 24)).shape == (1, 4, 16, 24)
    assert output(network).shape == LATENT.shape
