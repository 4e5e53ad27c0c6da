"""DPM-Solver++: orders of convergence on exact models, parity with diffusers on the same timesteps, and its warnings."""

import math

import pytest
import torch
from rapiddraw.core.diffusion.samplers import SAMPLERS, sample_dpm_solver
from rapiddraw.core.diffusion.samplers import common as samplers_common
from rapiddraw.core.diffusion.schedule import calculate_sigmas
from rapiddraw.core.errors import InputError
from rapiddraw.tests.diffusers_helpers import run_diffusers

BETAS = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}


def start(sigmas, count=32):
    return torch.randn(count, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(4)) * float(sigmas[0])


@pytest.fixture(scope="module")
def errors(mixture_denoiser):
    """Median distance to the exact ODE of the mixture at sigma 0.1, on grids uniform in log sigma."""
    fine = torch.logspace(1, -1, 3_001, dtype=torch.float64)
    exact = SAMPLERS["heun"](mixture_denoiser, start(fine), fine)

    def measure(method, order, steps):
        sigmas = torch.logspace(1, -1, steps + 1, dtype=torch.float64)
        result = sample_dpm_solver(mixture_denoiser, start(sigmas), sigmas, order=order, method=method)
        return float((result - exact).norm(dim=1).median())

    return measure


@pytest.mark.parametrize(
    ("method", "order", "expected"),
    [("singlestep", 1, 1), ("singlestep", 2, 2), ("singlestep", 3, 3), ("multistep", 2, 2), ("multistep", 3, 2)],
)
def test_order_of_convergence_on_a_mixture(method, order, expected, errors):
    """Steps divide by 6, so that single-step groups are whole. Multistep starts with one step of order 1, which limits it to 2."""
    found = [errors(method, order, steps) for steps in (48, 96, 192)]
    measured = [math.log2(coarse / fine) for coarse, fine in zip(found, found[1:], strict=False)]
    assert measured[-1] == pytest.approx(expected, abs=0.4), measured


def test_a_higher_order_is_closer(errors):
    for method in ("singlestep", "multistep"):
        one, two, three = (errors(method, order, 48) for order in (1, 2, 3))
        assert three < two < one / 4


@pytest.mark.parametrize("steps", [6, 7, 8, 12, 20, 21])
@pytest.mark.parametrize(("method", "order"), [("singlestep", 1), ("singlestep", 2), ("singlestep", 3), ("multistep", 3)])
def test_it_is_diffusers_solver_on_the_same_timesteps(method, order, steps, schedule, mixture_denoiser):
    from diffusers import DPMSolverMultistepScheduler, DPMSolverSinglestepScheduler

    options = {**BETAS, "algorithm_type": "dpmsolver++", "solver_order": order, "lower_order_final": True}
    if method == "multistep":
        theirs = DPMSolverMultistepScheduler(**options, timestep_spacing="trailing", final_sigmas_type="zero")
    else:
        theirs = DPMSolverSinglestepScheduler(**options, final_sigmas_type="zero")
    theirs.set_timesteps(steps)
    abar = theirs.alphas_cumprod[theirs.timesteps].double()
    sigmas = torch.cat([((1 - abar) / abar).sqrt(), abar.new_zeros(1)])
    expected = run_diffusers(theirs, mixture_denoiser, start(sigmas), sigmas[0], steps)
    ours = sample_dpm_solver(mixture_denoiser, start(sigmas), sigmas, order=order, method=method)
    assert float((ours - expected).norm() / expected.norm()) < 1e-4


def test_what_is_the_same_is_the_same(schedule, wrap, squashing_denoiser):
    sigmas = calculate_sigmas(schedule, "karras", 12)
    x, model = torch.randn(2, 4, 3, 5) * float(sigmas[0]), wrap(squashing_denoiser, schedule)
    assert torch.equal(sample_dpm_solver(model, x, sigmas, method="multistep"), SAMPLERS["dpmpp_2m"](model, x, sigmas))
    for method in ("singlestep", "multistep"):
        ddim = sample_dpm_solver(model, x, sigmas, order=1, method=method)
        torch.testing.assert_close(ddim, SAMPLERS["euler"](model, x, sigmas), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("scheduler", ["simple", "normal", "ddim_uniform", "sgm_uniform", "karras", "exponential"])
@pytest.mark.parametrize("steps", [5, 10, 20])
def test_uneven_grids_are_warned_of_once(scheduler, steps, schedule, mixture_denoiser, caplog):
    samplers_common.warn_once.cache_clear()
    for order in (1, 2, 2, 3):
        sigmas = calculate_sigmas(schedule, scheduler, steps).double()
        sample_dpm_solver(mixture_denoiser, start(sigmas, 2), sigmas, order=order)
    warned = [record for record in caplog.records if "works in log sigma" in record.message]
    expected = scheduler in ("normal", "ddim_uniform")
    assert len(warned) <= 1 and (len(warned) == 1) == expected


@pytest.mark.parametrize("order", [0, 4, -1, 2.0, "2", True, None])
def test_hostile_orders_are_refused(order, mixture_denoiser):
    with pytest.raises(InputError, match="order must be a whole number from 1 to 3"):
        sample_dpm_solver(mixture_denoiser, torch.ones(1, 2), torch.tensor([2.0, 1.0, 0.0]), order=order)
    with pytest.raises(InputError, match="singlestep or multistep"):
        sample_dpm_solver(mixture_denoiser, torch.ones(1, 2), torch.tensor([2.0, 1.0, 0.0]), method="fast")
