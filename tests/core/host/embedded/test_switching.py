"""Switches in every unit, chains of stages, own schedules and parts of a run, in the embedded host."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from rapiddraw.core.bundles.format import Schedule
from rapiddraw.core.bundles.load import load_bundle
from rapiddraw.core.diffusion.noise import NoiseLevel
from rapiddraw.core.errors import InputError
from rapiddraw.core.graph.stock.sampling import KSamplerAdvanced
from rapiddraw.core.host import SamplingRun, Stage, current
from rapiddraw.core.host.embedded.model import Model, load_model
from rapiddraw.core.host.embedded.sampling import make_guider, scheduled_sigmas
from rapiddraw.tests.helpers import write_unet

STEPS = 8


def prompt(seed: int) -> list[list[Any]]:
    return [[torch.randn(1, 32, 32, generator=torch.Generator().manual_seed(seed)), {"pooled_output": None}]]


POSITIVE, NEGATIVE, OTHER = prompt(1), prompt(2), prompt(3)
EMPTY = {"samples": torch.zeros(1, 4, 4, 4)}


@pytest.fixture(scope="module")
def pair(tiny_weights: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Model, Model]:
    other = write_unet(tmp_path_factory.mktemp("pair") / "texture.safetensors", seed=7, schedule=Schedule(prediction="v"))
    made = [load_model(load_bundle(path), torch.device("cpu")) for path in (tiny_weights / "tiny-unet.safetensors", other)]
    return made[0], made[1]


def run(stages: list[Stage], name: str = "euler", history: str = "keep", latent: Any = EMPTY, **part: Any) -> torch.Tensor:
    guider = current().time_decoupled.make_guider(stages)
    return current().time_decoupled.sample(guider, latent, SamplingRun(5, STEPS, name, "normal", **part), history)["samples"]


def two(pair: tuple[Model, Model], level: Any, **more: Any) -> list[Stage]:
    return [Stage(pair[0], POSITIVE, NEGATIVE, 4.0, level), Stage(pair[1], OTHER, None, 2.0, **more)]


def advanced(model: Model, latent: Any, cfg: float, positive: Any, start: int, end: int, noise: bool, leftover: bool) -> Any:
    names = ("enable" if noise else "disable", "enable" if leftover else "disable")
    given = (model, names[0], 5, STEPS, cfg, "euler", "normal", positive, NEGATIVE, latent, start, end, names[1])
    return KSamplerAdvanced().sample(*given)[0]


@pytest.mark.parametrize("step", [0, 1, 3, STEPS])
def test_it_equals_two_ksamplers_that_split_at_a_step(pair, step):
    half = advanced(pair[0], EMPTY, 4.0, POSITIVE, 0, step, True, True)
    whole = advanced(pair[1], half, 2.0, OTHER, step, 10000, step == 0, False)["samples"]
    torch.testing.assert_close(run(two(pair, NoiseLevel(step, "step"))), whole, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("start", "end", "leftover"), [(0, 5, True), (0, 5, False), (2, 6, False), (5, 10000, False), (8, 9, False)])
def test_a_part_of_the_run_is_ksampler_advanceds(pair, start, end, leftover):
    latent = {"samples": torch.randn(1, 4, 4, 4, generator=torch.Generator().manual_seed(9))}
    for noise in (True, False):
        stock = advanced(pair[0], latent, 4.0, POSITIVE, start, end, noise, leftover)["samples"]
        part = {"start_step": start, "end_step": end, "add_noise": noise, "leftover_noise": leftover}
        stages = [Stage(pair[0], POSITIVE, NEGATIVE, 4.0, 500), Stage(pair[0], None, None, 4.0)]
        assert torch.equal(run(stages, latent=latent, **part), stock)


def test_a_run_in_two_parts_is_the_whole_run_with_its_switch_counted_over_all_steps(pair):
    stages = two(pair, NoiseLevel(3, "step"))
    half = run(stages, end_step=5, leftover_noise=True)
    parts = run(stages, latent={"samples": half}, start_step=5, add_noise=False)
    torch.testing.assert_close(parts, run(stages), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["euler", "heun", "dpmpp_2m"])
def test_every_unit_of_one_level_is_the_same_picture(pair, name):
    schedule = pair[0].get_model_object("model_sampling")
    sigmas = scheduled_sigmas(pair[0], "normal", STEPS)
    level = float(sigmas[4]) * 1.01  # just above the fifth level
    drawn = run(two(pair, NoiseLevel(level, "sigma")), name)
    timestep = int(schedule.timestep(torch.tensor(level)))
    same = [NoiseLevel(4, "step"), NoiseLevel(0.5, "share of the steps"), NoiseLevel(timestep, "model timestep"), timestep]
    if name == "heun":  # evaluates the fifth level inside the fourth step as well, which a step leaves with the first model
        same = same[2:]
    assert all(torch.equal(run(two(pair, one), name), drawn) for one in same)


def test_a_guider_may_be_the_structure_of_another(pair):
    levels = NoiseLevel(2, "step"), NoiseLevel(5, "step")
    flat = run([Stage(pair[0], POSITIVE, NEGATIVE, 4.0, levels[0]), Stage(pair[1], OTHER, NEGATIVE, 2.0, levels[1]),
                Stage(pair[0], OTHER, NEGATIVE, 3.0)])  # fmt: skip
    first = current().time_decoupled.make_guider([Stage(pair[0], POSITIVE, NEGATIVE, 4.0, levels[0]), Stage(pair[1], OTHER, NEGATIVE, 2.0)])
    chained = [Stage(first, OTHER, NEGATIVE, 99.0, levels[1]), Stage(pair[0], None, None, 3.0)]
    assert torch.equal(run(chained), flat)
    stock = make_guider(pair[0], POSITIVE, NEGATIVE, 4.0)
    adopted = run([Stage(stock, OTHER, NEGATIVE, 99.0, levels[0]), Stage(pair[1], None, None, 2.0)])
    assert torch.equal(adopted, run(two(pair, levels[0])))


def test_a_guider_with_guidance_of_its_own_is_refused(pair):
    class Own(type(make_guider(pair[0], POSITIVE, NEGATIVE, 1.0))):
        def predict_noise(self, *given, **more):
            return super().predict_noise(*given, **more)

    with pytest.raises(InputError, match="Own computes guidance of its own"):
        current().time_decoupled.make_guider([Stage(Own(pair[0]), POSITIVE, NEGATIVE, 1.0, 500), Stage(pair[1], None, None, 1.0)])


def test_stages_in_the_wrong_order_are_refused_before_any_work(pair):
    three = [Stage(pair[0], POSITIVE, NEGATIVE, 4.0, 300), Stage(pair[1], None, None, 4.0, 700), Stage(pair[0], None, None, 4.0)]
    with pytest.raises(InputError, match="stage 1 draws down to .* lower noise level"):
        current().time_decoupled.make_guider(three)


def test_a_stage_goes_on_along_its_own_sigmas(pair, caplog):
    own = torch.tensor([9.0, 0.4, 0.2, 0.0])
    sigmas = scheduled_sigmas(pair[0], "normal", STEPS)
    with caplog.at_level(logging.INFO, logger="rapiddraw"):
        drawn = run(two(pair, NoiseLevel(4, "step"), sigmas=own))
    joined = torch.cat([sigmas[:5], own[own < sigmas[4]]])
    host = current()
    guider = host.time_decoupled.make_guider(two(pair, NoiseLevel(4, "step")))
    expected = host.sampling.sample_custom(guider, host.sampling.named_sampler("euler"), joined, EMPTY, 5)["samples"]
    assert torch.equal(drawn, expected)
    assert f"stage 1 draws steps 1 to 4 of {len(joined) - 1}" in caplog.text


def test_own_sigmas_that_rise_are_refused(pair):
    with pytest.raises(InputError, match="must descend"):
        run(two(pair, 500, sigmas=torch.tensor([0.0, 1.0])))


def test_one_line_says_which_steps_each_stage_drew(pair, caplog):
    with caplog.at_level(logging.INFO, logger="rapiddraw"):
        run(two(pair, NoiseLevel(3, "step")))
    lines = [record.message for record in caplog.records if "time-decoupled" in record.message]
    assert len(lines) == 1
    assert "stage 1 draws steps 1 to 3 of 8" in lines[0] and "stage 2 draws steps 4 to 8 of 8" in lines[0] and "to 0)" in lines[0]


def test_a_composite_model_takes_every_unit_and_says_once_who_drew_what(pair, caplog):
    stages = [Stage(pair[0], POSITIVE, NEGATIVE, 4.0, NoiseLevel(3, "step")), Stage(pair[1], None, None, 4.0)]
    model = current().time_decoupled.join(*pair, NoiseLevel(3, "step"))
    with caplog.at_level(logging.INFO, logger="rapiddraw"):
        drawn = current().sampling.sample(make_guider(model, POSITIVE, NEGATIVE, 4.0), EMPTY, SamplingRun(5, STEPS, "euler", "normal"))
    assert torch.equal(drawn["samples"], run(stages))
    assert caplog.text.count("stage 1 draws steps 1 to 3 of 8") == 1
