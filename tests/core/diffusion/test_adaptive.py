"""The adaptive SDE solver: determinism, the statistics it reaches, what its tolerance costs, and what it refuses."""

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rapiddraw.core import progress
from rapiddraw.core.diffusion.samplers import SAMPLERS, sample_adaptive_sde
from rapiddraw.core.diffusion.samplers import common as samplers_common
from rapiddraw.core.diffusion.schedule import SCHEDULER_NAMES, calculate_sigmas
from rapiddraw.core.errors import Cancelled, InputError

MEAN, STD = 0.4, 0.3


def gaussian(x, sigma):
    """The exact denoiser of data N(0.4, 0.3^2)."""
    level = sigma.reshape(-1, *[1] * (x.ndim - 1)) ** 2
    return (x * STD**2 + MEAN * level) / (STD**2 + level)


def start(schedule, shape=(2, 4, 3, 5), seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * float(schedule.sigma_max)


def run(schedule, wrap, denoiser=gaussian, sigmas=None, shape=(2, 4, 3, 5), seed=1, callback=None, **options):
    sigmas = calculate_sigmas(schedule, "simple", 20) if sigmas is None else sigmas
    stats, model = {}, wrap(denoiser, schedule)
    x = sample_adaptive_sde(model, start(schedule, shape), sigmas, {"seed": seed}, callback, stats=stats, **options)
    assert stats["evaluations"] == len(model.levels) == 1 + 2 * stats["accepted"] + stats["rejected"]
    return x, stats, model


def test_the_samples_have_the_datas_mean_and_spread(schedule, wrap):
    for options in ({}, {"probability_flow": True}):
        x, _, _ = run(schedule, wrap, shape=(4, 4, 32, 32), **options)
        assert float(x.mean()) == pytest.approx(MEAN, abs=0.015)
        assert float(x.std()) == pytest.approx(STD, rel=0.05)


def test_the_samples_are_the_mixtures(schedule, wrap, mixture_denoiser):
    """As good as the fixed-step samplers on the same test; see test_samplers_accuracy."""
    torch.manual_seed(0)
    x = torch.randn(1536, 2, dtype=torch.float64) * float(schedule.sigma_max)
    stats = {}
    sigmas = calculate_sigmas(schedule, "karras", 10).double()
    samples = sample_adaptive_sde(wrap(mixture_denoiser, schedule), x, sigmas, {"seed": 0}, rtol=0.5, atol=0.05, max_nfe=5000, stats=stats)
    weights, means = torch.tensor([0.5, 0.3, 0.2]).double(), torch.tensor([[1.5, 1.0], [-1.0, 1.2], [0.3, -1.4]]).double()
    mean = weights @ means
    torch.testing.assert_close(samples.mean(0), mean, rtol=0, atol=0.1)
    covariance = (weights[:, None] * means).T @ means - torch.outer(mean, mean) + 0.0625 * torch.eye(2)
    torch.testing.assert_close(samples.T.cov(), covariance, rtol=0, atol=0.15)


def test_the_same_seed_is_the_same_picture(schedule, wrap, squashing_denoiser):
    draws = [run(schedule, wrap, squashing_denoiser, seed=seed)[0] for seed in (5, 5, 6, 2**64 - 1)]
    assert torch.equal(draws[0], draws[1]) and not torch.equal(draws[0], draws[2]) and bool(draws[3].isfinite().all())
    ode = [run(schedule, wrap, squashing_denoiser, seed=seed, probability_flow=True)[0] for seed in (5, 6)]
    assert torch.equal(*ode), "the ODE draws nothing"


def test_evaluations_fall_as_the_tolerance_rises(schedule, wrap, squashing_denoiser):
    for flow in (False, True):
        costs = [
            run(schedule, wrap, squashing_denoiser, rtol=rtol, probability_flow=flow)[1]["evaluations"] for rtol in (0.02, 0.05, 0.1, 0.3)
        ]
        assert costs == sorted(costs, reverse=True) and costs[0] > 1.5 * costs[-1]


def test_tighter_tolerances_refine_one_picture(schedule, wrap, squashing_denoiser):
    pytest.importorskip("torchsde")  # without it there is no path that all step sizes share
    exact = run(schedule, wrap, squashing_denoiser, rtol=0.002, atol=0.0005, max_nfe=20_000)[0]
    errors = [
        float((run(schedule, wrap, squashing_denoiser, rtol=rtol, atol=rtol / 6)[0] - exact).pow(2).mean().sqrt())
        for rtol in (0.2, 0.05, 0.01)
    ]
    assert errors[0] > errors[1] > errors[2] and errors[2] < 0.02


def test_the_ode_form_ends_where_fine_heun_ends(schedule, wrap, squashing_denoiser):
    x, stats, _ = run(schedule, wrap, squashing_denoiser, probability_flow=True, rtol=0.01)
    fine = SAMPLERS["heun"](squashing_denoiser, start(schedule), calculate_sigmas(schedule, "karras", 400))
    assert float((x - fine).pow(2).mean().sqrt()) < 0.01


@pytest.mark.parametrize("limit", [3, 4, 10, 25])
def test_max_nfe_is_never_passed_and_said_once(limit, schedule, wrap, squashing_denoiser, caplog):
    samplers_common.warn_once.cache_clear()
    for _ in range(2):
        x, stats, _ = run(schedule, wrap, squashing_denoiser, max_nfe=limit)
        assert stats["evaluations"] <= limit and bool(x.isfinite().all())
    assert len([record for record in caplog.records if "Raise max_nfe" in record.message]) == 1


def test_only_the_ends_of_sigmas_count(schedule, wrap, squashing_denoiser):
    top = float(schedule.sigma_max)
    first, second = (run(schedule, wrap, squashing_denoiser, torch.tensor([top, *inner, 0.0]))[0] for inner in ([], [9.0, 3.0, 1.0]))
    assert torch.equal(first, second)
    levels = run(schedule, wrap, squashing_denoiser, torch.tensor([top, 5.0, 2.0]))[2].levels
    assert max(levels) == pytest.approx(top) and min(levels) == pytest.approx(2.0)
    lowest = min(run(schedule, wrap, squashing_denoiser)[2].levels)
    assert lowest == pytest.approx(float(schedule.sigma_min)), "0 stands for the lowest level the network knows"


def test_a_walk_that_does_not_end_at_0_keeps_its_noise(schedule, wrap):
    x, _, _ = run(schedule, wrap, sigmas=torch.tensor([float(schedule.sigma_max), 2.0]), shape=(2, 4, 64, 64))
    assert float(x.std()) == pytest.approx((STD**2 + 4) ** 0.5, rel=0.05)


def test_reports_rise_to_the_last_step(schedule, wrap, squashing_denoiser):
    for limit in (1000, 20):
        seen = []
        run(schedule, wrap, squashing_denoiser, callback=seen.append, max_nfe=limit)
        steps = [step["i"] for step in seen]
        assert steps[0] == 0 and steps[-1] == 19 and steps == sorted(steps)
        for step in seen:
            torch.testing.assert_close(step["denoised"], squashing_denoiser(step["x"], step["sigma"] * torch.ones(2)))


def test_a_request_to_stop_is_honoured(schedule, wrap, squashing_denoiser):
    def stop(step):
        if step["i"] >= 5:
            progress.request_cancel()

    try:
        with pytest.raises(Cancelled):
            run(schedule, wrap, squashing_denoiser, callback=stop)
    finally:
        progress.clear_cancel()


def test_short_walks_and_broken_networks_end(schedule, wrap, squashing_denoiser):
    model = wrap(squashing_denoiser, None)
    x = start(schedule)
    assert sample_adaptive_sde(model, x, torch.tensor([3.0])) is x and model.levels == []
    torch.testing.assert_close(sample_adaptive_sde(model, x, torch.tensor([14.6, 0.0])), squashing_denoiser(x, torch.full((2,), 14.6)))
    for sigmas in ([3.0, 3.0], [3.0, 3.0, 0.0], [1.0, 0.9999999], [1.0, 0.99999, 0.0]):
        assert bool(sample_adaptive_sde(model, x, torch.tensor(sigmas), {"seed": 0}, max_nfe=50).isfinite().all())
    broken = sample_adaptive_sde(lambda x, sigma, seed: x * float("nan"), x, torch.tensor([14.6, 0.03, 0.0]), {"seed": 0})
    assert bool(broken.isnan().all())


def test_inputs_stay_as_they_were(schedule, wrap, squashing_denoiser):
    x, sigmas, extra_args, state = start(schedule), calculate_sigmas(schedule, "simple", 5), {"seed": 3}, torch.get_rng_state()
    before = x.clone(), sigmas.clone()
    sample_adaptive_sde(wrap(squashing_denoiser, schedule), x, sigmas, extra_args)
    assert torch.equal(x, before[0]) and torch.equal(sigmas, before[1]) and extra_args == {"seed": 3}
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("name", ["rtol", "atol", "h_init", "safety", "exponent"])
@pytest.mark.parametrize("value", [-0.1, float("nan"), float("inf"), 1e9, "0.1", None, True])
def test_hostile_numbers_are_refused(name, value, schedule, wrap):
    with pytest.raises(InputError, match=f"{name} must be a number"):
        run(schedule, wrap, **{name: value})


@pytest.mark.parametrize("value", [0, 2, -5, 10**9, 2.5, float("nan"), "9", True])
def test_hostile_budgets_are_refused(value, schedule, wrap):
    with pytest.raises(InputError, match="max_nfe must be a whole number from 3"):
        run(schedule, wrap, max_nfe=value)


@settings(deadline=None, max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    scheduler=st.sampled_from(SCHEDULER_NAMES),
    steps=st.integers(1, 12),
    rtol=st.floats(0.02, 1.0),
    h_init=st.floats(0.001, 1.0),
    safety=st.floats(0.1, 1.0),
    exponent=st.floats(0.1, 1.0),
    flow=st.booleans(),
    shape=st.tuples(st.integers(1, 3), st.integers(1, 4), st.integers(1, 5), st.integers(1, 5)),
    seed=st.integers(0, 2**64 - 1),
)
def test_results_are_finite_and_keep_their_shape(
    scheduler, steps, rtol, h_init, safety, exponent, flow, shape, seed, schedule, wrap, squashing_denoiser
):
    options = {"rtol": rtol, "h_init": h_init, "safety": safety, "exponent": exponent, "probability_flow": flow, "max_nfe": 40}
    sigmas = calculate_sigmas(schedule, scheduler, steps)
    x, stats, model = run(schedule, wrap, squashing_denoiser, sigmas, shape, seed, **options)
    assert x.shape == shape and x.dtype == torch.float32 and bool(x.isfinite().all())
    assert stats["evaluations"] <= 40 and min(model.levels) > 0
