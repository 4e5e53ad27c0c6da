"""Classifier-free guidance on denoised."""

import pytest
import torch
from rapiddraw.core.diffusion.guidance import cfg_denoised, needs_uncond
from rapiddraw.core.errors import InputError


def test_scale_one_is_the_conditional_prediction_itself():
    cond = torch.randn(2, 4, 3, 3)
    assert not needs_uncond(1.0)
    assert cfg_denoised(cond, None, 1.0) is cond


def test_guiding_denoised_is_guiding_the_noise():
    x, cond, uncond = torch.randn(3, 2, 4, 3, 3, dtype=torch.float64)
    sigma, scale = 2.5, 5.0
    eps = (x - uncond) / sigma + scale * ((x - cond) / sigma - (x - uncond) / sigma)
    assert needs_uncond(scale)
    torch.testing.assert_close(cfg_denoised(cond, uncond, scale), x - sigma * eps)
    torch.testing.assert_close(cfg_denoised(cond, uncond, 0.0), uncond)


def test_bad_input_is_refused():
    one = torch.zeros(1, 4, 2, 2)
    with pytest.raises(InputError, match="needs an unconditional prediction"):
        cfg_denoised(one, None, 5.0)
    with pytest.raises(InputError, match="one shape"):
        cfg_denoised(one, torch.zeros(1, 4, 3, 3), 5.0)
    with pytest.raises(InputError, match="finite"):
        cfg_denoised(one, one, float("nan"))
