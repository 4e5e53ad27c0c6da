"""The rules of time decoupling without any host: which model for a level, where a walk is cut, what a fresh start does to the error."""

from __future__ import annotations

import math
import types

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from rapiddraw.core.bundles.format import Schedule
from rapiddraw.core.diffusion.guidance import cfg_denoised, style_denoised
from rapiddraw.core.diffusion.samplers import SAMPLER_NAMES, SAMPLERS
from rapiddraw.core.diffusion.schedule import SCHEDULER_NAMES, NoiseSchedule, calculate_sigmas
from rapiddraw.core.diffusion.time_decoupled import (
    by_sigma,
    check_history,
    is_structure,
    split_at,
    split_sigmas_at_timestep,
    stage_of,
    starting_afresh,
    switch_sigma,
    take_rows,
)
from rapiddraw.core.errors import InputError


def test_the_papers_switch_is_its_noise_level(schedule):
    assert switch_sigma(schedule, 500) == pytest.approx(1.618, abs=1e-3)
    assert switch_sigma(schedule, 0) == 0 and switch_sigma(schedule, 1000) == math.inf
    assert is_structure(torch.tensor([0.0, 0.03, 14.6]), 0.0).all() and not is_structure(torch.tensor([0.0, 99.0]), math.inf).any()


@pytest.mark.parametrize("prediction", [Schedule(), Schedule("v", "linear", 1e-4, 0.02), Schedule("x0", "squaredcos_cap_v2")])
@pytest.mark.parametrize("timestep", [1, 250, 500, 998])
def test_the_timestep_itself_belongs_to_structure_the_one_below_does_not(prediction, timestep):
    schedule = NoiseSchedule(prediction)
    switch = switch_sigma(schedule, timestep)
    assert is_structure(schedule.sigmas, switch).tolist() == [t >= timestep for t in range(1000)]


@pytest.mark.parametrize("timestep", [-1, 1001, 0.5, True])
def test_a_switch_out_of_range_is_refused(schedule, timestep):
    with pytest.raises(InputError, match="timestep from 0"):
        switch_sigma(schedule, timestep)


def test_a_schedule_that_counts_otherwise_is_refused():
    def sigma(timestep):
        return (timestep / 0.25).exp()  # EDM's

    edm = types.SimpleNamespace(sigma=sigma, sigma_min=0.002, sigma_max=120.0)
    with pytest.raises(InputError, match="does not count timesteps"):
        switch_sigma(edm, 500)


@pytest.mark.parametrize("name", SCHEDULER_NAMES)
def test_a_walk_is_cut_at_its_own_level(schedule, name):
    sigmas = calculate_sigmas(schedule, name, 12)
    high, low = split_sigmas_at_timestep(sigmas, schedule, 500)
    assert torch.equal(torch.cat([high[:-1], low]), sigmas) and high[-1] == low[0]
    switch = switch_sigma(schedule, 500)
    assert is_structure(high[:-1], switch).all() and not is_structure(low, switch).any()


def test_empty_parts_are_legal(schedule):
    sigmas = calculate_sigmas(schedule, "normal", 5)
    high, low = split_sigmas_at_timestep(sigmas, schedule, 0)
    assert torch.equal(high, sigmas) and len(low) == 0
    high, low = split_sigmas_at_timestep(sigmas, schedule, 1000)
    assert torch.equal(high, sigmas[:1]) and torch.equal(low, sigmas)
    assert [len(part) for part in split_at(torch.zeros(0), 1.0)] == [0, 0]


@pytest.mark.parametrize("sigmas", [torch.ones(2, 2), torch.tensor([1.0, math.nan])])
def test_what_is_no_walk_is_refused(sigmas):
    with pytest.raises(InputError, match="list of finite noise levels"):
        split_at(sigmas, 1.0)


def test_a_mixed_batch_is_split_and_put_together_again():
    seen = []

    def model(name, factor):
        def stage(x, sigma, rows):
            seen.append((name, sigma.tolist(), None if rows is None else rows.tolist()))
            return x * factor

        return stage

    x = torch.arange(4.0).reshape(4, 1)
    out = by_sigma(x, torch.tensor([5.0, 1.0, 2.0, 0.5]), [2.0], [model("s", 10), model("t", 100)])
    assert out.flatten().tolist() == [0, 100, 20, 300]
    assert seen == [("s", [5.0, 2.0], [0, 2]), ("t", [1.0, 0.5], [1, 3])]
    seen.clear()
    by_sigma(x, torch.tensor([5.0]).expand(4), [2.0], [model("s", 1), model("t", 1)])
    by_sigma(x, torch.tensor([0.1]).expand(4), [2.0], [model("s", 1), model("t", 1)])
    assert [(name, rows) for name, _, rows in seen] == [("s", None), ("t", None)]


def test_rows_are_taken_at_any_depth():
    rows, given_ = torch.tensor([2, 0]), torch.arange(3)
    taken = take_rows({"a": given_, "b": [given_, {"c": (torch.arange(5), "text", None)}]}, rows, 3)
    assert taken["a"].tolist() == [2, 0] and taken["b"][0].tolist() == [2, 0] and taken["b"][1]["c"][0].tolist() == [0, 1, 2, 3, 4]


