"""A U-Net fitted to new text encoders by least squares."""

from __future__ import annotations

import pytest
import torch
from rapiddraw.core.bundles.load import load_bundle
from rapiddraw.core.errors import InputError
from rapiddraw.core.train.recipes.align import fit_features, with_features
from rapiddraw.tests.helpers import write_unet


def test_features_that_are_a_matrix_away_are_found_again():
    generator = torch.Generator().manual_seed(0)
    matrix = torch.randn(6, 8, generator=generator)
    new = [torch.randn(4, 5, 8, generator=generator) for _ in range(30)]
    fitted, explained = fit_features((x, x @ matrix.T) for x in new)
    torch.testing.assert_close(fitted, matrix, rtol=1e-2, atol=1e-2)
    assert explained > 0.999
    with pytest.raises(InputError, match="no captions"):
        fit_features([])
    with pytest.raises(InputError, match="as many tokens"):
        fit_features([(torch.zeros(1, 3, 2), torch.zeros(1, 4, 2))])


def test_the_unet_reads_the_new_features_as_it_read_the_old(tmp_path):
    from diffusers import UNet2DConditionModel
    from rapiddraw.core.networks import network_of

    bundle = load_bundle(write_unet(tmp_path / "unet.safetensors"), "unet")
    matrix = torch.randn(32, 32, generator=torch.Generator().manual_seed(1)) / 6
    old, new = (network_of(UNet2DConditionModel, one) for one in (bundle, with_features(bundle, matrix)))
    x, features = torch.randn(1, 4, 8, 8), torch.randn(1, 5, 32)
    with torch.no_grad():
        torch.testing.assert_close(new(x, 9, features).sample, old(x, 9, features @ matrix.T).sample, rtol=1e-3, atol=1e-4)
    with pytest.raises(InputError, match="attends to 32"):
        with_features(bundle, torch.zeros(32, 16))
