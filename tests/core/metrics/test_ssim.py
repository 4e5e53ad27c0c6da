"""SSIM: one for equal pictures, the value that scikit-image gives, and sizes that are refused."""

from __future__ import annotations

import numpy as np
import pytest
from rapiddraw.core.errors import InputError
from rapiddraw.core.metrics.ssim import ssim

PICTURE = np.random.default_rng(0).integers(0, 255, (40, 48, 3), dtype=np.uint8)


def test_equal_pictures_have_one_and_others_less():
    other = np.clip(PICTURE.astype(int) + 20, 0, 255).astype(np.uint8)
    assert ssim(PICTURE, PICTURE) == pytest.approx(1.0)
    assert ssim(PICTURE, other) < 0.999 and ssim(PICTURE, 255 - PICTURE) < 0


def test_it_is_scikit_images_value():
    metrics = pytest.importorskip("skimage.metrics")
    smooth = np.clip(PICTURE * 0.7 + 30, 0, 255).astype(np.uint8)
    settings = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "data_range": 255, "channel_axis": 2}
    expected = metrics.structural_similarity(PICTURE, smooth, **settings)
    assert ssim(PICTURE, smooth) == pytest.approx(expected, abs=1e-3)


def test_what_cannot_be_compared_is_refused():
    with pytest.raises(InputError, match="one size"):
        ssim(PICTURE, PICTURE[:-1])
    with pytest.raises(InputError, match="11 px"):
        ssim(PICTURE[:20], PICTURE[:20], border=5)
