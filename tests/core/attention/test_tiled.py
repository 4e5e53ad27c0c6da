"""Tiled attention is the textbook formula, whatever the lengths, head sizes, masks and tiles."""

from __future__ import annotations

import pytest
import torch
from rapiddraw.core.attention.tiled import tiled_attention
from rapiddraw.core.errors import InputError

SHAPES = [(1, 1, 1, 1, 8), (2, 3, 7, 5, 16), (1, 2, 33, 17, 40), (2, 1, 64, 77, 12), (1, 1, 130, 100, 160), (1, 2, 16, 40, 3)]
ROUNDING = {torch.float64: 1e-12, torch.float32: 2e-6, torch.float16: 2e-3, torch.bfloat16: 1.6e-2}


def textbook(q, k, v, mask=None, scale=None):
    """softmax(scale * q k^T + mask) v in float64."""
    q, k, v = q.double(), k.double(), v.double()
    scores = q @ k.transpose(-1, -2) * (q.shape[-1] ** -0.5 if scale is None else scale)
    if mask is not None:
        scores = scores.masked_fill(~mask, -torch.inf) if mask.dtype == torch.bool else scores + mask.double()
    return torch.nan_to_num(scores.softmax(dim=-1)) @ v


def make(shape, dtype=torch.float64, seed=0, spread=1.0):
    batch, heads, queries, keys, width = shape
    generator = torch.Generator().manual_seed(seed)
    sizes = [(batch, heads, n, width) for n in (queries, keys, keys)]
    return [(torch.randn(size, generator=generator, dtype=torch.float64) * spread).to(dtype) for size in sizes]


def error(out, expected):
    assert out.isfinite().all()
    return float((out.double() - expected).abs().max() / expected.abs().max().clamp(min=1e-12))


@pytest.mark.parametrize("dtype", ROUNDING)
@pytest.mark.parametrize("shape", SHAPES)
def test_it_is_the_textbook_formula_within_rounding(shape, dtype):
    q, k, v = make(shape, dtype)
    out = tiled_attention(q, k, v, tile=16)
    assert out.dtype == dtype and error(out, textbook(q, k, v)) < ROUNDING[dtype]


@pytest.mark.parametrize("tile", [1, 3, 16, 1000])
def test_the_size_of_the_tiles_does_not_matter(tile):
    q, k, v = make((2, 2, 29, 31, 10))
    mask = torch.randn(2, 1, 29, 31, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    assert error(tiled_attention(q, k, v, mask, tile=tile), textbook(q, k, v, mask)) < 1e-12


@pytest.mark.parametrize("size", [(20, 23), (1, 1, 20, 23), (2, 1, 20, 23), (1, 3, 20, 23), (2, 3, 1, 23), (2, 3, 20, 1), (23,)])
@pytest.mark.parametrize("kind", ["additive", "boolean"])
def test_masks_of_every_shape_that_broadcasts(size, kind):
    q, k, v = make((2, 3, 20, 23, 8))
    mask = torch.randn(size, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    mask = mask > -0.5 if kind == "boolean" else mask
    whole = mask.expand(2, 3, 20, 23)
    assert error(tiled_attention(q, k, v, mask, tile=8), textbook(q, k, v, whole)) < 1e-12


@pytest.mark.parametrize("nowhere", ["boolean", "minus infinity"])
def test_a_row_that_may_look_nowhere_is_zero(nowhere):
    q, k, v = make((1, 2, 9, 12, 8), torch.float32)
    allowed = torch.ones(9, 12, dtype=torch.bool)
    allowed[4], allowed[0, :8] = False, False  # row 0 sees nothing in its first tile, row 4 nothing at all
    mask = allowed if nowhere == "boolean" else torch.zeros(9, 12).masked_fill(~allowed, -torch.inf)
    out = tiled_attention(q, k, v, mask, tile=4)
    assert (out[:, :, 4] == 0).all() and error(out, textbook(q, k, v, allowed)) < 2e-6
    torch.testing.assert_close(out, torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=mask), rtol=1e-5, atol=1e-6)


def test_large_scores_do_not_overflow():
    q, k, v = make((1, 1, 16, 50, 8), torch.float32, spread=300.0)
    assert error(tiled_attention(q, k, v, tile=7), textbook(q, k, v)) < 1e-5


def test_properties_of_a_softmax():
    q, k, v = make((1, 2, 11, 13, 6))
    out = tiled_attention(q, k, v, tile=4)
    order = torch.randperm(13, generator=torch.Generator().manual_seed(3))
    torch.testing.assert_close(tiled_attention(q, k[:, :, order], v[:, :, order], tile=4), out)  # keys have no order
    torch.testing.assert_close(tiled_attention(q, k, torch.ones_like(v), tile=4), torch.ones_like(out))  # weights add up to 1
    torch.testing.assert_close(tiled_attention(q, k + 1, v, tile=4), tiled_attention(q, k, v, tile=4))  # a shift of all scores of a row
    torch.testing.assert_close(tiled_attention(q, k.repeat(1, 1, 3, 1), v.repeat(1, 1, 3, 1), tile=4), out)
    torch.testing.assert_close(tiled_attention(q, k, v, scale=0.0, tile=4), v.mean(dim=2, keepdim=True).expand_as(out))


def test_values_may_have_another_width():
    q, k, _ = make((1, 2, 5, 6, 8))
    v = torch.randn(1, 2, 6, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(4))
    assert error(tiled_attention(q, k, v), textbook(q, k, v)) < 1e-12


def test_what_is_no_attention_is_refused():
    q, k, v = make((1, 2, 5, 6, 8))
    with pytest.raises(InputError, match="shapes"):
        tiled_attention(q, k[:, :, :, :4], v)
    with pytest.raises(InputError, match="shapes"):
        tiled_attention(q[0], k[0], v[0])
    with pytest.raises(InputError, match="does not fit"):
        tiled_attention(q, k, v, torch.zeros(5, 5))
    with pytest.raises(InputError, match="tile"):
        tiled_attention(q, k, v, tile=0)
