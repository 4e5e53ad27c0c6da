"""The noise schedule and the grids equal ComfyUI's; conversions agree with each other and with diffusers."""

import json
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from rapiddraw.core.bundles.format import Schedule
from rapiddraw.core.diffusion.schedule import (
    BETA_SCHEDULES,
    PREDICTIONS,
    SCHEDULER_NAMES,
    NoiseSchedule,
    calculate_sigmas,
    denoised_to_output,
    output_to_denoised,
)
from rapiddraw.core.errors import InputError

GOLDEN = json.loads((Path(__file__).parents[2] / "data" / "comfyui_schedules.json").read_text())
GRIDS = [(betas, name, steps) for betas, names in GOLDEN["grids"].items() for name, rows in names.items() for steps in rows]


def schedule_of(betas, **changes):
    table = GOLDEN["tables"][betas]
    return NoiseSchedule(Schedule(beta_schedule=betas, beta_start=table["beta_start"], beta_end=table["beta_end"], **changes))


@pytest.mark.parametrize("betas", BETA_SCHEDULES)
def test_table_equals_comfyui(betas):
    schedule, table = schedule_of(betas), GOLDEN["tables"][betas]
    torch.testing.assert_close(schedule.sigmas[table["at"]], torch.tensor(table["sigmas"]), rtol=1e-6, atol=0)
    torch.testing.assert_close(schedule.log_sigmas[table["at"]], torch.tensor(table["log_sigmas"]), rtol=1e-6, atol=1e-7)
    between = schedule.sigma(torch.tensor(table["timesteps"]))
    torch.testing.assert_close(between, torch.tensor(table["sigma_of_timestep"]), rtol=1e-6, atol=0)
    assert schedule.timestep(torch.tensor(table["levels"])).tolist() == table["timestep_of_level"]
    percents = [schedule.percent_to_sigma(p) for p in table["percents"]]
    assert percents == pytest.approx(table["sigma_of_percent"], rel=1e-6)


@pytest.mark.parametrize(("betas", "name", "steps"), GRIDS)
def test_grid_equals_comfyui(betas, name, steps):
    grid = calculate_sigmas(schedule_of(betas), name, int(steps))
    assert grid.dtype == torch.float32
    torch.testing.assert_close(grid, torch.tensor(GOLDEN["grids"][betas][name][steps]), rtol=1e-6, atol=0)


def test_table_is_that_of_diffusers(schedule):
    from diffusers import DDPMScheduler

    theirs = DDPMScheduler(beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012).alphas_cumprod
    torch.testing.assert_close(schedule.sigmas, ((1 - theirs) / theirs) ** 0.5, rtol=2e-5, atol=0)


def test_every_whole_timestep_survives_the_round_trip(schedule):
    times = torch.arange(1000)
    assert torch.equal(schedule.timestep(schedule.sigma(times)), times)
    assert schedule.timestep(schedule.sigmas[7]).shape == ()
    assert schedule.timestep(schedule.sigmas[:6].reshape(2, 3)).tolist() == [[0, 1, 2], [3, 4, 5]]


def test_conversions_equal_comfyui():
    stored = GOLDEN["conversions"]
    x, output = (torch.tensor(stored[k]).reshape(2, 1, 2, 2) for k in ("x", "output"))
    sigma = torch.tensor(stored["sigma"])
    for prediction, expected in stored["denoised"].items():
        schedule = NoiseSchedule(Schedule(prediction=prediction))
        torch.testing.assert_close(schedule.calculate_denoised(sigma, output, x).flatten(), torch.tensor(expected))
    torch.testing.assert_close(schedule.calculate_input(sigma, x).flatten(), torch.tensor(stored["input"]))
    torch.testing.assert_close(schedule.noise_scaling(sigma, x, output).flatten(), torch.tensor(stored["noise_scaling"]))
    full = schedule.noise_scaling(sigma, x, output, max_denoise=True)
    torch.testing.assert_close(full.flatten(), torch.tensor(stored["noise_scaling_max"]))
    assert schedule.inverse_noise_scaling(sigma, x) is x


