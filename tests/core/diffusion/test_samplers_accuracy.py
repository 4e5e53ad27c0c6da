"""How close samplers come to the exact probability-flow ODE of analytic models, and how fast the error shrinks."""

import math

import pytest
import torch
from rapiddraw.core.diffusion.samplers import SAMPLERS
from rapiddraw.core.diffusion.samplers import common as samplers_common
from rapiddraw.core.diffusion.schedule import calculate_sigmas

DETERMINISTIC = ("euler", "heun", "ddim", "dpmpp_2m", "f_pndm", "s_pndm", "plms")


@pytest.fixture(scope="module")
def exact(schedule, mixture_denoiser):
    """512 starts and where the exact ODE of the mixture carries them."""
    top = float(schedule.sigma_max)
    x = torch.randn(512, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * top
    fine = torch.logspace(math.log10(top), -3, 2001, dtype=torch.float64)
    return x, SAMPLERS["heun"](mixture_denoiser, x, torch.cat([fine, fine.new_zeros(1)]))


@pytest.fixture(scope="module")
def error(schedule, wrap, mixture_denoiser, exact):
    """The median distance (RMS of the coordinates) to the exact end point."""

    def measure(name, scheduler, steps):
        sigmas = calculate_sigmas(schedule, scheduler, steps).double()
        result = SAMPLERS[name](wrap(mixture_denoiser, schedule), exact[0], sigmas)
        return float((result - exact[1]).pow(2).mean(-1).sqrt().median())

    return measure


@pytest.mark.parametrize(
    ("name", "order"),
    [("euler", 1), ("ddim", 1), ("heun", 2), ("dpmpp_2m", 2), ("s_pndm", 2), ("plms", 2), ("f_pndm", 2)],
)
def test_order_of_convergence(name, order):
    """On data N(0, 0.7^2) the ODE has the solution x(sigma) = c sqrt(0.49 + sigma^2). PNDM's transfer part limits it to order 2."""
    errors = []
    for steps in (64, 128, 256):
        sigmas = torch.logspace(1, -1, steps + 1, dtype=torch.float64)
        x = torch.full((1, 1), 7.0, dtype=torch.float64)
        result = SAMPLERS[name](lambda x, sigma: x * 0.49 / (0.49 + sigma[:, None] ** 2), x, sigmas)
        errors.append(abs(float(result) - 7 * math.sqrt((0.49 + 0.01) / (0.49 + 100))))
    measured = [math.log2(coarse / fine) for coarse, fine in zip(errors, errors[1:], strict=False)]
    assert measured == pytest.approx([order, order], abs=0.15)


@pytest.mark.parametrize(("steps", "ratio"), [(10, 0.7), (20, 0.35), (50, 0.1)])
@pytest.mark.parametrize("name", ["plms", "f_pndm"])
def test_pndm_beats_euler_clearly_from_ten_steps(name, steps, ratio, error):
    assert error(name, "normal", steps) < ratio * error("euler", "normal", steps)
    assert error(name, "simple", steps) < 0.85 * error("euler", "simple", steps)


@pytest.mark.parametrize("name", DETERMINISTIC)
def test_more_steps_come_closer(name, error):
    errors = [error(name, "normal", steps) for steps in (10, 20, 50)]
    assert errors[0] > errors[1] > errors[2]
    assert errors[2] < 0.03


@pytest.mark.parametrize("name", ["heun", "dpmpp_2m"])
def test_karras_suits_the_second_order_samplers(name, error):
    assert error(name, "karras", 20) < 0.3 * error("euler", "karras", 20)


@pytest.mark.parametrize("name", ["euler_ancestral", "dpmpp_2m_sde", "ddim"])
def test_stochastic_samplers_reach_the_data(name, schedule, wrap, mixture_denoiser, exact):
    """Noise forbids comparing paths, so compare what the samples are: the mixture's mean and covariance."""
    options = {"eta": 1.0} if name == "ddim" else {}
    sigmas = calculate_sigmas(schedule, "karras", 40).double()
    samples = SAMPLERS[name](wrap(mixture_denoiser), exact[0].repeat(8, 1), sigmas, extra_args={"seed": 0}, **options)
    weights, means = torch.tensor([0.5, 0.3, 0.2]).double(), torch.tensor([[1.5, 1.0], [-1.0, 1.2], [0.3, -1.4]]).double()
    mean = weights @ means
    covariance = (weights[:, None] * means).T @ means - torch.outer(mean, mean) + 0.0625 * torch.eye(2)
    torch.testing.assert_close(samples.mean(0), mean, rtol=0, atol=0.1)
    torch.testing.assert_close(samples.T.cov(), covariance, rtol=0, atol=0.15)


@pytest.mark.parametrize("scheduler", ["simple", "normal", "ddim_uniform", "sgm_uniform", "karras", "exponential"])
@pytest.mark.parametrize("steps", [3, 10, 30, 77])
def test_pndm_warns_once_where_timesteps_are_not_uniform(scheduler, steps, schedule, wrap, mixture_denoiser, exact, caplog):
    samplers_common.warn_once.cache_clear()
    for _ in range(2):
        sigmas = calculate_sigmas(schedule, scheduler, steps).double()
        SAMPLERS["plms"](wrap(mixture_denoiser, schedule), exact[0][:2], sigmas)
    warnings = [record for record in caplog.records if "equal size in timestep" in record.message]
    assert len(warnings) == (scheduler in ("karras", "exponential"))


def test_pndm_without_a_schedule_takes_the_midpoint_in_log_sigma(wrap, squashing_denoiser):
    model = wrap(squashing_denoiser, None)
    SAMPLERS["f_pndm"](model, torch.ones(1, 1, 2, 2), torch.tensor([4.0, 1.0]))
    assert model.levels == pytest.approx([4.0, 2.0, 2.0, 1.0])


def test_pndm_midpoints_are_whole_timesteps(schedule, wrap, squashing_denoiser):
    model = wrap(squashing_denoiser, schedule)
    SAMPLERS["f_pndm"](model, torch.ones(1, 1, 2, 2), schedule.sigmas[[999, 900]])
    assert model.levels == pytest.approx(schedule.sigmas[[999, 950, 950, 900]].tolist())
