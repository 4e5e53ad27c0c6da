"""States and levels between noise conventions: equal signal-to-noise ratio, ends of the ranges, and the bridges that rest on it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from rapiddraw.core.bridge.convention import HandOver, sigmas_for, times
from rapiddraw.core.bridge.joint import LatentBridgeGuider, sample_bridged
from rapiddraw.core.bridge.latent import Fusion
from rapiddraw.core.bridge.resolution import sample_across
from rapiddraw.core.bridge.side import Side
from rapiddraw.core.bundles.format import Schedule
from rapiddraw.core.diffusion.flow import FlowSchedule
from rapiddraw.core.diffusion.noise import NoiseLevel
from rapiddraw.core.diffusion.schedule import NoiseSchedule
from rapiddraw.core.host import SamplingRun, current
from rapiddraw.core.host.embedded.latent import RandomNoise
from rapiddraw.core.metrics.noise import noise_statistics

VE, FLOW = NoiseSchedule(), FlowSchedule(Schedule(prediction="flow"))
RUN = SamplingRun(5, 4, "euler", "simple")


@settings(deadline=None)
@given(st.floats(0.05, 14.0))
def test_there_and_back_is_the_same_state_and_level(level):
    sigma, state = torch.tensor([level]), torch.randn(1, 4, 2, 2)
    there, factor = HandOver(VE, FLOW).at(sigma)
    back, again = HandOver(FLOW, VE).at(there)
    assert float(there) == pytest.approx(level / (1 + level), rel=1e-4)
    torch.testing.assert_close(back, sigma, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(times(times(state, factor), again), state, rtol=1e-3, atol=1e-4)


@settings(deadline=None)
@given(st.floats(0.06, 0.9))
def test_a_flow_state_becomes_the_diffusion_state_of_the_same_picture_and_noise(level):
    clean, noise, sigma = torch.randn(1, 4, 2, 2), torch.randn(1, 4, 2, 2), torch.tensor(level)
    there, factor = HandOver(FLOW, VE).at(sigma)
    given_state = FLOW.noise_scaling(sigma, noise, clean)
    torch.testing.assert_close(times(given_state, factor), VE.noise_scaling(there, noise, clean), rtol=1e-3, atol=1e-3)


def test_the_start_of_a_flow_model_is_noise_of_the_largest_level():
    there, factor = HandOver(FLOW, VE).at(torch.ones(2))
    assert torch.equal(there, VE.sigma_max.expand(2)) and torch.equal(factor, there)
    low, small = HandOver(FLOW, VE).at(torch.tensor(1e-3))  # below the receiver's smallest level the state stays what it is
    assert float(low) == float(VE.sigma_min) and float(small) == pytest.approx(1 / (1 - 1e-3), rel=1e-5)


def test_one_convention_is_left_alone():
    sigma = torch.tensor([20.0, 0.5])
    assert HandOver(VE, NoiseSchedule()).at(sigma) == (sigma, None)
    assert HandOver(VE, NoiseSchedule()).levels(sigma) is sigma and times(sigma, None) is sigma


def test_levels_descend_inside_the_receivers_range():
    sigmas = torch.tensor([1.0, 0.999, 0.99, 0.9, 0.5, 0.0])
    found = HandOver(FLOW, VE).levels(sigmas)
    assert float(found[0]) == float(VE.sigma_max) and float(found[-1]) == 0 and bool((found.diff() < 0).all()) and len(found) == 4


@pytest.fixture(scope="module")
def sides(tiny_weights: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Side]:
    from rapiddraw.tests.helpers import write_unet

    folder, host = tmp_path_factory.mktemp("flow"), current()
    made = {}
    for name, unet in (("flow", write_unet(folder / "flow.safetensors", schedule=Schedule(prediction="flow"))),
                       ("diffusion", tiny_weights / "tiny-unet.safetensors")):  # fmt: skip
        model, clip, vae = host.load_bundles(unet, tiny_weights / "tiny-text.safetensors", tiny_weights / "tiny-vae.safetensors")
        made[name] = Side(model, vae, host.clip.encode(clip, "a round red fruit"), host.clip.encode(clip, ""), 3.0)
    return made


def alone(side: Side, sigmas: torch.Tensor, latent: Any, seed: int = 5) -> torch.Tensor:
    sampling = current().sampling
    guider = sampling.make_guider(side.model, side.positive, side.negative, side.cfg)
    return sampling.sample_custom(guider, sampling.named_sampler("euler"), sigmas, latent, seed)["samples"]


@pytest.mark.parametrize("pair", [("flow", "diffusion"), ("diffusion", "flow")])
def test_two_conventions_under_one_sampler(sides: dict[str, Side], pair: tuple[str, str]) -> None:
    a, b = (sides[name] for name in pair)
    empty = {"samples": torch.zeros(2, 4, 4, 4)}
    sigmas = torch.tensor({"flow": [0.9, 0.6, 0.3, 0.0], "diffusion": [9.0, 1.5, 0.4, 0.0]}[pair[0]])
    sampler = current().sampling.named_sampler("euler")
    one, two = sample_bridged(LatentBridgeGuider(a, b, Fusion(0.0)), RandomNoise(5), sampler, sigmas, empty, None)
    assert torch.equal(one["samples"], alone(a, sigmas, empty))
    torch.testing.assert_close(two["samples"], alone(b, sigmas_for(a.model, b.model, sigmas), empty), rtol=1e-3, atol=1e-3)
    fused = sample_bridged(LatentBridgeGuider(a, b, Fusion(0.5)), RandomNoise(5), sampler, sigmas, empty, None)
    assert all(part["samples"].isfinite().all() for part in fused) and not torch.equal(fused[0]["samples"], one["samples"])


@pytest.mark.parametrize("pair", [("flow", "diffusion"), ("diffusion", "flow")])
def test_a_hand_over_has_the_receivers_noise(sides: dict[str, Side], pair: tuple[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    low, high = (sides[name] for name in pair)
    seen: list[tuple[torch.Tensor, torch.Tensor]] = []
    sampling = current().sampling

    def spy(model: Any, x: torch.Tensor, sigmas: torch.Tensor, extra_args: Any = None, callback: Any = None, **_: Any) -> torch.Tensor:
        seen.append((x.clone(), sigmas.clone()))
        return x

    monkeypatch.setattr(sampling, "named_sampler", lambda name: sampling.make_sampler(spy, {}))
    image = sample_across(low, high, {"samples": torch.zeros(1, 4, 24, 24)}, RUN, NoiseLevel(0.5, "share of the steps"))[1]
    (x, sigmas), schedules = seen[1], [side.model.get_model_object("model_sampling") for side in (low, high)]
    clean = high.model.model.process_latent_in(current().vae.encode(high.vae, image))
    found = noise_statistics(x, clean, float(sigmas[0]), HandOver(*schedules).there)
    assert abs(found.std - 1) < 0.02 and abs(found.correlation) < 0.02
    levels = HandOver(*schedules).here.level(seen[0][1][-1]), HandOver(*schedules).there.level(sigmas[0])
    assert float(levels[0]) == pytest.approx(float(levels[1]), rel=1e-3)


def test_sigmas_for_a_receiver(sides: dict[str, Side]) -> None:
    sigmas = torch.tensor([1.5, 0.5, 0.0])
    assert len(sigmas_for(sides["flow"].model, None, None)) == 0 and sigmas_for(sides["flow"].model, None, sigmas) is sigmas
    found = sigmas_for(sides["diffusion"].model, sides["flow"].model, sigmas)
    torch.testing.assert_close(found, torch.tensor([0.6, 1 / 3, 0.0]), rtol=1e-4, atol=1e-5)
