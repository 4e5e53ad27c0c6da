"""How far a network looks, the overlap that follows from it, and the seam that is left."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from rapiddraw.core.upscale import reach
from rapiddraw.core.upscale.reach import SEAM, border_errors, choose_overlap, sample_picture, seam
from rapiddraw.core.upscale.tiles import Tiling, upscale
from torch import nn
from torch.nn import functional


class Blur(nn.Module):
    """A descriptor whose every pixel is the mean of all within `radius`: it looks exactly so far."""

    scale, input_channels = 1, 3

    def __init__(self, radius: int) -> None:
        super().__init__()
        self.weight, self.radius, self.calls = nn.Parameter(torch.zeros(1)), radius, 0

    @property
    def model(self):
        return self

    def forward(self, image):
        self.calls += 1
        side = 2 * self.radius + 1
        return functional.avg_pool2d(image, side, 1, self.radius)


def photograph(height: int, width: int) -> torch.Tensor:
    return sample_picture(3, height, width).permute(0, 2, 3, 1)


@pytest.mark.parametrize("radius", [0, 1, 5, 20])
def test_the_measured_reach_is_the_networks_own(radius):
    errors = border_errors(Blur(radius), Blur(radius), 3, 512)
    assert errors is not None and len(errors) == 64
    assert errors == sorted(errors, reverse=True)
    assert all(error < 1e-5 for error in errors[radius:]) and all(error > 1e-4 for error in errors[:radius])


@settings(max_examples=30, deadline=None)
@given(radius=st.integers(0, 12), tile=st.integers(48, 200), sides=st.tuples(st.integers(40, 260), st.integers(40, 260)))
def test_no_seam_is_larger_than_what_the_chosen_overlap_leaves(radius, tile, sides):
    """The seam of any picture stays near what the sample says: the sample is as rough as any picture here."""
    model, image = Blur(radius), photograph(*sides)
    overlap = choose_overlap(model, model, 3, tile, 8)
    errors = border_errors(model, model, 3, tile)
    assert 8 <= overlap <= tile // 2 and errors is not None
    off = (upscale(model, image, tiling=Tiling(tile, 8)) - model(image.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)).abs().max()
    assert float(off) <= max(4 * seam(errors, overlap), 1e-4)


def test_a_wider_reach_gets_a_wider_overlap_until_half_a_tile_and_the_rest_is_said(caplog):
    chosen = [choose_overlap(Blur(radius), Blur(radius), 3, 128, 8) for radius in (1, 4, 12)]
    assert chosen == sorted(chosen) and chosen[0] == 8 and chosen[-1] > 16
    with caplog.at_level("WARNING", "rapiddraw"):
        assert choose_overlap(Blur(1), Blur(1), 3, 128, 8) == 8 and not caplog.records
        assert choose_overlap(Blur(24), Blur(24), 3, 64, 8) == 32
    assert (
        "tiles of 64 px that share 32 px leave a seam of" in caplog.text and "on a sample picture, and a larger one on some" in caplog.text
    )
    assert "larger tiles" in caplog.text


def test_it_is_measured_once_for_a_network_and_only_where_there_are_tiles():
    model, image = Blur(2), photograph(96, 96)
    upscale(model, image)
    assert model.calls == 1
    upscale(model, image, tiling=Tiling(64, 16))
    upscale(model, image, tiling=Tiling(64, 16))
    assert model.calls == 1 + 2 + 4 + 4


def test_nothing_shared_stays_nothing_and_is_not_measured():
    model = Blur(9)
    assert choose_overlap(model, model, 3, 64, 0) == 0 and model.calls == 0


def test_where_memory_runs_out_the_asked_overlap_is_kept():
    def hopeless(pixels):
        raise RuntimeError("CUDA out of memory")

    assert choose_overlap(Blur(3), hopeless, 3, 64, 16) == 16
    with pytest.raises(RuntimeError, match="odd"):
        choose_overlap(Blur(3), lambda pixels: (_ for _ in ()).throw(RuntimeError("odd")), 3, 64, 16)


def test_the_seam_falls_with_the_overlap():
    errors = [0.5 * 0.9**at for at in range(64)]
    left = [seam(errors, overlap) for overlap in (8, 16, 32, 64, 128)]
    assert left == sorted(left, reverse=True) and left[-1] < 0.1 * left[0]
    assert seam([0.0] * 64, 32) == 0.0 and pytest.approx(0.5 / 255) == SEAM


def test_the_sample_is_one_and_the_same_and_a_picture():
    sample = sample_picture(3, 64, 128)
    assert torch.equal(sample, sample_picture(3, 64, 128)) and sample.shape == (1, 3, 64, 128)
    assert 0 <= sample.min() < 0.1 and 0.9 < sample.max() <= 1 and sample.std() > 0.15
    assert reach.sample_picture(1, 33, 47).shape == (1, 1, 33, 47)
