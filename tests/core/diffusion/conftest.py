"""Analytic denoisers: models whose exact answers are known."""

from __future__ import annotations

import types

import pytest
import torch
from rapiddraw.core.diffusion.schedule import NoiseSchedule


class Wrapped:
    """A denoiser inside the chain of wrappers that a sampler sees in a host; counts its calls and keeps their noise levels."""

    def __init__(self, function, model_sampling=None):
        self.function, self.levels = function, []
        self.inner_model = types.SimpleNamespace(inner_model=types.SimpleNamespace(model_sampling=model_sampling))

    def __call__(self, x, sigma, **extra_args):
        self.levels.append(float(sigma[0]))
        return self.function(x, sigma)


def mixture(x, sigma):
    """The exact denoiser of a mixture of three Gaussians in the last dimension's plane, for x (B, 2)."""
    means = torch.tensor([[1.5, 1.0], [-1.0, 1.2], [0.3, -1.4]], dtype=x.dtype)
    weights = torch.tensor([0.5, 0.3, 0.2], dtype=x.dtype)
    inner, outer = 0.25**2, sigma[:, None] ** 2
    distance = ((x[:, None] - means) ** 2).sum(-1)
    share = (weights.log() - distance / (2 * (inner + outer))).softmax(-1)
    centre = (x[:, None] * inner + means * outer[:, None]) / (inner + outer)[:, None]
    return (share[..., None] * centre).sum(1)


def squashing(x, sigma):
    """A smooth nonlinear denoiser of any shape (B, ...); the one behind the stored values of the samplers."""
    return 0.8 * torch.tanh(x / (sigma.reshape(-1, *[1] * (x.ndim - 1)) ** 2 + 0.5))


@pytest.fixture(scope="session")
def wrap():
    return Wrapped


@pytest.fixture(scope="session")
def mixture_denoiser():
    return mixture


@pytest.fixture(scope="session")
def squashing_denoiser():
    return squashing


@pytest.fixture(scope="session")
def schedule():
    return NoiseSchedule()
