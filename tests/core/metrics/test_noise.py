"""White noise is called white, and what resampling does to it is told."""

from __future__ import annotations

import pytest
import torch
from rapiddraw.core.diffusion.noise import FLOW
from rapiddraw.core.errors import InputError
from rapiddraw.core.metrics.noise import noise_statistics
from torch.nn import functional


def white(side: int = 128) -> torch.Tensor:
    return torch.randn(2, 4, side, side, generator=torch.Generator().manual_seed(0))


def test_white_noise_is_white_at_every_level() -> None:
    clean = torch.rand(2, 4, 128, 128) * 5
    for sigma in (0.1, 1.2, 14.0):
        found = noise_statistics(clean + sigma * white(), clean, sigma)
        assert abs(found.correlation) < 0.02 and abs(found.std - 1) < 0.02
        assert "white noise" in found.table() and found.cells == 2 * 4 * 128 * 128


@pytest.mark.parametrize(("mode", "factor", "correlation", "std"), [("bilinear", 2, 0.747, 0.636), ("bicubic", 2, 0.693, 0.859),
                                                                    ("nearest", 2, 0.507, 1.0), ("bilinear", 0.5, 0.0, 0.5)])  # fmt: skip
def test_enlarging_a_noisy_latent_correlates_its_noise(mode: str, factor: float, correlation: float, std: float) -> None:
    """The values are those that theory gives for white noise; reducing it takes half of it away instead."""
    noise = functional.interpolate(white(256), scale_factor=factor, mode=mode)
    found = noise_statistics(noise * 1.2, torch.zeros_like(noise), 1.2)
    assert found.correlation == pytest.approx(correlation, abs=0.02) and found.std == pytest.approx(std, abs=0.02)


def test_what_cannot_be_judged_is_refused() -> None:
    noise = white(8)
    for arguments in ((noise, noise[:1], 1.0), (noise[..., :1], noise[..., :1], 1.0), (noise, noise * 0, 0.0), (noise, noise, 1.0)):
        with pytest.raises(InputError):
            noise_statistics(*arguments)


def test_flow_models_and_videos_are_judged_too() -> None:
    clean, sigma = torch.rand(2, 4, 3, 64, 64) * 5, 0.6
    noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(1))
    found = noise_statistics((1 - sigma) * clean + sigma * noise, clean, sigma, FLOW)
    assert abs(found.correlation) < 0.02 and abs(found.std - 1) < 0.02
    wrong = noise_statistics((1 - sigma) * clean + sigma * noise, clean, sigma)
    assert wrong.std > 1.5
