"""Picard iteration: the sequential walk it converges to, its cost, and what hangs on a noise level in a batch of many."""

import types

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rapiddraw.core import progress
from rapiddraw.core.diffusion.samplers import SAMPLERS, sample_picard
from rapiddraw.core.diffusion.samplers import common as samplers_common
from rapiddraw.core.diffusion.samplers.levels import LevelBatch, switches
from rapiddraw.core.diffusion.schedule import SCHEDULER_NAMES, calculate_sigmas
from rapiddraw.core.errors import Cancelled, InputError

SEQUENTIAL = {"ddim": "euler", "ddpm": "euler_ancestral"}


def start(schedule, shape=(2, 4, 3, 5), seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * float(schedule.sigma_max)


def close(a, b, start=None):
    """To 1e-5 of the result, and to the rounding of the noise `start` that it was drawn out of."""
    rounding = 0.0 if start is None else 1e-6 * float(start.abs().max())
    return float((a - b).abs().max()) < 1e-5 * float(b.abs().max()) + rounding


@pytest.mark.parametrize("method", SEQUENTIAL)
@pytest.mark.parametrize("scheduler", ["simple", "karras"])
@pytest.mark.parametrize("window", [1, 3, 16, 100])
def test_tolerance_0_is_the_sequential_walk(method, scheduler, window, schedule, wrap, squashing_denoiser):
    sigmas, stats = calculate_sigmas(schedule, scheduler, 30), {}
    model, x = wrap(squashing_denoiser, schedule), start(schedule)
    expected = SAMPLERS[SEQUENTIAL[method]](model, x, sigmas, extra_args={"seed": 7})
    ours = sample_picard(model, x, sigmas, {"seed": 7}, window=window, tolerance=0, method=method, stats=stats)
    assert close(ours, expected)
    assert stats["iterations"] <= stats["steps"] == 30
    if window == 1:
        assert stats["iterations"] == stats["evaluations"] == 30


def test_the_error_goes_to_zero_with_the_tolerance_for_fewer_iterations(schedule, wrap, mixture_denoiser):
    sigmas = calculate_sigmas(schedule, "simple", 100).double()
    x = torch.randn(8, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(1)) * float(sigmas[0])
    expected = SAMPLERS["euler"](mixture_denoiser, x, sigmas)
    errors, iterations = [], []
    for tolerance in (0.5, 0.1, 0.01, 0.001):
        stats = {}
        ours = sample_picard(mixture_denoiser, x, sigmas, tolerance=tolerance, stats=stats)
        errors.append(float((ours - expected).pow(2).mean().sqrt()))
        iterations.append(stats["iterations"])
    assert errors == sorted(errors, reverse=True) and errors[-1] < 1e-4
    assert iterations == sorted(iterations) and iterations[1] * 3 <= 100


@pytest.mark.parametrize("limit", [1, 2, 5, 16])
@pytest.mark.parametrize("method", SEQUENTIAL)
def test_micro_batches_change_nothing_but_the_calls(limit, method, schedule, wrap, squashing_denoiser):
    sigmas, stats, small = calculate_sigmas(schedule, "simple", 24), {}, {}
    model, x = wrap(squashing_denoiser, schedule), start(schedule)
    whole = sample_picard(model, x, sigmas, {"seed": 2}, method=method, stats=stats)
    parts = sample_picard(model, x, sigmas, {"seed": 2}, method=method, max_states=limit, stats=small)
    assert torch.equal(whole, parts)
    assert (stats["iterations"], stats["evaluations"]) == (small["iterations"], small["evaluations"])
    assert small["calls"] >= stats["calls"] == stats["iterations"]


def test_replicas_share_the_work_and_change_nothing(schedule, wrap, squashing_denoiser):
    sigmas, models = calculate_sigmas(schedule, "simple", 20), [wrap(squashing_denoiser, schedule) for _ in range(3)]
    alone = sample_picard(models[0], start(schedule), sigmas)
    models[0].levels.clear()
    assert torch.equal(sample_picard(models[0], start(schedule), sigmas, replicas=models[1:]), alone)
    assert all(model.levels for model in models)


def test_devices_share_the_work_and_change_nothing(schedule, wrap, squashing_denoiser):
    sigmas, model, seen = calculate_sigmas(schedule, "simple", 20), wrap(squashing_denoiser, schedule), []

    def on_devices(x, sigma, device=None, **extra_args):
        seen.append((device, len(x)))
        return model(x, sigma, **extra_args)

    def shares(asked, extra_args):
        assert asked is on_devices
        return [{**extra_args, "device": name} for name in ("first", "second")]

    alone = sample_picard(model, start(schedule), sigmas, {"seed": 1}, window=8)
    assert torch.equal(sample_picard(on_devices, start(schedule), sigmas, {"seed": 1}, window=8, shares=shares), alone)
    assert {device for device, _ in seen} == {"first", "second"}
    assert max(batch for _, batch in seen) == 4 * len(start(schedule))


def test_a_failing_replica_fails_the_run(schedule, wrap, squashing_denoiser):
    def broken(x, sigma, **_):
        raise RuntimeError("device lost")

    with pytest.raises(RuntimeError, match="device lost"):
        sample_picard(wrap(squashing_denoiser), start(schedule), calculate_sigmas(schedule, "simple", 8), replicas=[broken])


def test_reports_rise_to_the_last_step(schedule, wrap, squashing_denoiser):
    sigmas, seen, stats = calculate_sigmas(schedule, "simple", 40), [], {}
    sample_picard(wrap(squashing_denoiser, schedule), start(schedule), sigmas, callback=seen.append, stats=stats)
    steps = [step["i"] for step in seen]
    assert len(steps) == stats["iterations"] and steps == sorted(set(steps)) and steps[-1] == 39
    for step in seen:
        assert step["x"].shape == (2, 4, 3, 5) and float(step["sigma"]) == float(sigmas[step["i"]])
        torch.testing.assert_close(step["denoised"], squashing_denoiser(step["x"], step["sigma"] * torch.ones(2)))


def test_a_request_to_stop_is_honoured_within_an_iteration(schedule):
    calls = []

    def model(x, sigma):
        calls.append(1)
        if len(calls) == 5:
            progress.request_cancel()
        return x / (1 + sigma[:, None, None, None] ** 2)

    try:
        with pytest.raises(Cancelled):
            sample_picard(model, start(schedule), calculate_sigmas(schedule, "simple", 40), max_states=1)
    finally:
        progress.clear_cancel()
    assert len(calls) == 5
    assert bool(sample_picard(model, start(schedule), calculate_sigmas(schedule, "simple", 4)).isfinite().all())


def test_inputs_stay_as_they_were(schedule, wrap, squashing_denoiser):
    x, sigmas, extra_args = start(schedule), calculate_sigmas(schedule, "simple", 5), {"seed": 3}
    before, state = (x.clone(), sigmas.clone()), torch.get_rng_state()
    for method in SEQUENTIAL:
        sample_picard(wrap(squashing_denoiser), x, sigmas, extra_args, method=method)
    assert torch.equal(x, before[0]) and torch.equal(sigmas, before[1]) and extra_args == {"seed": 3}
    assert torch.equal(torch.get_rng_state(), state)
    assert sample_picard(wrap(squashing_denoiser), x, torch.tensor([3.0])) is x


def test_a_network_that_returns_nan_ends_all_the_same(schedule):
    result = sample_picard(lambda x, sigma: x * float("nan"), start(schedule), calculate_sigmas(schedule, "simple", 30))
    assert bool(result.isnan().all())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"window": 0}, "window must be a whole number from 1"),
        ({"window": 10**9}, "window must be"),
        ({"window": 2.5}, "window must be"),
        ({"window": True}, "window must be"),
        ({"max_states": -1}, "max_states must be"),
        ({"tolerance": -0.1}, "tolerance must be a number from 0"),
        ({"tolerance": float("nan")}, "tolerance must be"),
        ({"tolerance": "0.1"}, "tolerance must be"),
        ({"method": "heun"}, "ddim or ddpm"),
    ],
)
def test_hostile_numbers_are_refused(options, message, schedule, wrap, squashing_denoiser):
    model = wrap(squashing_denoiser)
    with pytest.raises(InputError, match=message):
        sample_picard(model, start(schedule), calculate_sigmas(schedule, "simple", 4), **options)
    assert model.levels == []


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    scheduler=st.sampled_from(SCHEDULER_NAMES),
    method=st.sampled_from(sorted(SEQUENTIAL)),
    steps=st.integers(1, 25),
    window=st.integers(1, 40),
    limit=st.integers(0, 9),
    batch=st.integers(1, 3),
    seed=st.integers(0, 2**64 - 1),
)
def test_any_window_finds_the_walk(scheduler, method, steps, window, limit, batch, seed, schedule, wrap, squashing_denoiser):
    sigmas, stats, model = calculate_sigmas(schedule, scheduler, steps), {}, wrap(squashing_denoiser, schedule)
    x = start(schedule, (batch, 2, 3, 2), 5)
    options = {"window": window, "max_states": limit, "method": method, "tolerance": 0.0, "stats": stats}
    ours = sample_picard(model, x, sigmas, {"seed": seed}, **options)
    assert close(ours, SAMPLERS[SEQUENTIAL[method]](model, x, sigmas, {"seed": seed}), x)
    assert stats["iterations"] <= stats["steps"] <= stats["evaluations"]