@settings(deadline=None, max_examples=30)
@given(time=st.integers(0, 999), seed=st.integers(0, 2**32 - 1))
def test_all_predictions_mean_the_same_denoised(time, seed):
    schedule, draw = NoiseSchedule(), torch.Generator().manual_seed(seed)
    image, noise = (
        torch.randn(2, 4, 3, 5, dtype=torch.float64, generator=draw),
        torch.randn(2, 4, 3, 5, dtype=torch.float64, generator=draw),
    )
    sigma = schedule.sigmas[[time, time]].double()
    x = schedule.noise_scaling(sigma, noise, image)
    for prediction in PREDICTIONS:
        output = denoised_to_output(prediction, sigma, image, x)
        torch.testing.assert_close(output_to_denoised(prediction, sigma, output, x), image)


def test_training_targets_are_the_textbooks():
    schedule = NoiseSchedule()
    image, noise = torch.randn(3, 4, 2, 2, dtype=torch.float64), torch.randn(3, 4, 2, 2, dtype=torch.float64)
    sigma = schedule.sigmas[[1, 500, 999]].double()
    x = schedule.noise_scaling(sigma, noise, image)
    abar = (1 / (1 + sigma**2)).reshape(-1, 1, 1, 1)
    torch.testing.assert_close(denoised_to_output("eps", sigma, image, x), noise)
    torch.testing.assert_close(denoised_to_output("v", sigma, image, x), abar.sqrt() * noise - (1 - abar).sqrt() * image)
    assert denoised_to_output("x0", sigma, image, x) is image
    torch.testing.assert_close(schedule.calculate_input(sigma, x), abar.sqrt() * image + (1 - abar).sqrt() * noise)


def test_noise_scaling_leaves_its_inputs_alone(schedule):
    noise, latent = torch.ones(1, 4, 2, 2), torch.full((1, 4, 2, 2), 2.0)
    schedule.noise_scaling(schedule.sigma_max, noise, latent, max_denoise=True)
    assert bool((noise == 1).all()) and bool((latent == 2).all())


@settings(deadline=None, max_examples=60)
@given(name=st.sampled_from(SCHEDULER_NAMES), steps=st.integers(1, 1000))
def test_every_grid_descends_to_zero(name, steps):
    schedule = NoiseSchedule()
    grid = calculate_sigmas(schedule, name, steps)
    assert bool(grid.isfinite().all()) and float(grid[-1]) == 0
    assert bool((grid[1:] < grid[:-1]).all())
    assert float(grid[0]) <= float(schedule.sigma_max) * (1 + 1e-6)
    taken = len(range(1, 1000, 1000 // steps)) if name == "ddim_uniform" else steps
    assert len(grid) == taken + 1


def test_tables_that_reach_zero_get_no_second_zero():
    schedule = NoiseSchedule(Schedule(beta_schedule="linear", beta_start=1e-12, beta_end=0.012))
    for name in ("normal", "ddim_uniform"):
        grid = calculate_sigmas(schedule, name, 10)
        assert float(grid[-1]) < 1e-5
        assert float(grid[-2]) > 1e-3


@pytest.mark.parametrize("steps", [0, -1, 2.5, float("nan"), 10_001, True, "10", None])
def test_bad_step_counts_are_refused(schedule, steps):
    with pytest.raises(InputError, match="steps must be a whole number from 1 to 10000"):
        calculate_sigmas(schedule, "simple", steps)


def test_unknown_names_are_refused_with_the_known_ones(schedule):
    with pytest.raises(InputError, match="'linear'.*simple, sgm_uniform, karras"):
        calculate_sigmas(schedule, "linear", 10)
    with pytest.raises(InputError, match="'flow'.*eps, v, x0"):
        NoiseSchedule(Schedule(prediction="flow"))
    with pytest.raises(InputError, match="'cosine'.*scaled_linear"):
        NoiseSchedule(Schedule(beta_schedule="cosine"))
    with pytest.raises(InputError, match="beta_start"):
        NoiseSchedule(Schedule(beta_start=0.5, beta_end=0.1))
    with pytest.raises(InputError, match="beta_start"):
        NoiseSchedule(Schedule(beta_start="0.1"))
    for timesteps in (1, 10**9, "1000", float("nan")):
        with pytest.raises(InputError, match="from 2 to 100000 timesteps"):
            NoiseSchedule(Schedule(timesteps=timesteps))
