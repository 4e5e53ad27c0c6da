"""Samplers on flow models: the same answers as on a VE model with the same network, the data's statistics, the orders of convergence."""

from __future__ import annotations

import math

import pytest
import torch
from rapiddraw.core.diffusion.noise import FLOW
from rapiddraw.core.diffusion.samplers import SAMPLERS, adaptive, sample_adaptive_sde, sample_picard
from rapiddraw.core.diffusion.samplers import common as samplers_common
from rapiddraw.core.diffusion.samplers.euler import ancestral_step
from rapiddraw.core.diffusion.samplers.pndm import _midpoint

MEAN, STD = 0.4, 0.3


class Flow:
    """A flow schedule whose `sigma` shifts and whose `timestep` counts after the shift, as SD3's and Wan's."""

    def __init__(self, shift=3.0, noise_scale=1.0):
        self.shift, self.noise_scale = shift, noise_scale
        self.sigmas = self.sigma(torch.arange(1, 1001))
        self.sigma_min, self.sigma_max = self.sigmas[0], self.sigmas[-1]

    def timestep(self, sigma):
        return sigma * 1000

    def sigma(self, timestep):
        time = timestep / 1000
        return self.shift * time / (1 + (self.shift - 1) * time)

    def noise_scaling(self, sigma, noise, latent, max_denoise=False):
        return sigma * self.noise_scale * noise + (1 - sigma) * latent


class Same:
    """Unit noise in a fixed order, whatever the levels."""

    def __init__(self, x):
        self.shape, self.generator = x.shape, torch.Generator().manual_seed(3)

    def __call__(self, sigma, sigma_next):
        return torch.randn(self.shape, dtype=torch.float64, generator=self.generator)


def as_flow(denoiser):
    """The denoiser of a VE model, for the states of a flow model."""

    def flow(x, sigma):
        beside = sigma.reshape(-1, *[1] * (x.ndim - 1))
        return denoiser(x / (1 - beside), sigma / (1 - sigma))

    return flow


def gaussian(scale=1.0):
    """The exact denoiser of data N(0.4, 0.3^2) under a flow model's noise, also at sigma 1."""

    def flow(x, sigma):
        level = sigma.reshape(-1, *[1] * (x.ndim - 1))
        alpha, variance = 1 - level, (scale * level) ** 2
        return (alpha * x * STD**2 + MEAN * variance) / (alpha**2 * STD**2 + variance)

    return flow


def levels(steps=12, first=14.6):
    return torch.cat([torch.linspace(0, 1, steps, dtype=torch.float64).mul(-5).exp() * first, torch.zeros(1)])


