"""Two models split in time in the embedded host: identities, which model is asked for which noise level, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from rapiddraw.core import progress
from rapiddraw.core.bundles.format import LatentSpace, Schedule
from rapiddraw.core.bundles.load import load_bundle
from rapiddraw.core.diffusion.time_decoupled import is_structure, switch_sigma
from rapiddraw.core.errors import Cancelled, InputError
from rapiddraw.core.host import SamplingRun, Stage, current
from rapiddraw.core.host.embedded.guider import CFGGuider, Sampler
from rapiddraw.core.host.embedded.latent import EmptyNoise, RandomNoise
from rapiddraw.core.host.embedded.model import Model, load_model
from rapiddraw.core.host.embedded.sampling import (
    STOCK_SAMPLERS,
    make_guider,
    named_sampler,
    sample_latent,
    sampler_names,
    scheduled_sigmas,
)
from rapiddraw.tests.helpers import write_unet

OURS = [name for name in sampler_names() if name not in STOCK_SAMPLERS]


def load(path: Path) -> Model:
    return load_model(load_bundle(path), torch.device("cpu"))


@pytest.fixture(scope="module")
def pair(tiny_weights: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Model, Model]:
    """Two models of one latent space, which predict different things on different schedules."""
    folder = tmp_path_factory.mktemp("pair")
    other = write_unet(folder / "texture.safetensors", seed=7, schedule=Schedule(prediction="v", beta_schedule="linear", beta_start=1e-4,
                                                                                 beta_end=0.02), block_out_channels=[32, 32])  # fmt: skip
    return load(tiny_weights / "tiny-unet.safetensors"), load(other)


def conditioning(seed: int, batch: int = 1, **details: Any) -> list[list[Any]]:
    return [[torch.randn(batch, 32, 32, generator=torch.Generator().manual_seed(seed)), {"pooled_output": None, **details}]]


POSITIVE, NEGATIVE, OTHER = conditioning(1), conditioning(2), conditioning(3)


def empty(batch: int = 1, height: int = 4, width: int = 4) -> dict[str, Any]:
    return {"samples": torch.zeros(batch, 4, height, width)}


def filled(batch: int = 1) -> dict[str, Any]:
    return {"samples": torch.randn(batch, 4, 4, 4, generator=torch.Generator().manual_seed(9))}


def guider_of(structure: Model, texture: Model, t_struct: int = 500, texture_conds: Any = (None, None), cfgs: Any = (4.0, 4.0)) -> Any:
    stages = Stage(structure, POSITIVE, NEGATIVE, cfgs[0], t_struct), Stage(texture, *texture_conds, cfgs[1])
    return current().time_decoupled.make_guider(stages)


def draw(structure: Model, texture: Model, latent: Any = None, t_struct: int = 500, name: str = "euler", steps: int = 5,
         scheduler: str = "normal", denoise: float = 1.0, history: str = "keep", **more: Any) -> torch.Tensor:  # fmt: skip
    guider = guider_of(structure, texture, t_struct, **more)
    run = SamplingRun(5, steps, name, scheduler, denoise)
    return current().time_decoupled.sample(guider, latent or empty(), run, history)["samples"]


def plain(model: Model, latent: Any = None, name: str = "euler", steps: int = 5, denoise: float = 1.0, cfg: float = 4.0) -> torch.Tensor:
    sigmas = scheduled_sigmas(model, "normal", steps, denoise)
    guider, sampler = make_guider(model, POSITIVE, NEGATIVE, cfg), named_sampler(name)
    return sample_latent(RandomNoise(5), guider, sampler, sigmas, latent or empty())[0]["samples"]


class Watched:
    """A clone of a model that writes down the noise levels it is asked for, and how many prompts at once."""

    def __init__(self, model: Model) -> None:
        self.model, self.levels, self.calls = model.clone(), [], 0

        def wrapper(apply_model: Any, call: dict[str, Any]) -> torch.Tensor:
            self.calls += 1
            self.levels += call["timestep"].tolist()
            return apply_model(call["input"], call["timestep"], **call["c"])

        self.model.set_model_unet_function_wrapper(wrapper)


@pytest.mark.parametrize("name", [*STOCK_SAMPLERS, *OURS])
def test_the_same_model_twice_is_the_stock_ksampler_bit_for_bit(pair: tuple[Model, Model], name: str) -> None:
    assert torch.equal(draw(pair[0], pair[0], name=name), plain(pair[0], name=name))


@pytest.mark.parametrize(("t_struct", "which"), [(0, 0), (1000, 1)])
@pytest.mark.parametrize("history", ["keep", "reset"])
def test_all_structure_and_all_texture_are_the_single_models(pair: tuple[Model, Model], t_struct: int, which: int, history: str) -> None:
    assert torch.equal(draw(*pair, t_struct=t_struct, name="dpmpp_2m", history=history), plain(pair[which], name="dpmpp_2m"))


def test_both_models_matter_in_between(pair: tuple[Model, Model]) -> None:
    pictures = [draw(*pair, t_struct=t) for t in (0, 300, 700, 1000)]
    assert all(not torch.equal(a, b) for i, a in enumerate(pictures) for b in pictures[i + 1 :])
    assert all(picture.isfinite().all() for picture in pictures)


@pytest.mark.parametrize("change", [{"latent": {**filled(2), "noise_mask": torch.ones(1, 1, 4, 4).tril()}, "denoise": 0.7},
                                    {"latent": filled(), "denoise": 0.3}, {"latent": {**empty(2), "batch_index": [3, 1]}},
                                    {"latent": filled(), "denoise": 0.0}])  # fmt: skip
def test_masks_batches_and_image_to_image_keep_the_identity(pair: tuple[Model, Model], change: dict[str, Any]) -> None:
    assert torch.equal(draw(pair[0], pair[0], **change), plain(pair[0], **change))


def test_image_to_image_below_the_switch_is_the_texture_model_alone(pair: tuple[Model, Model]) -> None:
    structure, texture = Watched(pair[0]), Watched(pair[1])
    draw(structure.model, texture.model, filled(), denoise=0.3)
    assert not structure.levels and texture.levels


def test_the_texture_model_is_not_asked_where_the_switch_is_not_reached(pair: tuple[Model, Model]) -> None:
    structure, texture = Watched(pair[0]), Watched(pair[1])
    sigmas = scheduled_sigmas(pair[0], "normal", 8)[:3]
    sample_latent(RandomNoise(5), guider_of(structure.model, texture.model), named_sampler("euler"), sigmas, empty())
    assert len(structure.levels) == 4 and not texture.levels


@pytest.mark.parametrize("name", ["euler", "heun", "f_pndm"])
@pytest.mark.parametrize("history", ["keep", "reset"])
def test_every_evaluation_goes_to_the_model_of_its_level(pair: tuple[Model, Model], name: str, history: str) -> None:
    structure, texture, alone = Watched(pair[0]), Watched(pair[1]), Watched(pair[0])
    draw(structure.model, texture.model, name=name, steps=9, history=history)
    plain(alone.model, name=name, steps=9)
    switch = switch_sigma(pair[0].get_model_object("model_sampling"), 500)
    assert min(structure.levels) >= switch * 0.9999 and max(texture.levels) < switch and texture.levels
    if history == "keep":
        assert structure.calls + texture.calls == alone.calls


def test_the_levels_at_the_switch_belong_to_the_structure_model(pair: tuple[Model, Model]) -> None:
    table = pair[0].get_model_object("model_sampling").sigmas
    structure, texture = Watched(pair[0]), Watched(pair[1])
    sample_latent(RandomNoise(5), guider_of(structure.model, texture.model), named_sampler("euler"), table[[999, 500, 499, 0]], empty())
    assert structure.levels[::2] == pytest.approx([float(table[999]), float(table[500])]) and texture.levels[0] == float(table[499])


def test_each_model_has_its_own_prompts_and_scale(pair: tuple[Model, Model]) -> None:
    mine, texture = pair
    both = draw(mine, texture, texture_conds=(OTHER, NEGATIVE), cfgs=(4.0, 2.0), t_struct=1000)
    guider = make_guider(texture, OTHER, NEGATIVE, 2.0)
    alone = current().sampling.sample(guider, empty(), SamplingRun(5, 5, "euler", "normal"))["samples"]
    assert torch.equal(both, alone)
    assert torch.equal(draw(mine, texture, texture_conds=(OTHER, NEGATIVE), cfgs=(4.0, 2.0), t_struct=0), plain(mine))
    counted = Watched(texture)
    draw(mine, counted.model, cfgs=(4.0, 1.0))
    assert len(counted.levels) == counted.calls  # scale 1: one prompt a call


def test_a_models_own_patches_stay_its_own(pair: tuple[Model, Model]) -> None:
    patched = pair[0].clone()
    patched.set_model_sampler_post_cfg_function(lambda given: given["denoised"] * 0.5)
    assert torch.equal(draw(pair[0], patched, t_struct=0), plain(pair[0]))
    assert torch.equal(draw(pair[0], patched, t_struct=1000), plain(patched))


def test_reset_is_two_stock_samplers_in_a_row(pair: tuple[Model, Model]) -> None:
    from rapiddraw.core.diffusion.time_decoupled import split_at

    mine, texture = pair
    guiders = [CFGGuider(model) for model in pair]
    for guider in guiders:
        guider.set_conds(POSITIVE, NEGATIVE)
        guider.set_cfg(4.0)
    high, low = split_at(scheduled_sigmas(mine, "normal", 6), switch_sigma(mine.get_model_object("model_sampling"), 500))
    first, _ = sample_latent(RandomNoise(5), guiders[0], named_sampler("dpmpp_2m"), high, empty())
    second, _ = sample_latent(EmptyNoise(), guiders[1], named_sampler("dpmpp_2m"), low, first)
    once = draw(mine, texture, name="dpmpp_2m", steps=6, history="reset")
    torch.testing.assert_close(once, second["samples"], rtol=1e-4, atol=1e-4)
    assert not torch.equal(once, draw(mine, texture, name="dpmpp_2m", steps=6))


def test_one_batch_may_hold_both_sides_of_the_switch(pair: tuple[Model, Model]) -> None:
    """Samplers that work on several levels at once (Picard windows): each sample by its own model, under its own prompt."""
    prompts = (conditioning(4, batch=2), conditioning(5, batch=2))
    x, sigma = torch.randn(4, 4, 4, 4, generator=torch.Generator().manual_seed(1)), torch.tensor([9.0, 0.2, 0.4, 5.0])
    guider = current().time_decoupled.make_guider([Stage(pair[0], *prompts, 3.0, 500), Stage(pair[1], None, None, 2.0)])
    answers: list[torch.Tensor] = []

    def ask(model: Any, start: torch.Tensor, sigmas: torch.Tensor, extra_args: Any = None, **_: Any) -> torch.Tensor:
        answers.append(model(x, sigma, **extra_args))
        answers.extend(model(x[i::2], sigma[i::2], **extra_args) for i in (0, 1))
        return start

    sample_latent(EmptyNoise(), guider, Sampler(ask), torch.tensor([9.0, 0.0]), filled(2))
    for model, cfg, rows in ((pair[0], 3.0, [0, 3]), (pair[1], 2.0, [1, 2])):
        alone = CFGGuider(model)
        alone.set_conds(*[[[tokens[[row % 2 for row in rows]], details]] for ((tokens, details),) in prompts])
        alone.set_cfg(cfg)
        expected: list[torch.Tensor] = []

        def plainly(model: Any, start: torch.Tensor, *_: Any, extra_args: Any = None, found: Any = expected, rows: Any = rows,
                    **__: Any) -> torch.Tensor:  # fmt: skip
            found.append(model(x[rows], sigma[rows], **extra_args))
            return start

        sample_latent(EmptyNoise(), alone, Sampler(plainly), torch.tensor([9.0, 0.0]), filled(2))
        torch.testing.assert_close(answers[0][rows], expected[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("t_struct", [0, 500, 1000])
def test_the_composite_model_draws_what_the_guider_draws(pair: tuple[Model, Model], t_struct: int) -> None:
    one = load_like(pair[0])
    model = current().time_decoupled.join(pair[0], one, t_struct)
    assert torch.equal(plain(model, name="heun"), draw(pair[0], one, name="heun", t_struct=t_struct))
    watched = [Watched(pair[0]), Watched(pair[1])]
    plain(current().time_decoupled.join(*(w.model for w in watched), t_struct), name="heun")
    assert [bool(w.levels) for w in watched] == [t_struct < 1000, t_struct > 0]


def load_like(model: Model) -> Model:
    """The same network under a patch that moves every prediction a little."""
    clone = model.clone()
    clone.set_model_unet_function_wrapper(lambda apply_model, call: apply_model(call["input"], call["timestep"], **call["c"]) * 0.9)
    return clone


def test_nothing_is_changed(pair: tuple[Model, Model]) -> None:
    before = [plain(model) for model in pair]
    options = [dict(model.model_options) for model in pair]
    draw(*pair)
    plain(current().time_decoupled.join(*pair, 500))
    assert [model.model_options for model in pair] == options
    assert all(torch.equal(plain(model), picture) for model, picture in zip(pair, before, strict=True))


@pytest.mark.parametrize("stage", [0, 1])
def test_cancelling_in_either_stage_leaves_nothing_behind(pair: tuple[Model, Model], stage: int) -> None:
    def cancel(apply_model: Any, call: dict[str, Any]) -> torch.Tensor:
        progress.request_cancel()
        return apply_model(call["input"], call["timestep"], **call["c"])

    models = [model.clone() for model in pair]
    models[stage].set_model_unet_function_wrapper(cancel)
    guider = guider_of(*models)
    with pytest.raises(Cancelled):
        current().time_decoupled.sample(guider, empty(), SamplingRun(5, 9, "euler", "normal"), "keep")
    progress.clear_cancel()
    assert torch.equal(draw(*pair), draw(*pair)) and not hasattr(guider, "inner_model")


def test_other_latent_spaces_are_refused_with_the_way_out(pair: tuple[Model, Model], tmp_path: Path) -> None:
    scaled = load(write_unet(tmp_path / "scaled.safetensors", latent=LatentSpace(scale=0.9, shift=0.25)))
    wide = load(write_unet(tmp_path / "wide.safetensors", latent=LatentSpace(channels=8, factor=4), in_channels=8, out_channels=8))
    for other, said in ((scaled, "another scale"), (wide, "channels 4 against 8")):
        for make in (guider_of, lambda a, b: current().time_decoupled.join(a, b, 500)):
            with pytest.raises(InputError, match=f"{said}.*RapidDrawLatentSpaceBridge"):
                make(pair[0], other)


def test_a_composite_needs_one_width_of_prompt(pair: tuple[Model, Model], tmp_path: Path) -> None:
    other = load(write_unet(tmp_path / "other.safetensors", cross_attention_dim=64))
    with pytest.raises(InputError, match="width 32.*64.*TimeDecoupledGuider"):
        current().time_decoupled.join(pair[0], other, 500)


@pytest.mark.parametrize(
    ("change", "said"),
    [({"t_struct": 1001}, "0 .all structure. to 1000"), ({"t_struct": -1}, "timestep"), ({"name": "nope"}, "unknown sampler"),
     ({"history": "forget"}, "keep, reset"), ({"cfgs": (float("inf"), 1)}, "cfg"), ({"steps": 0}, "steps"), ({"denoise": 2.0}, "denoise")],
)  # fmt: skip
def test_numbers_are_checked_again(pair: tuple[Model, Model], change: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        draw(*pair, **change)


@settings(max_examples=25, deadline=None)
@given(
    name=st.sampled_from(sampler_names()),
    t_struct=st.integers(0, 1000),
    steps=st.integers(1, 6),
    denoise=st.sampled_from([1.0, 0.6, 0.2]),
    history=st.sampled_from(["keep", "reset"]),
    scheduler=st.sampled_from(["normal", "karras", "simple", "sgm_uniform"]),
    size=st.tuples(st.integers(1, 2), st.sampled_from([2, 4, 6]), st.sampled_from([2, 4])),
)
def test_whatever_is_chosen_each_level_meets_its_model(pair: tuple[Model, Model], name: str, t_struct: int, steps: int, denoise: float,
                                                       history: str, scheduler: str, size: tuple[int, int, int]) -> None:  # fmt: skip
    structure, texture = Watched(pair[0]), Watched(pair[1])
    latent = {"samples": torch.full((size[0], 4, size[1], size[2]), 0.3)}
    out = draw(structure.model, texture.model, latent, t_struct, name, steps, scheduler, denoise, history)
    assert out.shape == latent["samples"].shape and out.isfinite().all()
    switch = switch_sigma(pair[0].get_model_object("model_sampling"), t_struct)
    assert all(is_structure(torch.tensor(level), switch) for level in structure.levels)
    assert not any(is_structure(torch.tensor(level), switch) for level in texture.levels)
    if history == "keep":
        alone = Watched(pair[0] if t_struct < 1000 else pair[1])
        draw(alone.model, alone.model, latent, t_struct, name, steps, scheduler, denoise)
        assert structure.calls + texture.calls == alone.calls


def test_three_stages_draw_one_picture_each_in_its_own_range(pair: tuple[Model, Model]) -> None:
    watched = [Watched(pair[0]), Watched(pair[1]), Watched(pair[0])]
    first, second, third = (one.model for one in watched)
    sampling = pair[0].get_model_object("model_sampling")
    upper, lower = switch_sigma(sampling, 700), switch_sigma(sampling, 300)

    def guider(*middle: Stage) -> Any:
        return current().time_decoupled.make_guider([Stage(first, POSITIVE, NEGATIVE, 4.0, 700), *middle])

    def drawn(made: Any, history: str = "keep", denoise: float = 1.0) -> torch.Tensor:
        return current().time_decoupled.sample(made, empty(), SamplingRun(5, 9, "dpmpp_2m", "normal", denoise), history)["samples"]

    three = guider(Stage(second, None, None, 4.0, 300), Stage(third, OTHER, None, 2.0))
    drawn(three)
    bounds = [(upper, float("inf")), (lower, upper), (0.0, lower)]
    for one, (low, high) in zip(watched, bounds, strict=True):
        assert one.levels and all(low * (1 - 1e-4) <= level < high * (1 + 1e-4) for level in one.levels)
    assert drawn(three, "reset").isfinite().all()
    for one in watched:
        one.levels.clear()
    drawn(three, denoise=0.2)  # begins below both switches
    assert not watched[0].levels and not watched[1].levels and watched[2].levels
    two = guider(Stage(second, None, None, 4.0))
    same = guider(Stage(second, None, None, 4.0, 300), Stage(second, None, None, 4.0))
    assert torch.equal(drawn(two), drawn(same)), "a stage cut in two is the same stage"
