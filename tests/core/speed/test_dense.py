"""ESRGAN's dense blocks in bf16, as both libraries write them, against the blocks themselves."""

from __future__ import annotations

import pytest
import torch
from rapiddraw.core.speed import dense
from rapiddraw.core.speed.eager import in_bf16
from rapiddraw.core.upscale import basicsr_shim
from rapiddraw.core.upscale.layouts import RRDBConfig
from rapiddraw.core.upscale.rrdb import build
from torch.nn import BatchNorm2d, Conv2d, Linear, ReLU, Sequential


def blocks(backend):
    if backend == "basicsr" and not basicsr_shim.available():
        pytest.skip("no basicsr on this Python")
    torch.manual_seed(0)
    network = build(RRDBConfig(num_feat=32, num_block=1), backend).requires_grad_(False)
    return [module for module in network.modules() if type(module).__name__.startswith("ResidualDenseBlock")]


@pytest.mark.parametrize("backend", ["basicsr", "spandrel"])
def test_a_block_of_either_library_is_computed_as_it_is_written(backend, monkeypatch):
    block = blocks(backend)[0]
    x = torch.randn(2, 32, 9, 11, generator=torch.Generator().manual_seed(1))
    convolutions = dense.layers(block)
    assert convolutions is not None and [slope for _, slope in convolutions] == pytest.approx([0.2] * 4 + [1.0])
    half = in_bf16(type(block).forward, block, x)
    assert half.dtype == torch.float32 and half.shape == x.shape
    assert 0 < (half - block(x)).abs().max() < 0.01 * block(x).abs().max()
    with monkeypatch.context() as patch:  # the same in float32 is the block itself
        patch.setattr(torch, "bfloat16", torch.float32)
        torch.testing.assert_close(dense.dense_in_bf16(convolutions, x), block(x))


def test_what_is_no_such_block_is_left_to_autocast():
    block = blocks("spandrel")[0]
    assert dense.layers(Linear(2, 2)) is None
    block.conv1x1 = Conv2d(32, 32, 1)  # ESRGAN+
    assert dense.layers(block) is None
    block = blocks("spandrel")[0]
    block.conv2 = Sequential(block.conv2[0], BatchNorm2d(32), block.conv2[1])
    assert dense.layers(block) is None
    block.conv2 = Sequential(block.conv2[0], ReLU())
    assert dense.layers(block) is None
