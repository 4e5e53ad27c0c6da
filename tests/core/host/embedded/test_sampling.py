"""Sampling in the embedded host: determinism, guidance, masks, latent scale, cancelling, and what it must not change."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from rapiddraw.core import progress
from rapiddraw.core.bundles.format import LatentSpace
from rapiddraw.core.bundles.load import load_bundle
from rapiddraw.core.errors import BundleError, Cancelled, InputError
from rapiddraw.core.host import current
from rapiddraw.core.host.embedded.guider import CFGGuider, calc_cond_batch, prepare_conds
from rapiddraw.core.host.embedded.latent import EmptyNoise, RandomNoise, fit_latent, prepare_mask, prepare_noise
from rapiddraw.core.host.embedded.model import Model, load_model
from rapiddraw.core.host.embedded.sampling import STOCK_SAMPLERS, cut_sigmas, make_guider, sample_latent, sampler_object, scheduled_sigmas


@pytest.fixture(scope="module")
def model(tiny_weights: Path) -> Model:
    return load_model(load_bundle(tiny_weights / "tiny-unet.safetensors"), torch.device("cpu"))


def conditioning(seed: int, tokens: int = 32, **details: Any) -> list[list[Any]]:
    return [[torch.randn(1, tokens, 32, generator=torch.Generator().manual_seed(seed)), {"pooled_output": None, **details}]]


POSITIVE, NEGATIVE = conditioning(1), conditioning(2)


def empty(batch: int = 1, side: int = 4) -> dict[str, Any]:
    return {"samples": torch.zeros(batch, 4, side, side), "downscale_ratio_spacial": 8}


def filled(batch: int = 1, side: int = 4) -> dict[str, Any]:
    return {"samples": torch.randn(batch, 4, side, side, generator=torch.Generator().manual_seed(9))}


def sample(
    model: Model, latent: dict[str, Any], seed: int = 5, steps: int = 3, cfg: float = 4.0, name: str = "euler", **more: Any
) -> torch.Tensor:
    noise = more.pop("noise", None) or RandomNoise(seed)
    sigmas = scheduled_sigmas(model, "normal", steps, **more)
    return sample_latent(noise, make_guider(model, POSITIVE, NEGATIVE, cfg), sampler_object(name), sigmas, latent)[0]["samples"]


class Counting:
    """A model_function_wrapper that counts calls and items."""

    def __init__(self) -> None:
        self.calls: list[tuple[int, list[int]]] = []

    def __call__(self, apply_model: Any, call: dict[str, Any]) -> torch.Tensor:
        self.calls.append((len(call["input"]), call["cond_or_uncond"]))
        return apply_model(call["input"], call["timestep"], **call["c"])


def counted(model: Model) -> tuple[Model, Counting]:
    clone, counter = model.clone(), Counting()
    clone.set_model_unet_function_wrapper(counter)
    return clone, counter


@pytest.mark.parametrize("name", STOCK_SAMPLERS)
def test_a_seed_gives_one_picture_and_leaves_the_global_generator_alone(model: Model, name: str) -> None:
    state = torch.random.get_rng_state()
    first, second, other = (sample(model, empty(), seed, name=name) for seed in (5, 5, 6))
    assert torch.equal(first, second) and not torch.equal(first, other)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert first.isfinite().all()


def test_noise_is_what_comfyui_draws() -> None:
    torch.manual_seed(11)
    expected = torch.randn(2, 4, 4, 4)
    assert torch.equal(prepare_noise(torch.zeros(2, 4, 4, 4), 11), expected)


def test_batch_index_picks_noise_out_of_the_whole_batch() -> None:
    drawn = prepare_noise(torch.zeros(4, 4, 2, 2), 3, [0, 1, 2, 3])
    assert torch.equal(prepare_noise(torch.zeros(2, 4, 2, 2), 3, [3, 1]), drawn[[3, 1]])
    with pytest.raises(InputError, match="batch_index"):
        prepare_noise(torch.zeros(2, 4, 2, 2), 3, [0])


@pytest.mark.parametrize("seed", [-1, 2**64, 1.5, True])
def test_seeds_out_of_range_are_refused(seed: Any) -> None:
    with pytest.raises(InputError, match="seed"):
        prepare_noise(torch.zeros(1, 4, 2, 2), seed)


def test_the_largest_seed_works() -> None:
    assert prepare_noise(torch.zeros(1, 4, 2, 2), 2**64 - 1).isfinite().all()


def test_items_of_a_batch_do_not_see_each_other(model: Model) -> None:
    together = sample(model, {**empty(2), "batch_index": [0, 1]})
    alone = sample(model, {**empty(1), "batch_index": [1]})
    torch.testing.assert_close(together[1:], alone, rtol=1e-4, atol=1e-4)


def test_custom_sampling_is_ksampler_bit_for_bit(model: Model) -> None:
    guider = CFGGuider(model)
    guider.set_conds(POSITIVE, NEGATIVE)
    guider.set_cfg(4.0)
    sigmas = scheduled_sigmas(model, "normal", 3)
    out, _ = sample_latent(RandomNoise(5), guider, sampler_object("euler_ancestral"), sigmas, empty())
    assert torch.equal(out["samples"], sample(model, empty(), name="euler_ancestral"))


@pytest.mark.parametrize("name", current().sampling.sampler_names())
def test_every_sampler_on_the_list_can_be_run(name: str, model: Model) -> None:
    host = current()
    sigmas = host.sampling.calculate_sigmas(model, "normal", 3, name)
    drawn = host.sampling.sample_custom(
        host.sampling.make_guider(model, POSITIVE, NEGATIVE, 4.0), host.sampling.named_sampler(name), sigmas, empty(), 5
    )
    assert drawn["samples"].isfinite().all()


def test_a_sampler_that_is_not_on_the_list_is_refused_with_the_list(model: Model) -> None:
    for ask in (current().sampling.named_sampler, lambda name: current().sampling.calculate_sigmas(model, "normal", 3, name)):
        with pytest.raises(InputError, match=r"'unheard_of'.*euler.*plms"):
            ask("unheard_of")


def test_a_split_walk_is_the_whole_walk(model: Model) -> None:
    whole = sample(model, empty(), steps=4)
    guider = CFGGuider(model)
    guider.set_conds(POSITIVE, NEGATIVE)
    guider.set_cfg(4.0)
    sigmas = scheduled_sigmas(model, "normal", 4)
    first, _ = sample_latent(RandomNoise(5), guider, sampler_object("euler"), sigmas[:3], empty())
    second, _ = sample_latent(EmptyNoise(), guider, sampler_object("euler"), sigmas[2:], first)
    torch.testing.assert_close(second["samples"], whole, rtol=1e-4, atol=1e-4)
    first, _ = sample_latent(RandomNoise(5), guider, sampler_object("euler"), cut_sigmas(sigmas, 0, 2, False), empty())
    advanced, _ = sample_latent(EmptyNoise(5), guider, sampler_object("euler"), cut_sigmas(sigmas, 2, 10000, True), first)
    torch.testing.assert_close(advanced["samples"], whole, rtol=1e-4, atol=1e-4)


def test_cfg_one_never_asks_for_the_negative(model: Model) -> None:
    clone, counter = counted(model)
    without = sample(clone, empty(), cfg=1.0)
    assert counter.calls == [(1, [0])] * 3
    guider = CFGGuider(model)
    guider.set_conds(POSITIVE)
    out, _ = sample_latent(RandomNoise(5), guider, sampler_object("euler"), scheduled_sigmas(model, "normal", 3), empty())
    assert torch.equal(out["samples"], without)


def test_cond_and_uncond_share_one_call_also_at_different_lengths(model: Model) -> None:
    clone, counter = counted(model)
    guider = make_guider(clone, conditioning(1, 64), NEGATIVE, 4.0)
    sample_latent(RandomNoise(5), guider, sampler_object("euler"), scheduled_sigmas(model, "normal", 2), empty(2))
    assert counter.calls == [(4, [1, 0])] * 2
    x, sigma = torch.randn(1, 4, 4, 4), torch.tensor([2.0])
    both = [prepare_conds(model.model, c) for c in (conditioning(1, 64), conditioning(2, 32))]
    together = calc_cond_batch(model.model, both, x, sigma, {})
    apart = [calc_cond_batch(model.model, [one], x, sigma, {})[0] for one in both]
    for one, other in zip(together, apart, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def test_combined_conditionings_are_averaged_by_strength(model: Model) -> None:
    x, sigma = torch.randn(1, 4, 4, 4), torch.tensor([2.0])
    strong = conditioning(2, strength=3.0)
    one, two, mixed = (
        calc_cond_batch(model.model, [prepare_conds(model.model, c)], x, sigma, {})[0] for c in (POSITIVE, strong, POSITIVE + strong)
    )
    torch.testing.assert_close(mixed, (one + 3 * two) / 4, rtol=1e-4, atol=1e-5)


def test_timestep_ranges_switch_conditionings(model: Model) -> None:
    early, late = conditioning(1, end_percent=0.5), conditioning(2, start_percent=0.5)
    prepared = prepare_conds(model.model, early + late)
    for sigma, expected in ((10.0, conditioning(1)), (0.1, conditioning(2))):
        x = torch.randn(1, 4, 4, 4)
        found = calc_cond_batch(model.model, [prepared], x, torch.tensor([sigma]), {})[0]
        assert torch.equal(found, calc_cond_batch(model.model, [prepare_conds(model.model, expected)], x, torch.tensor([sigma]), {})[0])


def test_what_only_comfyui_can_do_is_refused_not_ignored(model: Model) -> None:
    with pytest.raises(InputError, match="area.*ComfyUI"):
        prepare_conds(model.model, conditioning(1, area=(1, 1, 0, 0)))
    with pytest.raises(InputError, match="width 32"):
        prepare_conds(model.model, [[torch.zeros(1, 32, 48), {}]])


def test_nothing_given_is_changed(model: Model) -> None:
    latent = {**filled(), "noise_mask": torch.ones(1, 1, 4, 4), "batch_index": [0]}
    before, options = copy.deepcopy(latent), copy.deepcopy(model.model_options)
    conds = copy.deepcopy(POSITIVE)
    sample(model, latent, denoise=0.5)
    assert latent.keys() == before.keys() and all(torch.equal(latent[k], before[k]) for k in ("samples", "noise_mask"))
    assert model.model_options == options and torch.equal(conds[0][0], POSITIVE[0][0]) and conds[0][1] == POSITIVE[0][1]


def test_a_clones_wrapper_does_not_touch_the_original(model: Model) -> None:
    before = sample(model, empty())
    clone = model.clone()
    clone.set_model_sampler_post_cfg_function(lambda given: given["denoised"] * 0)
    assert not torch.equal(sample(clone, empty()), before)
    assert torch.equal(sample(model, empty()), before)


def test_denoise_keeps_more_of_the_picture_the_lower_it_is(model: Model) -> None:
    latent = filled()
    changes = [float((sample(model, latent, steps=4, denoise=d) - latent["samples"]).abs().mean()) for d in (0.05, 0.3, 1.0)]
    assert changes == sorted(changes)
    assert torch.equal(sample(model, latent, denoise=0.0), latent["samples"])


def test_denoise_walks_the_end_of_a_longer_walk(model: Model) -> None:
    assert torch.equal(scheduled_sigmas(model, "karras", 4, 0.5), scheduled_sigmas(model, "karras", 8)[-5:])
    assert len(scheduled_sigmas(model, "normal", 4, 0.0)) == 0


@pytest.mark.parametrize("name", ["euler", "ddim"])
def test_a_mask_keeps_what_it_covers_and_redraws_the_rest(model: Model, name: str) -> None:
    latent = filled()
    mask = torch.zeros(1, 1, 32, 32)
    mask[..., :16] = 1
    out = sample(model, {**latent, "noise_mask": mask}, name=name)
    torch.testing.assert_close(out[..., 2:], latent["samples"][..., 2:], rtol=1e-4, atol=1e-4)
    assert (out[..., :2] - latent["samples"][..., :2]).abs().min() > 1e-3


def test_masks_of_any_size_fit_the_latent() -> None:
    for shape in ((8, 8), (1, 8, 8), (1, 1, 4, 4)):
        assert prepare_mask(torch.ones(shape), torch.Size([3, 4, 4, 4])).shape == (3, 4, 4, 4)


def test_the_sampler_walks_in_the_models_scale_and_sockets_do_not(model: Model) -> None:
    base = model.model
    latent = filled()["samples"]
    assert torch.allclose(base.process_latent_in(latent), (latent - 0.25) * 0.5)
    torch.testing.assert_close(base.process_latent_out(base.process_latent_in(latent)), latent)
    seen: list[torch.Tensor] = []

    def stay(model: Any, x: torch.Tensor, sigmas: torch.Tensor, **_: Any) -> torch.Tensor:
        seen.append(x)
        assert model.inner_model.inner_model.model_sampling is base.model_sampling
        return x

    guider = CFGGuider(model)
    guider.set_conds(POSITIVE, NEGATIVE)
    sampler, sigmas = current().sampling.make_sampler(stay, {}), torch.tensor([2.0, 1.0, 0.0])
    out, last = sample_latent(EmptyNoise(), guider, sampler, sigmas, {"samples": latent})
    torch.testing.assert_close(seen[0], base.process_latent_in(latent))
    torch.testing.assert_close(out["samples"], latent)
    assert last is out
    sample_latent(EmptyNoise(), guider, sampler, sigmas, empty())
    assert not seen[1].any()  # an empty latent stays zero: it is not shifted


def test_noise_is_scaled_as_at_full_noise_only_at_the_top(model: Model) -> None:
    seen: list[torch.Tensor] = []

    def stay(model: Any, x: torch.Tensor, sigmas: torch.Tensor, **_: Any) -> torch.Tensor:
        seen.append(x)
        return x

    guider = CFGGuider(model)
    guider.set_conds(POSITIVE, NEGATIVE)
    top = float(model.get_model_object("model_sampling").sigma_max)
    noise = prepare_noise(torch.zeros(1, 4, 4, 4), 5)
    for first in (top, 3.0):
        sample_latent(RandomNoise(5), guider, current().sampling.make_sampler(stay, {}), torch.tensor([first, 0.0]), empty())
    torch.testing.assert_close(seen[0], noise * (1 + top**2) ** 0.5)
    torch.testing.assert_close(seen[1], noise * 3.0)


def test_denoised_output_is_the_models_last_word(model: Model) -> None:
    guider = CFGGuider(model)
    guider.set_conds(POSITIVE, NEGATIVE)
    sigmas = scheduled_sigmas(model, "normal", 3)
    out, last = sample_latent(RandomNoise(5), guider, sampler_object("euler"), sigmas, empty())
    torch.testing.assert_close(out["samples"], last["samples"], rtol=1e-4, atol=1e-4)  # Euler's step to 0 lands on it
    assert "downscale_ratio_spacial" not in out


def test_an_empty_latent_takes_on_the_models_shape() -> None:
    class Fake:
        def get_model_object(self, name: str) -> LatentSpace:
            return LatentSpace(channels=8, factor=4)

    fitted = fit_latent(Fake(), empty(2, 4))  # type: ignore[arg-type]
    assert fitted["samples"].shape == (2, 8, 8, 8)
    with pytest.raises(InputError, match="8 latent channels"):
        fit_latent(Fake(), filled())  # type: ignore[arg-type]


def test_cancelling_stops_at_the_next_call_and_does_not_poison_the_next_run(model: Model) -> None:
    clone, counter = counted(model)

    def cancel_then_go_on(apply_model: Any, call: dict[str, Any]) -> torch.Tensor:
        progress.request_cancel()
        return counter(apply_model, call)

    clone.set_model_unet_function_wrapper(cancel_then_go_on)
    with pytest.raises(Cancelled):
        sample(clone, empty(), steps=20)
    assert len(counter.calls) == 1
    progress.clear_cancel()
    assert sample(model, empty()).isfinite().all()


def test_one_bar_with_every_step(model: Model) -> None:
    bars: list[list[int]] = []

    class Bar:
        def __init__(self, total: int, label: str, unit: str) -> None:
            self.steps = [total]
            bars.append(self.steps)

        def advance(self, count: int, info: dict[str, Any], preview: Any = None) -> None:
            self.steps.append(count)

        def close(self) -> None:
            pass

    progress.set_reporter(Bar)
    try:
        sample(model, empty(), steps=4, name="heun")
    finally:
        progress.set_reporter(None)
    assert bars == [[4, 1, 1, 1, 1]]


@pytest.mark.parametrize(
    ("change", "message"),
    [({"denoise": 1.5}, "denoise"), ({"denoise": float("nan")}, "denoise"), ({"steps": 0}, "steps"), ({"cfg": float("inf")}, "cfg"),
     ({"name": "nope"}, "euler")],
)  # fmt: skip
def test_numbers_are_checked_again(model: Model, change: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        sample(model, empty(), **change)


def test_other_prediction_types_run(tiny_weights: Path, tmp_path: Path) -> None:
    from rapiddraw.core.bundles.format import Schedule
    from rapiddraw.tests.helpers import write_unet

    pictures = []
    for prediction in ("eps", "v", "x0"):
        bundle = load_bundle(write_unet(tmp_path / f"{prediction}.safetensors", schedule=Schedule(prediction=prediction)))
        pictures.append(sample(load_model(bundle, torch.device("cpu")), empty()))
    assert all(picture.isfinite().all() for picture in pictures)
    assert not torch.equal(pictures[0], pictures[1])


def test_a_bundle_whose_parts_disagree_is_refused(tiny_weights: Path, tmp_path: Path) -> None:
    from rapiddraw.tests.helpers import write_text, write_unet, write_vae

    host = current()
    good = {kind: tiny_weights / f"tiny-{kind}.safetensors" for kind in ("unet", "text", "vae")}
    wide = write_text(tmp_path / "wide.safetensors", width=64)
    with pytest.raises(BundleError, match="width 32.*width 64"):
        host.load_bundles(**{**good, "text": wide})
    other = write_vae(tmp_path / "other.safetensors", latent=LatentSpace(scale=0.9, shift=0.25))
    with pytest.raises(BundleError, match="scale 0.9 against 0.5"):
        host.load_bundles(**{**good, "vae": other})
    liar = write_vae(tmp_path / "liar.safetensors", latent=LatentSpace(channels=16))
    with pytest.raises(BundleError, match="channels 16 against 4"):
        host.load_bundles(**{**good, "vae": liar})
    with pytest.raises(BundleError, match="16 channels"):
        host.vae.load(liar)
    bundle = load_bundle(good["unet"])
    lying = bundle.info.config | {"block_out_channels": [320_000, 640_000]}
    with pytest.raises(BundleError, match="config and its tensors"):
        load_model(type(bundle)(type(bundle.info)(**{**bundle.info.__dict__, "config": lying}), bundle.tensors), torch.device("cpu"))
    unknown = write_unet(tmp_path / "no-latent.safetensors", latent=None)  # type: ignore[arg-type]
    with pytest.raises(BundleError, match="latent"):
        load_model(load_bundle(unknown), torch.device("cpu"))
