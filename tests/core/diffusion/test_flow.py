"""The schedule of a flow-trained U-Net: its convention, its identities, and that samplers draw with it."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from rapiddraw.core.bundles.format import Schedule
from rapiddraw.core.diffusion.flow import FlowSchedule, noise_schedule
from rapiddraw.core.diffusion.noise import FLOW, VE, convention_of
from rapiddraw.core.diffusion.samplers import SAMPLERS
from rapiddraw.core.diffusion.schedule import NoiseSchedule, calculate_sigmas, denoised_to_output, output_to_denoised
from rapiddraw.core.diffusion.weighting import loss_weight, output_slope
from rapiddraw.core.errors import InputError

FLOW_SCHEDULE = Schedule(prediction="flow")


def test_the_prediction_chooses_the_schedule():
    assert type(noise_schedule(FLOW_SCHEDULE)) is FlowSchedule and type(noise_schedule(Schedule())) is NoiseSchedule
    assert convention_of(noise_schedule(FLOW_SCHEDULE)) == FLOW and convention_of(noise_schedule(Schedule("eps"))) == VE
    with pytest.raises(InputError, match="noise_schedule"):
        NoiseSchedule(FLOW_SCHEDULE)
    for timesteps in (1, 10**9, True):
        with pytest.raises(InputError, match="timesteps"):
            noise_schedule(Schedule(prediction="flow", timesteps=timesteps))


def test_levels_are_shares_of_the_timesteps():
    schedule = FlowSchedule(FLOW_SCHEDULE)
    t = torch.arange(1, 1001)
    assert (
        torch.equal(schedule.sigma(t), schedule.sigmas)
        and float(schedule.sigma_max) == 1.0
        and float(schedule.sigma_min) == pytest.approx(1e-3)
    )
    torch.testing.assert_close(schedule.timestep(schedule.sigmas), t.float())
    assert [schedule.percent_to_sigma(part) for part in (-1, 0, 0.25, 1, 2)] == [1, 1, 0.75, 0, 0]


@settings(deadline=None)
@given(st.floats(0.01, 0.99))
def test_a_state_and_its_output_give_the_picture_back(level):
    generator = torch.Generator().manual_seed(0)
    clean, noise, sigma = torch.randn(2, 3, generator=generator), torch.randn(2, 3, generator=generator), torch.tensor(level)
    schedule = FlowSchedule(FLOW_SCHEDULE)
    x = schedule.noise_scaling(sigma, noise, clean)
    output = denoised_to_output("flow", sigma, clean, x)
    torch.testing.assert_close(output, noise - clean, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(output_to_denoised("flow", sigma, output, x), clean, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(schedule.inverse_noise_scaling(sigma, x), clean + sigma / (1 - sigma) * noise, rtol=1e-3, atol=1e-3)
    assert schedule.calculate_input(sigma, x) is x


def test_min_snr_weighs_an_error_of_x0_as_in_the_other_conventions():
    sigma = torch.tensor([0.1, 0.5, 0.9, 1.0])
    snr = ((1 - sigma) / sigma) ** 2
    of_x0 = loss_weight("min_snr", "flow", sigma) * output_slope("flow", sigma) ** 2
    torch.testing.assert_close(of_x0, snr.clamp(max=5.0))


@pytest.mark.parametrize("name", ["euler", "heun", "dpmpp_2m"])
def test_samplers_reach_a_point(name):
    """A model that knows the picture is drawn to it from noise, along every schedule."""
    schedule, target = FlowSchedule(FLOW_SCHEDULE), torch.full((1, 4, 2, 2), 0.7)
    for scheduler in ("simple", "normal", "sgm_uniform"):
        sigmas = calculate_sigmas(schedule, scheduler, 8)
        assert float(sigmas[0]) == 1.0 and float(sigmas[-1]) == 0.0 and bool((sigmas.diff() < 0).all())
        x = schedule.noise_scaling(sigmas[0], torch.randn(1, 4, 2, 2), torch.zeros(1, 4, 2, 2), max_denoise=True)
        out = SAMPLERS[name](lambda x, sigma, **_: target.expand_as(x), x, sigmas)
        torch.testing.assert_close(schedule.inverse_noise_scaling(sigmas[-1], out), target, rtol=1e-4, atol=1e-4)
