"""Noise levels of few steps and DDIM steps between them, in both noise conventions."""

from __future__ import annotations

import pytest
import torch
from rapiddraw.core.diffusion.flow import FlowSchedule
from rapiddraw.core.diffusion.noise import FLOW, VE
from rapiddraw.core.diffusion.samplers.euler import sample_euler
from rapiddraw.core.diffusion.schedule import NoiseSchedule, Schedule, calculate_sigmas
from rapiddraw.core.errors import InputError
from rapiddraw.core.fewstep.segment import (
    Segment,
    euler,
    guided,
    implied,
    levels_at,
    positions,
    subdivide,
    truncated_snr,
    walk,
    weighted_error,
)

SCHEDULES = {"ve": NoiseSchedule(), "flow": FlowSchedule(Schedule(prediction="flow"))}


@pytest.fixture(params=SCHEDULES)
def schedule(request):
    return SCHEDULES[request.param]


def curved(x, sigma, _=None):
    """A denoiser whose paths are curved."""
    return x.tanh() / (1 + sigma.reshape(-1, 1, 1, 1))


@pytest.mark.parametrize("scheduler", ["sgm_uniform", "simple", "normal", "karras"])
def test_dividing_twice_by_two_is_dividing_by_four(schedule, scheduler):
    levels = calculate_sigmas(schedule, scheduler, 4)
    halves = subdivide(levels, schedule.sigmas, 2)
    torch.testing.assert_close(subdivide(halves, schedule.sigmas, 2), subdivide(levels, schedule.sigmas, 4), rtol=1e-5, atol=1e-7)
    assert torch.equal(halves[::2], levels) and torch.equal(subdivide(levels, schedule.sigmas, 1), levels)
    assert bool((halves.diff() < 0).all()) and halves[-1] == 0


def test_the_middle_of_a_step_is_its_middle_timestep():
    sigmas = SCHEDULES["flow"].sigmas
    torch.testing.assert_close(subdivide(torch.tensor([1.0, 0.5, 0.0]), sigmas, 2), torch.tensor([1.0, 0.75, 0.5, 0.25, 0.0]))


def test_places_and_levels_are_inverse(schedule):
    table = schedule.sigmas
    levels = torch.cat([torch.zeros(1), table[[0, 1, 500, -1]], (table[3:5].mean())[None]])
    torch.testing.assert_close(levels_at(table, positions(table, levels)), levels, rtol=1e-5, atol=1e-8)
    assert positions(table, levels)[:5].tolist() == [0.0, 1.0, 2.0, 501.0, float(len(table))]


@pytest.mark.parametrize("levels", [[1.0], [1.0, 0.5], [0.5, 1.0, 0.0], [1.0, 1.0, 0.0]])
def test_levels_that_are_no_run_are_refused(levels):
    with pytest.raises(InputError, match="descend to 0"):
        subdivide(torch.tensor(levels), SCHEDULES["ve"].sigmas, 2)


def test_a_walk_is_the_sampler(schedule):
    levels, x = calculate_sigmas(schedule, "sgm_uniform", 5), torch.randn(3, 4, 2, 2) * 3
    torch.testing.assert_close(walk(curved, x, levels.expand(3, -1), None), sample_euler(curved, x, levels), rtol=1e-5, atol=1e-5)


def test_what_is_implied_leads_to_where_the_teacher_ended():
    x, start, end = torch.randn(2, 4, 3, 3), torch.tensor([2.0, 0.7]), torch.tensor([0.4, 0.0])
    reached = walk(curved, x, torch.stack([start, (start + end) / 2, end], dim=1), None)
    torch.testing.assert_close(euler(x, implied(x, start, end, reached), start, end), reached)
    torch.testing.assert_close(implied(x, start, end, euler(x, curved(x, start), start, end)), curved(x, start), rtol=1e-5, atol=1e-5)


def test_the_weight_is_the_snr_above_1():
    assert truncated_snr(VE, torch.tensor([0.5, 2.0])).tolist() == [4.0, 1.0]
    torch.testing.assert_close(truncated_snr(FLOW, torch.tensor([0.2, 0.5, 1.0])), torch.tensor([16.0, 1.0, 1.0]))
    error = weighted_error(torch.zeros(2, 1, 1, 1), torch.tensor([1.0, 2.0]).reshape(2, 1, 1, 1), torch.tensor([3.0, 1.0]))
    assert float(error) == 3.5


def test_guidance_may_differ_from_picture_to_picture():
    x, sigma = torch.randn(2, 1, 2, 2), torch.ones(2)
    segment = Segment(x, sigma, sigma / 2, 3.0, 1.0)
    asked = []

    def denoise(state, _, given):
        asked.append(given)
        return state * given

    torch.testing.assert_close(
        guided(denoise, x, sigma, segment, torch.tensor([2.0, 1.0])), x * torch.tensor([5.0, 3.0]).reshape(2, 1, 1, 1)
    )
    asked.clear()
    assert torch.equal(guided(denoise, x, sigma, segment, 1), x * 3) and asked == [3.0]
