"""Pairs of small and large pictures, and PSNR."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from rapiddraw.core.errors import InputError
from rapiddraw.core.metrics.psnr import psnr
from rapiddraw.core.upscale import degrade


def test_reducing_and_enlarging_keep_flat_pictures_and_change_sizes():
    flat = np.full((16, 24, 3), 77, np.uint8)
    low = degrade.reduce(flat, 4)
    assert low.shape == (4, 6, 3) and (low == 77).all()
    assert (degrade.enlarge(low, 4) == flat).all()
    with pytest.raises(InputError, match="24x15"):
        degrade.reduce(flat[:15], 4)


def test_softening_keeps_the_mean_and_lowers_the_contrast():
    pictures = torch.rand(3, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    soft = degrade.soften(pictures, torch.Generator().manual_seed(1))
    assert torch.equal(soft, degrade.soften(pictures, torch.Generator().manual_seed(1)))
    assert (soft.mean((2, 3)) - pictures.mean((2, 3))).abs().max() < 0.05
    assert (soft.std((1, 2, 3)) < pictures.std((1, 2, 3))).all()
    sharp = degrade.soften(pictures, torch.Generator().manual_seed(1), blur=(1e-3, 1e-3), noise=0.0)
    torch.testing.assert_close(sharp, pictures)


def test_psnr_against_its_definition():
    a = np.zeros((10, 10, 3), np.uint8)
    b = a + 5
    assert psnr(a, b) == pytest.approx(20 * math.log10(255 / 5))
    assert psnr(a, a) == math.inf
    b[1:-1, 1:-1] = 1
    assert psnr(a, b, border=1) == pytest.approx(20 * math.log10(255))
    with pytest.raises(InputError):
        psnr(a, b[:5])
    with pytest.raises(InputError):
        psnr(a, b, border=5)
    with pytest.raises(InputError):
        psnr(a.astype(np.float32), b.astype(np.float32))


def test_a_compressed_picture_is_its_jpeg_and_a_function_of_the_generator():
    pictures = torch.rand(2, 3, 16, 24, generator=torch.Generator().manual_seed(0))
    once, again = (degrade.compress(pictures, torch.Generator().manual_seed(1)) for _ in range(2))
    assert torch.equal(once, again) and once.shape == pictures.shape and float(once.min()) >= 0 and float(once.max()) <= 1
    best, worst = (degrade.compress(pictures, torch.Generator(), (quality, quality)) for quality in (100, 5))
    assert (best - pictures).abs().mean() < (worst - pictures).abs().mean()
