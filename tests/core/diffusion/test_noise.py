"""Noise conventions and noise levels, held to their definitions on stand-ins for ComfyUI's sampling classes."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from rapiddraw.core.diffusion.noise import FLOW, UNITS, VE, Convention, NoiseLevel, convention_of, same_snr, sigma_of_timestep
from rapiddraw.core.diffusion.schedule import NoiseSchedule
from rapiddraw.core.diffusion.time_decoupled import split_at
from rapiddraw.core.errors import InputError


class ShiftedFlow:
    """The flow schedule of SD3, Wan and Z-Image: a table of sigmas, and timesteps counted after the shift."""

    def __init__(self, shift: float = 1.0, multiplier: float = 1000, noise_scale: float = 1.0) -> None:
        self.shift, self.multiplier, self.noise_scale = shift, multiplier, noise_scale
        self.sigmas = self.sigma(torch.arange(1, 1001) / 1000 * multiplier)
        self.sigma_min, self.sigma_max = self.sigmas[0], self.sigmas[-1]

    def timestep(self, sigma):
        return sigma * self.multiplier

    def sigma(self, timestep):
        time = timestep / self.multiplier
        return self.shift * time / (1 + (self.shift - 1) * time)

    def noise_scaling(self, sigma, noise, latent, max_denoise=False):
        return sigma * self.noise_scale * noise + (1 - sigma) * latent


class Table:
    """Any table of sigmas with any function of timesteps."""

    def __init__(self, sigmas, timestep) -> None:
        self.sigmas, self.timestep = sigmas, timestep


CONVENTIONS = [VE, FLOW, Convention(flow=True, noise_scale=8.0)]


@pytest.mark.parametrize("convention", CONVENTIONS)
@given(sigma=st.floats(1e-4, 0.9999))
@settings(max_examples=50, deadline=None)
def test_levels_and_log_snr_go_there_and_back(convention, sigma):
    given_ = torch.tensor([sigma], dtype=torch.float64)
    alpha, beta = convention.alpha(given_), given_ * (convention.noise_scale if convention.flow else 1)
    torch.testing.assert_close(convention.level(given_), beta / alpha)
    torch.testing.assert_close(convention.log_snr(given_), (alpha / beta).log() * 2)
    torch.testing.assert_close(convention.sigma(convention.level(given_)), given_)
    torch.testing.assert_close(convention.sigma_of_log_snr(convention.log_snr(given_)), given_)
    assert convention.sigma(convention.level(sigma)) == pytest.approx(sigma)


@pytest.mark.parametrize("convention", CONVENTIONS)
def test_a_state_of_each_convention_has_the_common_form(convention):
    clean, noise, sigma = torch.randn(3, 4, 2, 5, 5), torch.randn(3, 4, 2, 5, 5), torch.tensor([0.1, 0.5, 0.9])
    levels = sigma.reshape(-1, 1, 1, 1, 1)
    state = (1 - levels) * clean + levels * convention.noise_scale * noise if convention.flow else clean + levels * noise
    common = clean + convention.level(levels) * noise
    torch.testing.assert_close(convention.to_common(state, sigma), common)
    torch.testing.assert_close(convention.from_common(common, sigma), state)


def test_the_ends_of_a_flow_are_noise_alone_and_the_picture():
    assert FLOW.level(1.0) == math.inf and FLOW.level(torch.tensor(1.0)) == math.inf
    assert FLOW.sigma(math.inf) == 1 and FLOW.sigma(torch.tensor(math.inf)) == 1
    assert FLOW.level(0.0) == FLOW.sigma(0.0) == 0 and FLOW.sigma(torch.tensor(0.0)) == 0


def test_a_schedules_convention_is_seen_in_how_it_mixes_noise(schedule):
    assert convention_of(schedule) == convention_of(None) == VE
    assert convention_of(ShiftedFlow(8.0)) == FLOW
    assert convention_of(ShiftedFlow(1.0, noise_scale=8.0)) == Convention(flow=True, noise_scale=8.0)


def test_equal_snr_between_the_conventions_stays_inside_the_receiver(schedule):
    flow, sigma = ShiftedFlow(3.0), torch.tensor([0.0, 0.5, 1.0, 3.0])
    there = same_snr(sigma, schedule, flow)
    torch.testing.assert_close(there, sigma / (1 + sigma))
    torch.testing.assert_close(same_snr(there, flow, schedule), sigma)
    assert same_snr(torch.tensor(1.0), flow, schedule) == schedule.sigma_max


@pytest.mark.parametrize("shift", [1.0, 3.0, 5.0, 8.0, 12.0])
@pytest.mark.parametrize("boundary", [875, 900, 500])
def test_a_flows_timestep_is_the_one_after_the_shift(shift, boundary):
    assert sigma_of_timestep(ShiftedFlow(shift), boundary) == pytest.approx(boundary / 1000, rel=2e-6)
    assert sigma_of_timestep(ShiftedFlow(shift, multiplier=1), boundary / 1000) == pytest.approx(boundary / 1000, rel=2e-6)


@pytest.mark.parametrize("timestep", [1, 250, 500, 999])
def test_a_discrete_schedules_timestep_is_its_table(schedule, timestep):
    assert sigma_of_timestep(schedule, timestep) == float(schedule.sigmas[timestep])
    assert NoiseLevel(timestep).on(schedule) == pytest.approx(NoiseLevel(timestep, "model timestep").on(schedule))


@given(st.floats(0.0, 998.0))
@settings(max_examples=60, deadline=None)
def test_the_level_is_the_lowest_whose_timestep_is_reached(timestep):
    for schedule in (NoiseSchedule(), ShiftedFlow(7.0)):
        level = sigma_of_timestep(schedule, timestep)
        if level:
            near = torch.tensor([level * (1 + 1e-5), level * (1 - 1e-5)], dtype=torch.float64)
            up, down = schedule.timestep(near).double().tolist()
            assert up >= timestep - 0.002 and down <= timestep + 0.01


def test_timesteps_that_do_not_rise_are_refused():
    with pytest.raises(InputError, match="do not rise"):
        sigma_of_timestep(Table(torch.linspace(0.1, 80, 100), lambda sigma: torch.sin(sigma)), 0.5)
    with pytest.raises(InputError, match="do not rise"):
        sigma_of_timestep(Table(torch.linspace(80, 0.1, 100), lambda sigma: sigma), 0.5)


@pytest.mark.parametrize("timestep", [-1, 1001, 1e6])
def test_a_timestep_that_the_model_does_not_reach_is_refused_with_its_range(timestep):
    with pytest.raises(InputError, match="go from .* to 1000"):
        sigma_of_timestep(ShiftedFlow(3.0), timestep)


def test_negative_timesteps_of_edm_are_levels_too():
    edm = Table(torch.linspace(math.log(0.002), math.log(80), 1000).exp(), lambda sigma: 0.25 * sigma.log())
    assert sigma_of_timestep(edm, 0.0) == pytest.approx(1.0) and sigma_of_timestep(edm, -1.0) == pytest.approx(math.exp(-4))


@pytest.mark.parametrize("steps", [1, 4, 20])
def test_a_step_and_a_share_cut_a_run_where_they_say(schedule, steps):
    sigmas = torch.cat([torch.linspace(14, 0.1, steps), torch.zeros(1)])
    for step in range(steps + 1):
        assert len(split_at(sigmas, NoiseLevel(step, "step").on(schedule, sigmas))[0]) == min(step, steps) + 1
        assert NoiseLevel(step, "step").on(schedule, sigmas) == NoiseLevel(step / steps, "share of the steps").on(schedule, sigmas)
    assert NoiseLevel(10_000, "step").on(schedule, sigmas) == 0 and NoiseLevel(0, "step").on(schedule, sigmas) == math.inf


def test_evaluations_inside_the_last_step_stay_with_its_model(schedule):
    sigmas = torch.tensor([10.0, 5.0, 1.0, 0.0])
    assert 5.0 < NoiseLevel(1, "step").on(schedule, sigmas) < 5.001


@pytest.mark.parametrize(
    ("value", "unit", "says"),
    [
        (1001, "timestep", "timestep from 0"),
        (0.5, "timestep", "timestep from 0"),
        (-0.1, "sigma", "from 0"),
        (math.nan, "sigma", "from 0"),
        (math.inf, "model timestep", "must be a number"),
        (1.1, "share of the steps", "up to 1"),
        (2.5, "step", "whole number"),
        (-1, "step", "whole number"),
        (1, "percent", ", ".join(UNITS)),
    ],
)
def test_numbers_out_of_range_are_refused(value, unit, says):
    with pytest.raises(InputError, match=says):
        NoiseLevel(value, unit)


def test_steps_need_a_run_that_descends(schedule):
    with pytest.raises(InputError, match="noise levels of the sampling run"):
        NoiseLevel(3, "step").on(schedule)
    with pytest.raises(InputError, match="descend"):
        NoiseLevel(1, "step").on(schedule, torch.tensor([0.1, 1.0, 5.0]))
