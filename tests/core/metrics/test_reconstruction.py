"""core.metrics.reconstruction: round trips of a VAE, PSNR and gradients by picture."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from rapiddraw.core.errors import InputError
from rapiddraw.core.metrics.reconstruction import RoundTrips, gradient_energy, psnr_by_picture
from rapiddraw.tests.helpers import write_vae


def pictures(count: int = 3) -> torch.Tensor:
    return torch.rand(count, 3, 32, 48, generator=torch.Generator().manual_seed(0)) * 2 - 1


def test_a_round_trip_keeps_shape_and_range(tmp_path):
    trips = RoundTrips(write_vae(tmp_path / "vae.safetensors"))
    made = trips.of(pictures(17))
    assert made.shape == (17, 3, 32, 48) and made.abs().max() <= 1
    torch.testing.assert_close(made[16:], trips.of(pictures(17)[16:]), rtol=0, atol=1e-4)  # whatever else is in the batch
    assert trips.factor == 8


def test_psnr_is_of_eight_bits():
    real = ((pictures() * 0.9 + 1) * 127.5).round() / 127.5 - 1  # values that a file can hold, with room above them
    assert np.isinf(psnr_by_picture(real, real + 1e-4)).all()
    np.testing.assert_allclose(psnr_by_picture(real, real + 2 / 127.5), 10 * np.log10(255**2 / 4), atol=1e-6)
    with pytest.raises(InputError, match="one shape"):
        psnr_by_picture(real, real[:2])


def test_a_blurred_picture_has_less_gradient_energy():
    real = pictures()
    assert (gradient_energy(torch.nn.functional.avg_pool2d(real, 3, 1, 1)) < 0.6 * gradient_energy(real)).all()
    step = torch.zeros(1, 3, 4, 4)
    step[..., 2:] = 1  # one of three differences along each row, none along columns
    np.testing.assert_allclose(gradient_energy(step), [1 / 3])
