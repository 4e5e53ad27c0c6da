"""What every sampler promises, and equality with ComfyUI's samplers of the same name."""

import json
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rapiddraw.core import progress
from rapiddraw.core.diffusion.samplers import SAMPLER_NAMES, SAMPLERS, get_sampler
from rapiddraw.core.diffusion.samplers import common as samplers_common
from rapiddraw.core.diffusion.samplers.pndm import sample_pndm
from rapiddraw.core.diffusion.schedule import SCHEDULER_NAMES, calculate_sigmas
from rapiddraw.core.errors import Cancelled, InputError

GOLDEN = json.loads((Path(__file__).parents[2] / "data" / "comfyui_samplers.json").read_text())
SDE = ("euler_ancestral", "dpmpp_2m_sde")


def start(schedule, shape=(2, 4, 3, 5), seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * float(schedule.sigma_max)


@pytest.mark.parametrize("case", GOLDEN["results"])
def test_results_equal_comfyui(case, schedule, wrap, squashing_denoiser):
    name, scheduler, span = case.split()
    name, _, solver = name.partition(":")
    if name == "dpmpp_2m_sde":
        pytest.importorskip("torchsde")
    sigmas = calculate_sigmas(schedule, scheduler, 6)[1:4] if span == "1:4" else calculate_sigmas(schedule, scheduler, int(span))
    x = torch.tensor(GOLDEN["x"]).reshape(2, 1, 2, 2)
    options = {"solver_type": solver} if solver else {}
    result = SAMPLERS[name](wrap(squashing_denoiser, schedule), x, sigmas, extra_args={"seed": 7}, **options)
    torch.testing.assert_close(result.flatten(), torch.tensor(GOLDEN["results"][case]), rtol=2e-5, atol=2e-6)


@pytest.mark.parametrize("name", SAMPLER_NAMES)
def test_callback_sees_every_step(name, schedule, wrap, squashing_denoiser):
    sigmas, seen = calculate_sigmas(schedule, "simple", 6), []
    model, x = wrap(squashing_denoiser, schedule), start(schedule)
    SAMPLERS[name](model, x, sigmas, extra_args={"seed": 1}, callback=seen.append)
    assert [step["i"] for step in seen] == list(range(6))
    assert [float(step["sigma"]) for step in seen] == sigmas[:-1].tolist()
    assert all(torch.equal(step["sigma"], step["sigma_hat"]) for step in seen)
    assert torch.equal(seen[0]["x"], x)
    for step in seen:
        torch.testing.assert_close(step["denoised"], squashing_denoiser(step["x"], step["sigma"] * torch.ones(2)))


@pytest.mark.parametrize(
    ("name", "calls"),
    [("euler", 8), ("ddim", 8), ("euler_ancestral", 8), ("dpmpp_2m", 8), ("dpmpp_2m_sde", 8)]
    + [("heun", 15), ("plms", 9), ("s_pndm", 9), ("f_pndm", 17)],
)
def test_cost_in_evaluations(name, calls, schedule, wrap, squashing_denoiser):
    model = wrap(squashing_denoiser, schedule)
    SAMPLERS[name](model, start(schedule), calculate_sigmas(schedule, "simple", 8), extra_args={"seed": 1})
    assert len(model.levels) == calls
    assert min(model.levels) > 0, "no model is asked about sigma 0"


@pytest.mark.parametrize("name", SAMPLER_NAMES)
def test_a_request_to_stop_is_honoured_at_the_next_step(name, schedule, wrap, squashing_denoiser):
    seen = []

    def stop_at_the_third(step):
        seen.append(step["i"])
        if step["i"] == 2:
            progress.request_cancel()

    try:
        with pytest.raises(Cancelled):
            sigmas = calculate_sigmas(schedule, "simple", 8)
            SAMPLERS[name](wrap(squashing_denoiser, schedule), start(schedule), sigmas, {"seed": 1}, stop_at_the_third)
    finally:
        progress.clear_cancel()
    assert seen == [0, 1, 2]


@pytest.mark.parametrize("name", SAMPLER_NAMES)
def test_inputs_and_global_random_state_stay_as_they_were(name, schedule, wrap, squashing_denoiser):
    x, sigmas, extra_args = start(schedule), calculate_sigmas(schedule, "simple", 5), {"seed": 3}
    before, state = (x.clone(), sigmas.clone()), torch.get_rng_state()
    SAMPLERS[name](wrap(squashing_denoiser, schedule), x, sigmas, extra_args=extra_args)
    assert torch.equal(x, before[0]) and torch.equal(sigmas, before[1]) and extra_args == {"seed": 3}
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("name", SAMPLER_NAMES)
def test_extra_args_reach_the_model(name, schedule):
    def model(x, sigma, seed, word):
        assert word == "fruit" and sigma.shape == (2,)
        return x / (1 + sigma[:, None, None, None] ** 2)

    SAMPLERS[name](model, start(schedule), calculate_sigmas(schedule, "simple", 3), extra_args={"seed": 0, "word": "fruit"}, disable=True)


@pytest.mark.parametrize("name", SDE)
def test_noise_belongs_to_the_seed(name, schedule, wrap, squashing_denoiser):
    model, x, sigmas = wrap(squashing_denoiser), start(schedule), calculate_sigmas(schedule, "karras", 5)
    draws = [SAMPLERS[name](model, x, sigmas, extra_args={"seed": seed}) for seed in (5, 5, 6, 2**64 - 1)]
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])
    assert bool(draws[3].isfinite().all())
    assert bool(SAMPLERS[name](model, x, sigmas).isfinite().all()), "a seed is optional"


