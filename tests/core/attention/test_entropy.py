"""Attention's entropy: the factor, and that it does what it is for."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from rapiddraw.core.attention.entropy import check_size, entropy_factor, entropy_patch
from rapiddraw.core.errors import InputError


@given(st.integers(1, 10**6), st.floats(1, 1e6), st.floats(1, 1e6))
def test_the_factor_is_one_at_the_size_of_training_and_grows_with_size(tokens, area, trained):
    factor = entropy_factor(tokens, area, trained)
    assert math.isfinite(factor) and factor > 0
    assert entropy_factor(tokens, area, area) == 1.0
    if tokens >= 2 and tokens * trained / area >= 2:
        assert (factor > 1) == (area > trained) or math.isclose(area, trained, rel_tol=1e-6)


def test_the_factor_is_the_papers():
    assert entropy_factor(4096, 64 * 64, 32 * 32) == pytest.approx(math.sqrt(math.log(4096) / math.log(1024)))
    assert entropy_factor(256, 64 * 64, 32 * 32) == pytest.approx(math.sqrt(math.log(256) / math.log(64)))  # two levels down


def test_entropy_stays_nearer_to_that_of_training():
    generator = torch.Generator().manual_seed(0)

    def entropy(tokens, scale=1.0):
        logits = torch.randn(64, tokens, generator=generator) * 2 * scale
        share = logits.softmax(1)
        return float(-(share * share.log()).sum(1).mean())

    trained, now = entropy(256), entropy(4096)
    scaled = entropy(4096, entropy_factor(4096, 4096, 256))
    assert abs(scaled - trained) < abs(now - trained)


def test_the_patch_scales_queries_alone():
    patch, x = entropy_patch(128, 64, 8), torch.randn(2, 32, 4)
    assert all(one is x for one in patch(x, x, x, {"original_shape": [2, 4, 8, 16]}))
    assert all(one is x for one in patch(x, x, x, {}))
    q, k, v = patch(x, x, x, {"original_shape": [2, 4, 16, 32]})
    assert torch.equal(q, x * entropy_factor(32, 512, 128)) and k is x and v is x


def test_in_joint_attention_only_the_pictures_queries_are_scaled():
    patch, q = entropy_patch(128, 128, 8, 2), torch.randn(1, 2, 5 + 64 + 4, 8)  # 5 of text, 64 of the picture, 4 of a reference
    options = {"original_shape": [1, 16, 16, 16], "img_slice": [5, 73]}
    assert patch(q, q, q, pe=None, attn_mask=None, extra_options=options) == {}  # the size of training
    options["original_shape"] = [1, 16, 1, 32, 32]
    q = torch.randn(1, 2, 5 + 256 + 4, 8)
    scaled = patch(q, q, q, pe=None, attn_mask=None, extra_options=options)["q"]
    factor = entropy_factor(256, 32 * 32, 16 * 16)
    assert factor > 1 and torch.equal(scaled[:, :, 5:261], q[:, :, 5:261] * factor)
    assert torch.equal(scaled[:, :, :5], q[:, :, :5]) and torch.equal(scaled[:, :, 261:], q[:, :, 261:])
    assert patch(q, q, q, pe=None, attn_mask=None, extra_options={}) == {}


@pytest.mark.parametrize("size", [(0, 64), (64, 20000), (64.0, 64), (True, 64)])
def test_sizes_that_cannot_be_are_refused(size):
    with pytest.raises(InputError):
        check_size(*size)