@pytest.mark.parametrize("name", ["euler", "dpmpp_2m_sde", "adaptive_sde"])
def test_a_flow_model_is_its_ve_model_in_the_common_form(name, wrap, squashing_denoiser, monkeypatch):
    monkeypatch.setattr(adaptive, "MAX_CHANGE", math.inf)  # as for a VE model
    ve = levels()
    flow = FLOW.sigma(ve)
    y = torch.randn(2, 4, 3, 5, dtype=torch.float64) * ve[0]
    x = FLOW.from_common(y, flow[0])
    more = {} if name == "euler" else {"noise_sampler": Same(x)}
    sampler = SAMPLERS.get(name, sample_adaptive_sde)
    expected = sampler(wrap(squashing_denoiser, None), y, ve, {"seed": 1}, **more)
    more = {} if name == "euler" else {"noise_sampler": Same(x)}
    model = wrap(as_flow(squashing_denoiser), type("CONST", (), {})())
    torch.testing.assert_close(sampler(model, x, flow, {"seed": 1}, **more), expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("scale", [1.0, 4.0])
@pytest.mark.parametrize("name", ["euler_ancestral", "dpmpp_2m_sde", "adaptive_sde"])
def test_samples_of_a_flow_have_the_datas_mean_and_spread(name, scale, wrap):
    flow = Flow(noise_scale=scale)
    model = wrap(gaussian(scale), flow)
    x = torch.randn(2, 4, 32, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * scale

    def drawn(steps):
        sigmas = flow.sigma(torch.linspace(1000, 0, steps + 1, dtype=torch.float64))
        return SAMPLERS.get(name, sample_adaptive_sde)(model, x, sigmas, {"seed": 1})

    found = drawn(400)
    mean, std = float(found.mean()), float(found.std())
    if name == "euler_ancestral":  # of order 1: twice as many steps halve the error, and the limit is that of infinitely many
        std = 2 * float(drawn(800).std()) - float(drawn(400).std())
    assert mean == pytest.approx(MEAN, abs=0.015) and std == pytest.approx(STD, rel=0.05)


@pytest.mark.parametrize("window", [1, 7, 40])
def test_picards_ddpm_at_tolerance_0_is_the_ancestral_sampler(window, wrap, squashing_denoiser):
    flow = Flow()
    model = wrap(lambda x, sigma: squashing_denoiser(x, sigma), flow)
    x = torch.randn(2, 4, 3, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    sigmas = flow.sigma(torch.linspace(1000, 0, 31, dtype=torch.float64))
    expected = SAMPLERS["euler_ancestral"](model, x, sigmas, {"seed": 4})
    found = sample_picard(model, x, sigmas, {"seed": 4}, method="ddpm", window=window, tolerance=0.0)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("eta", [0.0, 0.3, 1.0])
def test_an_ancestral_step_ends_with_the_noise_of_its_level(eta):
    for sigma, sigma_next in ((1.0, 0.9), (0.9, 0.5), (0.5, 0.01), (0.5, 0.5), (1.0, 1.0)):
        down, keep, up = (float(part) for part in ancestral_step(FLOW, *torch.tensor([sigma, sigma_next]).double(), eta))
        assert (down * keep) ** 2 + up**2 == pytest.approx(sigma_next**2)
        assert keep * (1 - down) == pytest.approx(1 - sigma_next) and down <= sigma_next


@pytest.mark.parametrize("shift", [1.0, 3.0, 8.0, 12.0])
def test_the_midpoint_lies_between_its_ends_whatever_the_shift(shift):
    assert float(_midpoint(Flow(shift), torch.tensor(0.9), torch.tensor(0.8))) == pytest.approx(0.85)


def test_f_pndm_on_steps_of_equal_timestep_does_not_depend_on_the_shift(wrap):
    x = torch.randn(64, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(5))
    coarse, fine = (torch.linspace(0.98, 0.02, steps, dtype=torch.float64) for steps in (40, 4000))
    exact = SAMPLERS["heun"](wrap(as_flow_mixture(), Flow()), x, fine)
    found = {shift: SAMPLERS["f_pndm"](wrap(as_flow_mixture(), Flow(shift)), x, coarse) for shift in (1.0, 3.0, 8.0)}
    assert torch.equal(found[1.0], found[3.0]) and torch.equal(found[1.0], found[8.0])
    euler = SAMPLERS["euler"](wrap(as_flow_mixture(), Flow()), x, coarse)
    assert float((found[8.0] - exact).pow(2).mean()) < 0.1 * float((euler - exact).pow(2).mean())


def as_flow_mixture():
    """The exact denoiser of two Gaussians under a flow model's noise."""

    def flow(x, sigma):
        level = sigma[:, None]
        alpha, variance = 1 - level, level**2 + (1 - level) ** 2 * 0.25**2
        means = torch.tensor([[1.5, 1.0], [-1.0, 1.2]], dtype=x.dtype)
        distance = ((x[:, None] - alpha[:, None] * means) ** 2).sum(-1)
        share = (-distance / (2 * variance)).softmax(-1)
        gain = alpha * 0.25**2 / variance
        centre = means + gain[:, None] * (x[:, None] - alpha[:, None] * means)
        return (share[..., None] * centre).sum(1)

    return flow


@pytest.mark.parametrize(("name", "order"), [("euler", 1), ("heun", 2), ("dpmpp_2m", 2)])
def test_solvers_converge_on_a_flow_with_their_order(name, order, wrap):
    flow = Flow(3.0)
    model = wrap(as_flow_mixture(), flow)
    x = torch.randn(48, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(6))

    def grid(steps):
        return flow.sigma(torch.linspace(980, 20, steps + 1, dtype=torch.float64))

    exact = SAMPLERS["heun"](model, x, grid(3000))
    errors = [float((SAMPLERS[name](model, x, grid(steps)) - exact).pow(2).mean().sqrt()) for steps in (60, 120)]
    assert errors[0] / errors[1] > 2**order * 0.8


def test_nothing_warns_of_a_flow_without_a_reason(wrap, squashing_denoiser, caplog):
    samplers_common.warn_once.cache_clear()
    flow = Flow(1.0)
    x, sigmas = torch.randn(1, 4, 3, 5), torch.linspace(1.0, 0.05, 20)
    for name in SAMPLERS:
        SAMPLERS[name](wrap(squashing_denoiser, flow), x, sigmas, {"seed": 0})
    sample_adaptive_sde(wrap(squashing_denoiser, flow), x, sigmas, {"seed": 0}, probability_flow=True)
    assert [record.message for record in caplog.records if record.levelname == "WARNING"] == []


def test_the_adaptive_solvers_reports_are_the_models_own_states(wrap, squashing_denoiser):
    flow, seen = Flow(3.0), []
    model = wrap(squashing_denoiser, flow)
    x = torch.randn(1, 4, 3, 5)
    sample_adaptive_sde(model, x, torch.tensor([1.0, 0.5, 0.0]), {"seed": 0}, seen.append)
    assert all(0 < float(step["sigma"]) < 1 for step in seen)
    torch.testing.assert_close(seen[0]["x"], x, rtol=1e-3, atol=1e-3)
    for step in seen:
        torch.testing.assert_close(step["denoised"], squashing_denoiser(step["x"], step["sigma"].reshape(1)), rtol=1e-4, atol=1e-4)
