"""Networks at the papers' sizes, built without memory, and MobileDiffusion's switches."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from rapiddraw.core.errors import InputError
from rapiddraw.core.slim.blocks import CROSS, RESIDUAL, SELF, TRANSFORMER, blocks_of
from rapiddraw.core.slim.changes import apply_changes, changes_of
from rapiddraw.core.slim.presets import PRESETS, build, snapfusion_changes
from rapiddraw.core.slim.switches import SWITCHES, switched
from rapiddraw.tests.slim_helpers import output, small_unet

TYPES = {"down_block_types": ["CrossAttnDownBlock2D"] * 3, "up_block_types": ["CrossAttnUpBlock2D"] * 3}


def count(network: Any) -> tuple[int, int, int]:
    kinds = [block.kind for block in blocks_of(network) if not block.is_removed]
    return kinds.count(RESIDUAL), kinds.count(SELF), kinds.count(CROSS)


@pytest.mark.parametrize(
    ("name", "blocks"),
    [
        ("sd15", (22, 16, 16)),
        ("snapfusion", (17, 14, 14)),
        ("mobile", (11, 15, 18)),
        ("mobile-lite", (11, 12, 15)),
    ],
)
def test_the_papers_counts_of_blocks(name: str, blocks: tuple[int, int, int]) -> None:
    """MobileDiffusion's Table 1 has 22, 18, 11 and 11 convolution blocks; SnapFusion's own table adds up to 17."""
    with torch.device("meta"):
        network = build(name)
    assert count(network) == blocks


@pytest.mark.parametrize("name", PRESETS)
def test_a_small_one_draws(name: str) -> None:
    network = build(name, share=0.1)
    x = torch.randn(1, 4, 8, 8)
    with torch.no_grad():
        assert network(x, 10, encoder_hidden_states=torch.randn(1, 3, 768)).sample.shape == x.shape
    assert max(network.config["block_out_channels"]) <= 128


def test_snapfusions_stages() -> None:
    """Table 3, row by row: transformers (with copies) and residual blocks a stage."""
    with torch.device("meta"):
        left = [block for block in blocks_of(build("snapfusion")) if not block.is_removed]
    stages = {
        "down_blocks.0": (0, 2), "down_blocks.1": (2, 2), "down_blocks.2": (2, 1), "up_blocks.1": (3, 2), "up_blocks.2": (6, 3),
        "up_blocks.3": (0, 3),
    }  # fmt: skip
    for stage, wanted in stages.items():
        crossed = sum(block.kind == CROSS and block.level == stage for block in left)
        assert (crossed, sum(block.kind == RESIDUAL and block.level == stage for block in left)) == wanted, stage
    middle = ("down_blocks.3", "mid_block", "up_blocks.0")
    assert sum(block.kind == RESIDUAL and block.level in middle for block in left) == 4
    with pytest.raises(InputError, match=r"starts from SD 1\.5's blocks, and this U-Net lacks"):
        snapfusion_changes(small_unet())


@pytest.mark.parametrize("name", SWITCHES)
def test_every_switch_changes_the_network_and_leaves_it_working(name: str) -> None:
    network = small_unet(
        block_out_channels=[32, 64, 64], down_block_types=["CrossAttnDownBlock2D"] * 3, up_block_types=["CrossAttnUpBlock2D"] * 3
    )
    before = output(network)
    made = switched(network, [name])
    assert changes_of(network).stored() == {}, "nothing is changed by asking"
    apply_changes(network, made)
    after = output(network)
    assert torch.isfinite(after).all() and changes_of(network) == made and made.stored()
    assert torch.equal(after, before) == (name == "more transformers in the middle")


def test_all_switches_at_once() -> None:
    network = small_unet()
    made = switched(network, list(SWITCHES))
    assert made.removed and not set(made.removed) & {*made.shared, *made.relu}
    apply_changes(network, made)
    assert torch.isfinite(output(network)).all() and len([b for b in blocks_of(network) if b.kind == TRANSFORMER]) == 6
    with pytest.raises(InputError, match=r"no switch 'magic'; the switches are no self-attention"):
        switched(network, ["magic"])
