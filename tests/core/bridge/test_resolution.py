"""The resolution bridge: which evaluation it makes, what noise follows it, both directions, and what it refuses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from rapiddraw.core import progress
from rapiddraw.core.bridge import resolution
from rapiddraw.core.bridge.resample import UPSCALE_METHODS, Resampling, resample
from rapiddraw.core.bridge.resolution import bridge_resolution, noise_level, predict_clean, sample_across, split_at
from rapiddraw.core.bridge.side import Side
from rapiddraw.core.errors import Cancelled, InputError
from rapiddraw.core.host import SamplingRun, current


@pytest.fixture(scope="module")
def parts(tiny_weights: Path) -> tuple[Any, Any, Any]:
    """(MODEL, CLIP, VAE) of random weights."""
    return current().load_bundles(*(tiny_weights / f"tiny-{kind}.safetensors" for kind in ("unet", "text", "vae")))


@pytest.fixture(scope="module")
def prompts(parts: tuple[Any, Any, Any]) -> tuple[Any, Any]:
    return tuple(current().clip.encode(parts[1], text) for text in ("a round red fruit", ""))  # type: ignore[return-value]


def empty(side: int = 4, batch: int = 1) -> dict[str, Any]:
    return {"samples": torch.zeros(batch, 4, side, side)}


def half(parts: Any, prompts: Any, side: int = 4, steps: int = 4) -> tuple[dict[str, Any], torch.Tensor]:
    """(a walk stopped in its middle, its high sigmas)."""
    host = current()
    high, _ = split_at(host.sampling.calculate_sigmas(parts[0], "normal", steps), 1.5)
    return host.sampling.sample_custom(
        host.sampling.make_guider(parts[0], *prompts, 3.0), host.sampling.named_sampler("euler"), high, empty(side), 1
    ), high


def counted(model: Any) -> tuple[Any, list[float]]:
    clone, seen = model.clone(), []

    def wrapper(apply_model: Any, call: dict[str, Any]) -> torch.Tensor:
        seen.append(float(call["timestep"][0]))
        return apply_model(call["input"], call["timestep"], **call["c"])

    clone.set_model_unet_function_wrapper(wrapper)
    return clone, seen


def bridge(parts: Any, prompts: Any, latent: Any, sigma: float, **options: Any) -> tuple[dict[str, Any], torch.Tensor]:
    model, extra_eval = options.pop("model", parts[0]), options.pop("extra_eval", True)
    return bridge_resolution(side(parts, prompts, model), parts[2], latent, sigma, Resampling(**options), extra_eval)


def side(parts: Any, prompts: Any, model: Any = None, cfg: float = 3.0) -> Side:
    return Side(model or parts[0], parts[2], *prompts, cfg)


def test_one_extra_evaluation_at_the_bridges_own_level(parts: Any, prompts: Any) -> None:
    latent, high = half(parts, prompts)
    model, seen = counted(parts[0])
    out, image = bridge(parts, prompts, latent, noise_level(high), model=model)
    assert seen == [pytest.approx(float(high[-1]))]
    assert out["samples"].shape == (1, 4, 8, 8) and image.shape == (1, 64, 64, 3)
    assert torch.equal(out["samples"], current().vae.encode(parts[2], image))
    bridge(parts, prompts, latent, noise_level(high), model=model, extra_eval=False)
    assert len(seen) == 1


def test_the_clean_estimate_is_the_models_own(parts: Any, prompts: Any) -> None:
    latent, high = half(parts, prompts)
    base, sigma = parts[0].model, noise_level(high)
    found = predict_clean(side(parts, prompts, cfg=1.0), {**latent, "noise_mask": torch.zeros(1, 1, 32, 32)}, sigma)
    x = base.process_latent_in(latent["samples"])
    expected = base.process_latent_out(base.apply_model(x, torch.tensor([sigma]), prompts[0][0][0]))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    assert predict_clean(Side(None, None, *prompts, 1.0), latent, 0.0) is latent["samples"]


def test_it_is_what_its_parts_do(parts: Any, prompts: Any) -> None:
    latent, high = half(parts, prompts)
    host = current()
    clean = predict_clean(side(parts, prompts), latent, noise_level(high))
    image = resample(host.vae.decode(parts[2], clean), (48, 64), "area")
    out, seen = bridge(parts, prompts, latent, noise_level(high), size=(48, 64), method="area")
    assert torch.equal(seen, image) and torch.equal(out["samples"], host.vae.encode(parts[2], image))


def test_both_directions_and_masks_and_batches(parts: Any, prompts: Any) -> None:
    latent = {"samples": torch.randn(2, 4, 8, 8), "noise_mask": torch.ones(1, 1, 64, 64), "batch_index": [0, 1]}
    latent["downscale_ratio_spacial"] = 8
    out, image = bridge(parts, prompts, latent, 1.0, scale_by=0.5)
    assert out["samples"].shape == (2, 4, 4, 4) and image.shape == (2, 32, 32, 3)
    assert out.keys() == {"samples", "noise_mask", "batch_index"}
    assert latent["samples"].shape == (2, 4, 8, 8)


def test_an_upscaler_enlarges_and_is_left_alone_when_the_picture_shrinks(parts: Any, prompts: Any, tiny_weights: Path) -> None:
    upscaler = current().upscale.load(tiny_weights / "tiny-esrgan.safetensors")
    latent, high = half(parts, prompts)
    _, plain = bridge(parts, prompts, latent, noise_level(high))
    _, drawn = bridge(parts, prompts, latent, noise_level(high), upscaler=upscaler)
    assert plain.shape == drawn.shape and not torch.equal(plain, drawn)
    _, small = bridge(parts, prompts, latent, noise_level(high), upscaler=upscaler, scale_by=0.5)
    assert torch.equal(small, bridge(parts, prompts, latent, noise_level(high), scale_by=0.5)[1])


def test_tiles_give_the_same_shapes(parts: Any, prompts: Any) -> None:
    latent, high = half(parts, prompts, side=12)
    out, image = bridge(parts, prompts, latent, noise_level(high), scale_by=1.5, tile=64)
    assert out["samples"].shape == (1, 4, 18, 18) and image.shape == (1, 144, 144, 3)


@settings(max_examples=60, deadline=None)
@given(
    sides=st.tuples(st.integers(1, 600), st.integers(1, 600)),
    cell=st.sampled_from([1, 4, 8, 16]),
    scale=st.floats(0.05, 16),
)
def test_targets_are_whole_cells(sides: tuple[int, int], cell: int, scale: float) -> None:
    try:
        width, height = Resampling(scale).target(*sides, cell)
    except InputError:
        assert max(sides) * scale > 8000
        return
    assert width % cell == height % cell == 0 and min(width, height) >= cell
    assert all(abs(got - side * scale) <= max(cell, 1) for got, side in zip((width, height), sides, strict=True) if side * scale >= cell)


def test_a_side_of_nought_follows_from_the_other() -> None:
    assert Resampling(size=(128, 0)).target(64, 32, 8) == (128, 64)
    assert Resampling(size=(0, 128)).target(64, 32, 8) == (256, 128)


@pytest.mark.parametrize("options", [{"scale_by": 0.0}, {"scale_by": float("nan")}, {"scale_by": 17.0}, {"size": (0, 0)}, {"size": (-8, 8)},
                                     {"size": (20000, 8)}, {"size": (16384, 16384)}])  # fmt: skip
def test_hostile_sizes_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(InputError):
        Resampling(**options).target(64, 64, 8)


@pytest.mark.parametrize("method", UPSCALE_METHODS)
def test_every_method_keeps_a_flat_picture_flat_and_the_range(method: str) -> None:
    flat = torch.full((1, 8, 8, 3), 0.3)
    for size in ((16, 24), (3, 5)):
        torch.testing.assert_close(resample(flat, size, method), torch.full((1, size[1], size[0], 3), 0.3))
    out = resample(torch.rand(1, 8, 8, 3).round(), (13, 9), method)
    assert out.min() >= 0 and out.max() <= 1
    with pytest.raises(InputError, match="nearest"):
        resample(flat, (4, 4), "guess")


@settings(max_examples=50, deadline=None)
@given(levels=st.lists(st.floats(0.01, 20), min_size=1, max_size=12, unique=True), switch=st.floats(0, 25))
def test_a_split_adds_no_level_and_loses_none(levels: list[float], switch: float) -> None:
    sigmas = torch.tensor([*sorted(levels, reverse=True), 0.0])
    high, low = split_at(sigmas, switch)
    assert torch.equal(torch.cat([high, low[1:]]), sigmas) and high[-1] == low[0]
    assert bool((high[:-1] > switch).all()) and float(low[0]) <= switch * (1 + 1e-5)


def test_one_call_does_what_the_parts_do_and_the_second_noise_is_another(parts: Any, prompts: Any, monkeypatch: Any) -> None:
    host, seeds = current(), []
    original = host.sampling.sample_custom

    def spy(*arguments: Any, **more: Any) -> Any:
        seeds.append(arguments[4])
        return original(*arguments, **more)

    monkeypatch.setattr(host.sampling, "sample_custom", spy)
    one = side(parts, prompts)
    out, image = sample_across(one, one, empty(), SamplingRun(5, 4, "euler", "normal"), 400)
    assert seeds == [5, None, 6] and out["samples"].shape == (1, 4, 8, 8)
    sigmas = host.sampling.calculate_sigmas(parts[0], "normal", 4)
    high, low = split_at(sigmas, float(parts[0].get_model_object("model_sampling").sigma(torch.tensor(400.0))))
    sampler = host.sampling.named_sampler("euler")
    first = host.sampling.sample_custom(host.sampling.make_guider(parts[0], *prompts, 3.0), sampler, high, empty(), 5)
    larger, seen = bridge(parts, prompts, first, noise_level(high))
    assert torch.equal(image, seen)
    assert torch.equal(
        out["samples"], host.sampling.sample_custom(host.sampling.make_guider(parts[0], *prompts, 3.0), sampler, low, larger, 6)["samples"]
    )


@settings(max_examples=20, deadline=None)
@given(
    t_low=st.integers(0, 990),
    steps=st.integers(1, 6),
    name=st.sampled_from(["euler", "heun", "dpmpp_2m", "ddim"]),
    scheduler=st.sampled_from(["normal", "karras", "simple", "sgm_uniform"]),
    cells=st.tuples(st.integers(1, 2), st.integers(2, 6), st.integers(2, 6)),
    scale=st.floats(0.3, 2.5),
)
def test_each_model_draws_its_own_side_of_t_low(
    parts: Any, prompts: Any, t_low: int, steps: int, name: str, scheduler: str, cells: tuple[int, int, int], scale: float
) -> None:
    """Whatever the walk: finite, of the right shape, one call an evaluation, the first model above t_low and once at the bridge."""
    width, height = Resampling(scale).target(cells[2] * 8, cells[1] * 8, 8)
    assume(min(width, height) >= 16)  # PyTorch's group norm refuses a single value a group, which the tiny network has in one cell
    (low, seen_low), (high, seen_high), schedule = counted(parts[0]), counted(parts[0]), parts[0].get_model_object("model_sampling")
    sides = side(parts, prompts, low), side(parts, prompts, high)
    latent = {"samples": torch.zeros(cells[0], 4, *cells[1:])}
    run = SamplingRun(5, steps, name, scheduler)
    sigmas = current().sampling.calculate_sigmas(parts[0], scheduler, steps)
    above, below = split_at(sigmas, float(schedule.sigma(torch.tensor(float(t_low)))) if t_low else 0.0)
    if len(above) < 2:
        with pytest.raises(InputError, match="t_low"):
            sample_across(*sides, latent, run, t_low, Resampling(scale))
        return
    out, image = sample_across(*sides, latent, run, t_low, Resampling(scale))
    assert image.shape == (cells[0], height, width, 3) and out["samples"].shape == (cells[0], 4, height // 8, width // 8)
    assert out["samples"].isfinite().all() and image.isfinite().all()
    bridged = float(above[-1])
    each = 2 if name == "heun" else 1
    assert all(level >= bridged * 0.9999 for level in seen_low) and all(level <= bridged * 1.0001 for level in seen_high)
    assert len(seen_low) == each * (len(above) - 1) - (each - 1) * (bridged == 0) + (bridged > 0)
    assert len(seen_high) == max(0, each * (len(below) - 1) - (each - 1))


def test_the_ends_of_t_low(parts: Any, prompts: Any) -> None:
    sides, run = [side(parts, prompts)] * 2, SamplingRun(5, 3, "euler", "normal")
    out, image = sample_across(*sides, empty(), run, 0)
    whole = current().sampling.sample(
        current().sampling.make_guider(parts[0], *prompts, 3.0), empty(), SamplingRun(5, 3, "euler", "normal")
    )["samples"]
    torch.testing.assert_close(image, resample(current().vae.decode(parts[2], whole), (64, 64)))
    assert torch.equal(out["samples"], current().vae.encode(parts[2], image))
    for t_low in (999, -1, float("nan")):
        with pytest.raises(InputError, match="t_low"):
            sample_across(*sides, empty(), run, t_low)


def test_a_walk_that_has_not_begun_is_refused(parts: Any, prompts: Any) -> None:
    top = float(parts[0].get_model_object("model_sampling").sigma_max)
    for sigma, message in ((top, "begins"), (float("nan"), "finite"), (-1.0, "finite")):
        with pytest.raises(InputError, match=message):
            bridge(parts, prompts, empty(), sigma)
    with pytest.raises(InputError, match="at least one"):
        noise_level(torch.zeros(0))


def test_one_bar_for_all_and_cancel_in_each_stage(parts: Any, prompts: Any) -> None:
    bars: list[list[int]] = []

    class Bar:
        stop_at = 99

        def __init__(self, total: int, label: str, unit: str) -> None:
            bars.append([total])

        def advance(self, count: int, info: dict[str, Any], preview: Any = None) -> None:
            bars[-1].append(count)
            if sum(bars[-1][1:]) >= Bar.stop_at:
                progress.request_cancel()

        def close(self) -> None:
            pass

    sides, run = [side(parts, prompts)] * 2, SamplingRun(5, 4, "euler", "normal")
    progress.set_reporter(Bar)
    try:
        sample_across(*sides, empty(), run, 400)
        assert len(bars) == 1 and bars[0][0] == 5 and sum(bars[0][1:]) == 5
        for Bar.stop_at in (1, 5):
            with pytest.raises(Cancelled):
                sample_across(*sides, empty(), run, 400)
            progress.clear_cancel()
    finally:
        progress.set_reporter(None)
    assert sample_across(*sides, empty(), run, 400)[0]["samples"].isfinite().all()


def test_defaults_are_the_documented_ones() -> None:
    assert resolution.T_LOW == 400 and UPSCALE_METHODS[0] == "bicubic"