def test_repeated_levels_do_no_harm(wrap, squashing_denoiser, schedule):
    sigmas = torch.tensor([14.0, 14.0, 5.0, 5.0, 1.0, 1.0, 0.0])
    for method in SEQUENTIAL:
        ours = sample_picard(wrap(squashing_denoiser), start(schedule), sigmas, {"seed": 0}, tolerance=0, method=method)
        assert close(ours, SAMPLERS[SEQUENTIAL[method]](wrap(squashing_denoiser), start(schedule), sigmas, {"seed": 0}))


def hosted(function, **conds):
    """A model behind a guider with conditionings."""
    return types.SimpleNamespace(function=function, inner_model=types.SimpleNamespace(conds=conds, inner_model=None))


def asked(model, levels, extra_args=None, limit=0):
    """The noise levels of each call for states at `levels`."""
    calls = []

    class Recorded(types.SimpleNamespace):
        def __call__(self, x, sigma, **_):
            calls.append(sigma.tolist())
            return x

    batch = LevelBatch(Recorded(**vars(model)), extra_args, limit)
    batch(torch.zeros(len(levels), 1, 1), torch.tensor(levels))
    return calls


def test_states_on_two_sides_of_a_switch_go_into_two_calls():
    control = types.SimpleNamespace(timestep_range=(5.0, 2.0), previous_controlnet=types.SimpleNamespace(timestep_range=None))
    model = hosted(None, positive=[{"timestep_start": 9.0}, {"control": control}], negative=[{"end_percent": 1.0}])
    assert switches(model) == [1.0, 2.0, 5.0, 9.0]
    assert asked(model, [10.0, 9.5, 8.0, 6.0, 4.0, 1.5, 0.5]) == [[10.0, 9.5], [8.0, 6.0], [4.0], [1.5], [0.5]]
    assert asked(hosted(None), [3.0, 2.0, 1.0]) == [[3.0, 2.0, 1.0]]
    assert asked(hosted(None), [3.0, 2.0, 1.0], limit=2) == [[3.0, 2.0], [1.0]]


def test_what_must_see_one_level_sees_one():
    levels = [3.0, 2.0]
    assert asked(hosted(None, positive=[{"hooks": object()}]), levels) == [[3.0], [2.0]]
    assert asked(hosted(None), levels, {"model_options": {"denoise_mask_function": len}}) == [[3.0], [2.0]]
    assert asked(hosted(None), levels, {"denoise_mask": torch.ones(1, 1)}) == [[3.0], [2.0]], "a masked model that we do not know"


def test_no_flow_model_is_warned_of(wrap, squashing_denoiser, schedule, caplog):
    samplers_common.warn_once.cache_clear()
    flow = wrap(squashing_denoiser, type("Made", (type("CONST", (), {}),), {})())
    for method in ("ddim", "ddpm", "ddpm"):
        sample_picard(flow, start(schedule), torch.tensor([1.0, 0.5, 0.0]), {"seed": 0}, method=method)
    assert [record for record in caplog.records if record.levelname == "WARNING"] == []