class Pair:
    """Two exact denoisers of slightly different worlds as one model, in the chain of wrappers that samplers look into."""

    def __init__(self, schedule, mixture, switch):
        self.inner_model = types.SimpleNamespace(inner_model=types.SimpleNamespace(model_sampling=schedule))
        self.mixture, self.switch, self.levels = mixture, switch, []

    def __call__(self, x, sigma, **_):
        self.levels.append(float(sigma[0]))
        moved = torch.tensor([0.3, -0.3], dtype=x.dtype)
        return by_sigma(x, sigma, [self.switch], [lambda x, s, _: self.mixture(x, s), lambda x, s, _: self.mixture(x + moved, s) - moved])


@pytest.mark.parametrize("name", SAMPLER_NAMES)
def test_a_fresh_start_is_two_walks_of_the_sampler(schedule, mixture_denoiser, name):
    switch, sampler = switch_sigma(schedule, 500), SAMPLERS[name]
    sigmas = calculate_sigmas(schedule, "simple", 9)
    x = torch.randn(5, 2, generator=torch.Generator().manual_seed(0)) * sigmas[0]
    high, low = split_at(sigmas, switch)
    steps = []
    args = {"seed": 3}
    once = starting_afresh(sampler, switch)(
        Pair(schedule, mixture_denoiser, switch), x, sigmas, args, lambda state: steps.append(state["i"])
    )
    first = sampler(Pair(schedule, mixture_denoiser, switch), x, high, {"seed": 3})
    assert torch.equal(once, sampler(Pair(schedule, mixture_denoiser, switch), first, low, {"seed": 4}))
    assert steps == list(range(9)) and args == {"seed": 3}


@pytest.mark.parametrize("switch", [0.0, math.inf])
def test_without_a_switch_on_the_way_a_fresh_start_changes_nothing(schedule, mixture_denoiser, switch):
    sigmas = calculate_sigmas(schedule, "simple", 6)
    x = torch.randn(5, 2, generator=torch.Generator().manual_seed(0)) * sigmas[0]
    for name in SAMPLER_NAMES:
        whole = SAMPLERS[name](Pair(schedule, mixture_denoiser, switch), x, sigmas, {"seed": 3})
        assert torch.equal(starting_afresh(SAMPLERS[name], switch)(Pair(schedule, mixture_denoiser, switch), x, sigmas, {"seed": 3}), whole)


def test_history_is_one_of_two():
    assert check_history("reset") == "reset"
    with pytest.raises(InputError, match="keep, reset"):
        check_history("forget")


@settings(max_examples=40, deadline=None)
@given(
    name=st.sampled_from(SAMPLER_NAMES),
    scheduler=st.sampled_from(SCHEDULER_NAMES),
    timestep=st.integers(0, 1000),
    steps=st.integers(1, 12),
    shape=st.tuples(st.integers(1, 3), st.integers(1, 4), st.integers(1, 5), st.integers(1, 5)),
    fresh=st.booleans(),
)
def test_whatever_the_walk_each_level_meets_its_model_once(squashing_denoiser, name, scheduler, timestep, steps, shape, fresh):
    schedule = NoiseSchedule()
    switch = switch_sigma(schedule, timestep)
    asked = []

    def model(x, sigma, **_):
        def stage(side):
            def answer(x, sigma, rows):
                asked.append((side, float(sigma[0])))
                return squashing_denoiser(x, sigma)

            return answer

        before = len(asked)
        out = by_sigma(x, sigma, [switch], [stage("structure"), stage("texture")])
        assert len(asked) == before + 1
        return out

    sampler = starting_afresh(SAMPLERS[name], switch) if fresh else SAMPLERS[name]
    out = sampler(model, torch.full(shape, 3.0), calculate_sigmas(schedule, scheduler, steps), {"seed": 1})
    assert out.shape == shape and out.isfinite().all()
    assert all((side == "structure") == bool(is_structure(torch.tensor(level), switch)) for side, level in asked)


def test_style_is_added_to_guidance():
    null, cond, one, two = torch.randn(4, 2, 3, generator=torch.Generator().manual_seed(0))
    guided = cfg_denoised(cond, null, 5.0)
    both = style_denoised(style_denoised(guided, cond, one, 4.0), cond, two, -1.0)
    torch.testing.assert_close(both, null + 5 * (cond - null) + 4 * (one - cond) - (two - cond))
    assert style_denoised(guided, cond, one, 0.0) is guided


def test_three_stages_share_a_batch_by_their_levels():
    """Any number of stages: each level goes to one stage, the switch itself to the stage above."""
    asked = []

    def stage(number):
        def evaluate(x, sigma, rows):
            asked.append((number, sigma.tolist(), None if rows is None else rows.tolist()))
            return x * 10**number

        return evaluate

    stages, switches = [stage(number) for number in range(3)], [5.0, 1.0]
    levels = torch.tensor([0.5, 5.0, 1.0, 7.0, 4.9])
    assert stage_of(levels, switches).tolist() == [2, 0, 1, 0, 1]
    assert by_sigma(torch.ones(5, 1), levels, switches, stages).flatten().tolist() == [100, 1, 10, 1, 10]
    assert asked == [(0, [5.0, 7.0], [1, 3]), (1, [1.0, pytest.approx(4.9)], [2, 4]), (2, [0.5], [0])]
    asked.clear()
    by_sigma(torch.ones(2, 1), torch.tensor([6.0, 0.1]), switches, stages)
    assert [number for number, *_ in asked] == [0, 2], "a stage without a sample is not asked"