def test_the_sde_sampler_also_works_without_torchsde(schedule, wrap, squashing_denoiser, monkeypatch, caplog):
    monkeypatch.setitem(__import__("sys").modules, "torchsde", None)
    samplers_common.warn_once.cache_clear()
    x, sigmas = start(schedule), calculate_sigmas(schedule, "karras", 5)
    draws = [SAMPLERS["dpmpp_2m_sde"](wrap(squashing_denoiser), x, sigmas, extra_args={"seed": 5}) for _ in range(2)]
    assert torch.equal(*draws)
    assert [record.message for record in caplog.records if "torchsde" in record.message] == [caplog.records[0].message]


def test_eta_zero_takes_the_noise_away(schedule, wrap, squashing_denoiser):
    model, x, sigmas = wrap(squashing_denoiser), start(schedule), calculate_sigmas(schedule, "karras", 6)
    euler = SAMPLERS["euler"](model, x, sigmas)
    assert torch.equal(SAMPLERS["ddim"](model, x, sigmas), euler), "DDIM at eta 0 is Euler, bit for bit"
    torch.testing.assert_close(SAMPLERS["euler_ancestral"](model, x, sigmas, eta=0.0), euler)
    two_m = SAMPLERS["dpmpp_2m"](model, x, sigmas)
    torch.testing.assert_close(SAMPLERS["dpmpp_2m_sde"](model, x, sigmas, eta=0.0), two_m, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", SAMPLER_NAMES)
def test_walks_of_no_and_of_one_step(name, schedule, wrap, squashing_denoiser):
    model, x = wrap(squashing_denoiser, schedule), start(schedule)
    for sigmas in (torch.tensor([]), torch.tensor([3.0])):
        assert SAMPLERS[name](model, x, sigmas) is x
    assert model.levels == []
    once = SAMPLERS[name](model, x, torch.tensor([14.6, 0.0]), extra_args={"seed": 0})
    torch.testing.assert_close(once, squashing_denoiser(x, torch.full((2,), 14.6)), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", SAMPLER_NAMES)
@pytest.mark.parametrize(
    ("sigmas", "message"),
    [
        ([1.0, 2.0, 0.0], "entry 0 is 1 and entry 1 is 2"),
        ([2.0, 0.0, 0.0], "only the last one may be 0"),
        ([2.0, -1.0], "only the last one may be 0"),
        ([float("nan"), 0.0], "finite"),
        ([[2.0, 1.0]], "shape"),
    ],
)
def test_bad_sigmas_are_refused(name, sigmas, message, schedule, wrap, squashing_denoiser):
    with pytest.raises(InputError, match=message):
        SAMPLERS[name](wrap(squashing_denoiser, schedule), start(schedule), torch.tensor(sigmas))


def test_bad_options_are_refused(wrap, squashing_denoiser):
    model, x, sigmas = wrap(squashing_denoiser), torch.ones(1, 1, 2, 2), torch.tensor([2.0, 1.0, 0.0])
    with pytest.raises(InputError, match="'ddpm'.*euler, euler_ancestral.*plms"):
        get_sampler("ddpm")
    assert get_sampler("euler") is SAMPLERS["euler"]
    with pytest.raises(InputError, match="'pndm'.*PLMS, F-PNDM and S-PNDM"):
        sample_pndm(model, x, sigmas, variant="pndm")
    with pytest.raises(InputError, match="between 0"):
        SAMPLERS["ddim"](model, x, sigmas, eta=1.5)
    for name in SDE:
        with pytest.raises(InputError, match="0 or more"):
            SAMPLERS[name](model, x, sigmas, eta=-1.0)
    with pytest.raises(InputError, match="midpoint or heun"):
        SAMPLERS["dpmpp_2m_sde"](model, x, sigmas, solver_type="euler")


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    name=st.sampled_from(SAMPLER_NAMES),
    scheduler=st.sampled_from(SCHEDULER_NAMES),
    steps=st.integers(1, 12),
    shape=st.tuples(st.integers(1, 3), st.integers(1, 4), st.integers(1, 5), st.integers(1, 5)),
    seed=st.integers(0, 2**64 - 1),
)
def test_results_are_finite_and_keep_their_shape(name, scheduler, steps, shape, seed, schedule, wrap, squashing_denoiser):
    sigmas = calculate_sigmas(schedule, scheduler, steps)
    result = SAMPLERS[name](wrap(squashing_denoiser, schedule), start(schedule, shape, 1), sigmas, extra_args={"seed": seed})
    assert result.shape == shape and result.dtype == torch.float32
    assert bool(result.isfinite().all())


@pytest.mark.parametrize("name", SAMPLER_NAMES)
def test_repeated_levels_do_no_harm(name, schedule, wrap, squashing_denoiser):
    sigmas = torch.tensor([14.0, 14.0, 5.0, 5.0, 1.0, 1.0, 0.0])
    assert bool(SAMPLERS[name](wrap(squashing_denoiser, schedule), start(schedule), sigmas, extra_args={"seed": 0}).isfinite().all())
