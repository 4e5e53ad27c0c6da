"""Previews of a sampling run: the linear map of the latent space, and nothing where there is none."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from rapiddraw.core.bundles.format import LatentSpace
from rapiddraw.core.host.embedded.preview import preview_of

SPACE = LatentSpace(channels=3, rgb_factors=((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0)), rgb_bias=(0.0, 0.5, 0.0))


def test_the_map_is_linear_and_has_its_bias():
    latent = torch.tensor([1.0, 0.0, -1.0]).reshape(1, 3, 1, 1).expand(2, 3, 4, 6)
    picture = preview_of(SPACE, latent)
    assert picture.size == (6, 4) and (np.asarray(picture) == (255, 191, 0)).all()


@pytest.mark.parametrize("odd", [float("nan"), float("inf"), 1e30, -1e30])
def test_odd_numbers_stay_a_picture(odd):
    assert preview_of(SPACE, torch.full((1, 3, 2, 2), odd)).size == (2, 2)


def test_no_preview_without_colours_or_pictures():
    assert preview_of(LatentSpace(channels=3), torch.zeros(1, 3, 2, 2)) is None
    assert preview_of(SPACE, torch.zeros(1, 3, 5, 2, 2)) is None and preview_of(SPACE, torch.zeros(1, 4, 2, 2)) is None
    assert preview_of(SPACE, object()) is None
