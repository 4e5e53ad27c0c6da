"""The latent-space bridge: its identities, the paper's own formula, any sampler, two different latent spaces, and what it refuses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from rapiddraw.core import progress
from rapiddraw.core.bridge.joint import LatentBridgeGuider, pack, sample_bridged, unpack
from rapiddraw.core.bridge.latent import Fusion, fuse, latent_for_b
from rapiddraw.core.bridge.side import Side
from rapiddraw.core.bundles.format import LatentSpace
from rapiddraw.core.diffusion.samplers import SAMPLERS
from rapiddraw.core.errors import Cancelled, InputError
from rapiddraw.core.host import current
from rapiddraw.core.host.embedded.guider import Sampler
from rapiddraw.core.host.embedded.latent import EmptyNoise, RandomNoise
from torch import Tensor

STEPS = 4


class FlatVae:
    """Every pixel is a cell: latents (B, 3, H, W) are pictures, so that carrying something over and back changes nothing."""

    latent_channels, calls = 3, 0

    def spacial_compression_encode(self) -> int:
        return 1

    def decode(self, latent: Tensor) -> Tensor:
        type(self).calls += 1
        return latent.movedim(1, -1)

    def encode(self, pixels: Tensor) -> Tensor:
        type(self).calls += 1
        return pixels.movedim(-1, 1)


@pytest.fixture(scope="module")
def worlds(tiny_weights: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Sides: `a` and `other` (factor 8, 4 channels, one scale), `wide` (factor 4, 8 channels, another scale and shift)."""
    from rapiddraw.tests.helpers import write_unet, write_vae

    folder, host = tmp_path_factory.mktemp("spaces"), current()
    space = LatentSpace(channels=8, factor=4, scale=0.7, shift=0.1)
    blocks = {"down_block_types": ["DownEncoderBlock2D"] * 3, "up_block_types": ["UpDecoderBlock2D"] * 3}
    files = {
        "a": (tiny_weights / "tiny-unet.safetensors", tiny_weights / "tiny-vae.safetensors"),
        "other": (write_unet(folder / "other.safetensors", seed=7), tiny_weights / "tiny-vae.safetensors"),
        "wide": (
            write_unet(folder / "wide.safetensors", latent=space, in_channels=8, out_channels=8),
            write_vae(folder / "wide-vae.safetensors", latent=space, latent_channels=8, block_out_channels=[32, 32, 64], **blocks),
        ),
    }
    found: dict[str, Any] = {}
    for number, (name, (unet, vae)) in enumerate(files.items()):
        model, clip, loaded = host.load_bundles(unet, tiny_weights / "tiny-text.safetensors", vae)
        texts = [host.clip.encode(clip, text) for text in (("a round red fruit", "a tall blue fruit", "dots")[number], "")]
        found[name] = Side(model, loaded, *texts, 3.0)
    return found


def empty(batch: int = 1, side: int = 4) -> dict[str, Any]:
    return {"samples": torch.zeros(batch, 4, side, side)}


def walk(side: Side, steps: int = STEPS) -> Tensor:
    return current().sampling.calculate_sigmas(side.model, "normal", steps)


def sampler(name: str = "euler") -> Sampler:
    return Sampler(SAMPLERS[name])


def bridged(a: Side, b: Side, fusion: Fusion, name: str = "euler", latent: Any = None, noise: Any = None, second: Any = None) -> Any:
    return sample_bridged(LatentBridgeGuider(a, b, fusion), noise or RandomNoise(5), sampler(name), walk(a), latent or empty(), second)


def alone(side: Side, name: str = "euler", seed: int = 5, latent: Any = None) -> Tensor:
    host = current()
    return host.sampling.sample_custom(
        host.sampling.make_guider(side.model, side.positive, side.negative, side.cfg), sampler(name), walk(side), latent or empty(), seed
    )["samples"]


def counted(side: Side) -> tuple[Side, list[float]]:
    clone, seen = side.model.clone(), []

    def wrapper(apply_model: Any, call: dict[str, Any]) -> Tensor:
        seen.append(float(call["timestep"][0]))
        return apply_model(call["input"], call["timestep"], **call["c"])

    clone.set_model_unet_function_wrapper(wrapper)
    return Side(clone, side.vae, side.positive, side.negative, side.cfg), seen


@pytest.mark.parametrize("name", ["euler", "heun", "dpmpp_2m", "plms", "f_pndm"])
def test_strength_0_is_each_model_alone_bit_for_bit_without_a_vae(worlds: Any, name: str, monkeypatch: Any) -> None:
    a, b = worlds["a"], worlds["wide"]

    def never(*_: Any, **__: Any) -> Any:
        raise AssertionError("a VAE was called")

    monkeypatch.setattr(current().vae, "decode", never)
    monkeypatch.setattr(current().vae, "encode", never)
    one, two = bridged(a, b, Fusion(0.0), name)
    assert torch.equal(one["samples"], alone(a, name))
    assert two["samples"].shape == (1, 8, 8, 8) and torch.equal(two["samples"], alone(b, name, 6, {"samples": torch.zeros(1, 8, 8, 8)}))
    guided = LatentBridgeGuider(a, b, Fusion(0.0))
    noise = RandomNoise(5).generate_noise(empty())
    assert torch.equal(guided.sample(noise, empty()["samples"], sampler(name), walk(a), seed=5), one["samples"])


@settings(max_examples=12, deadline=None)
@given(strength=st.floats(0, 1), name=st.sampled_from(["euler", "heun", "dpmpp_2m", "plms"]))
def test_one_model_twice_with_an_identity_vae_is_that_model_at_any_strength(worlds: Any, strength: float, name: str) -> None:
    class Identity(FlatVae):
        latent_channels = 4

    vae = Identity()
    side = Side(worlds["a"].model, vae, worlds["a"].positive, worlds["a"].negative, 3.0)

    # the bridge crosses in A's and B's own scale, and a flat VAE has no colours to clamp
    one, two = bridged(side, side, Fusion(strength, end=1.0), name)
    expected = alone(worlds["a"], name)
    scale = float(expected.abs().max())
    torch.testing.assert_close(one["samples"], expected, rtol=1e-3, atol=1e-4 * scale)
    torch.testing.assert_close(two["samples"], expected, rtol=1e-3, atol=1e-4 * scale)


def test_it_is_algorithm_1_written_out(worlds: Any) -> None:
    """Lines 1 to 8 with Euler's step (DDIM), in the paper's own noise form, against the sampler."""
    a, b, d = worlds["a"], worlds["wide"], 0.4
    one, two = bridged(a, b, Fusion(d, end=1.0))
    sigmas, host = walk(a), current()
    top = float(a.model.get_model_object("model_sampling").sigma_max)
    start = (1 + top**2) ** 0.5
    x = RandomNoise(5).generate_noise(empty()) * start
    y = RandomNoise(6).generate_noise({"samples": torch.zeros(1, 8, 8, 8)}) * start

    def noise_of(side: Side, state: Tensor, sigma: Tensor) -> Tensor:
        guider = host.sampling.make_guider(side.model, side.positive, side.negative, side.cfg)
        seen: list[Tensor] = []

        def ask(model: Any, x: Tensor, sigmas: Tensor, extra_args: Any, **_: Any) -> Tensor:
            seen.append(model(state, sigma.reshape(1), **extra_args))
            return x

        guider.sample(torch.zeros_like(state), torch.zeros_like(state), Sampler(ask), sigmas[:2])
        return (state - seen[0]) / sigma

    for sigma, after in zip(sigmas[:-1], sigmas[1:], strict=True):
        eps, eps_b = noise_of(a, x, sigma), noise_of(b, y, sigma)
        image = b.to_frames(y - sigma * eps_b)
        carried = (x - a.to_latent(image, x.shape)) / sigma
        mixed = d * carried + (1 - d) * eps
        back = (y - b.to_latent(a.to_frames(x - sigma * mixed), y.shape)) / sigma
        x, y = x + (after - sigma) * mixed, y + (after - sigma) * back
    torch.testing.assert_close(one["samples"], a.model.model.process_latent_out(x), rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(two["samples"], b.model.model.process_latent_out(y), rtol=1e-3, atol=1e-3)


def test_equal_shapes_share_their_noise(worlds: Any) -> None:
    _, two = bridged(worlds["a"], worlds["other"], Fusion(0.0))
    assert torch.equal(two["samples"], alone(worlds["other"]))


@pytest.mark.parametrize("name", sorted(SAMPLERS))
def test_every_sampler_draws_both(worlds: Any, name: str) -> None:
    one, two = bridged(worlds["a"], worlds["wide"], Fusion(0.5), name, empty(2))
    again, _ = bridged(worlds["a"], worlds["wide"], Fusion(0.5), name, empty(2))
    assert one["samples"].shape == (2, 4, 4, 4) and two["samples"].shape == (2, 8, 8, 8)
    assert one["samples"].isfinite().all() and two["samples"].isfinite().all() and torch.equal(one["samples"], again["samples"])


@settings(max_examples=15, deadline=None)
@given(
    strength=st.floats(0.01, 1),
    start=st.floats(0, 1),
    end=st.floats(0, 1),
    every=st.integers(1, 5),
    name=st.sampled_from(["euler", "heun", "dpmpp_2m"]),
    steps=st.integers(1, 5),
    cells=st.tuples(st.integers(1, 2), st.integers(2, 5), st.integers(2, 5)),
)
def test_one_call_of_each_model_an_evaluation(
    worlds: Any, strength: float, start: float, end: float, every: int, name: str, steps: int, cells: tuple[int, int, int]
) -> None:
    a, seen_a = counted(worlds["a"])
    b, seen_b = counted(worlds["wide"])
    guider = LatentBridgeGuider(a, b, Fusion(strength, start, end, every))
    sigmas = walk(a, steps)
    latent = {"samples": torch.zeros(cells[0], 4, *cells[1:])}
    one, two = sample_bridged(guider, RandomNoise(5), sampler(name), sigmas, latent, None)
    assert one["samples"].isfinite().all() and two["samples"].isfinite().all()
    assert one["samples"].shape == latent["samples"].shape and two["samples"].shape == (cells[0], 8, 2 * cells[1], 2 * cells[2])
    evaluations = 2 * steps - 1 if name == "heun" else steps
    assert len(seen_b) == evaluations and seen_a == seen_b if strength < 1 else len(seen_a) <= len(seen_b)


def test_window_and_stride_decide_where_vaes_run(worlds: Any, monkeypatch: Any) -> None:
    calls: list[str] = []
    original = current().vae.decode
    monkeypatch.setattr(current().vae, "decode", lambda *rest: calls.append("") or original(*rest))

    def pairs(fusion: Fusion) -> int:
        calls.clear()
        bridged(worlds["a"], worlds["wide"], fusion)
        return len(calls) // 2

    assert [pairs(Fusion(0.5, end=1.0)), pairs(Fusion(0.5, end=1.0, every=2)), pairs(Fusion(0.5, end=1.0, every=9))] == [STEPS, 2, 1]
    assert pairs(Fusion(0.5, 0.0, 0.5)) == 2 and pairs(Fusion(0.5, 0.5, 1.0)) == 2 and pairs(Fusion(0.5, 0.9, 0.1)) == 0


def test_strength_1_does_not_ask_model_a_and_strength_matters(worlds: Any) -> None:
    a, seen = counted(worlds["a"])
    full, _ = bridged(a, worlds["wide"], Fusion(1.0, end=1.0))
    assert seen == []
    half, _ = bridged(a, worlds["wide"], Fusion(0.5, end=1.0))
    assert not torch.equal(full["samples"], half["samples"]) and not torch.equal(half["samples"], alone(worlds["a"]))


def test_pictures_of_unequal_size_meet_in_image_space(worlds: Any) -> None:
    one, two = bridged(worlds["a"], worlds["wide"], Fusion(0.5), second={"samples": torch.zeros(1, 8, 12, 10)})
    assert one["samples"].shape == (1, 4, 4, 4) and two["samples"].shape == (1, 8, 12, 10)


def test_b_starts_from_as_picture(worlds: Any) -> None:
    a, b = worlds["a"], worlds["wide"]
    latent = {"samples": torch.randn(1, 4, 4, 4), "noise_mask": torch.ones(1, 1, 32, 32)}
    made = latent_for_b(a, b, latent)
    assert torch.equal(made["samples"], current().vae.encode(b.vae, current().vae.decode(a.vae, latent["samples"])))
    assert "noise_mask" in made and not latent_for_b(a, b, empty())["samples"].any()


def test_a_mask_keeps_its_part_in_both(worlds: Any) -> None:
    latent = {"samples": torch.randn(1, 4, 4, 4, generator=torch.Generator().manual_seed(1))}
    mask = torch.zeros(1, 1, 32, 32)
    mask[..., :16] = 1
    first, second = {**latent, "noise_mask": mask}, latent_for_b(worlds["a"], worlds["wide"], latent)
    one, two = bridged(worlds["a"], worlds["wide"], Fusion(0.5), latent=first, second={**second, "noise_mask": mask})
    torch.testing.assert_close(one["samples"][..., 2:], latent["samples"][..., 2:], rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(two["samples"][..., 5:], second["samples"][..., 5:], rtol=1e-3, atol=1e-3)
    assert (one["samples"][..., :2] - latent["samples"][..., :2]).abs().max() > 1e-2


def test_a_split_walk_goes_on_with_both_latents(worlds: Any) -> None:
    a, b = worlds["a"], worlds["wide"]
    guider, sigmas = LatentBridgeGuider(a, b, Fusion(0.5, end=1.0)), walk(a)
    whole = sample_bridged(guider, RandomNoise(5), sampler(), sigmas, empty(), None)
    half = sample_bridged(guider, RandomNoise(5), sampler(), sigmas[:3], empty(), None)
    rest = sample_bridged(guider, EmptyNoise(), sampler(), sigmas[2:], *half)
    for one, other in zip(whole, rest, strict=True):
        torch.testing.assert_close(one["samples"], other["samples"], rtol=1e-3, atol=1e-3)
    with pytest.raises(InputError, match="Latent Space Bridge Sampler"):
        guider.sample(torch.zeros(1, 4, 4, 4), half[0]["samples"], sampler(), sigmas[2:])
    assert sample_bridged(guider, RandomNoise(5), sampler(), sigmas[:0], *half)[0]["samples"] is half[0]["samples"]


@settings(max_examples=30, deadline=None)
@given(batch=st.integers(1, 3), first=st.tuples(*[st.integers(1, 5)] * 3), second=st.tuples(*[st.integers(1, 5)] * 3))
def test_packing_is_undone_by_unpacking(batch: int, first: tuple[int, ...], second: tuple[int, ...]) -> None:
    a, b = torch.randn(batch, *first), torch.randn(batch, *second)
    found = unpack(pack(a, b), (a.shape, b.shape))
    assert torch.equal(found[0], a) and torch.equal(found[1], b)


@pytest.mark.parametrize(
    "options", [{"strength": 1.5}, {"strength": float("nan")}, {"start": -0.1}, {"end": 2.0}, {"every": 0}, {"every": True}]
)
def test_hostile_numbers_are_refused(worlds: Any, options: dict[str, Any]) -> None:
    with pytest.raises(InputError):
        LatentBridgeGuider(worlds["a"], worlds["wide"], Fusion(**options))


def test_what_does_not_fit_is_refused(worlds: Any) -> None:
    a, b = worlds["a"], worlds["wide"]
    wrong = Side(b.model, a.vae, b.positive, b.negative, 3.0)
    with pytest.raises(InputError, match="own VAE"):
        fuse(a, wrong, torch.zeros(1, 4, 4, 4), torch.zeros(1, 4, 8, 8), torch.Size((1, 8, 8, 8)), 0.5)
    with pytest.raises(InputError, match="one size"):
        bridged(a, b, Fusion(0.5), latent=empty(2), second={"samples": torch.zeros(1, 8, 8, 8)})

    def cfg_plus_plus(model: Any, x: Tensor, sigmas: Tensor, extra_args: Any, **_: Any) -> Tensor:
        options = {**extra_args["model_options"], "sampler_post_cfg_function": [lambda given: given["denoised"]]}
        return model(x, sigmas[:1], **{**extra_args, "model_options": options})

    with pytest.raises(InputError, match="cfg"):
        sample_bridged(LatentBridgeGuider(a, b, Fusion(0.5)), RandomNoise(5), Sampler(cfg_plus_plus), walk(a), empty(), None)


def test_cancel_stops_and_the_next_run_is_clean(worlds: Any) -> None:
    before = bridged(worlds["a"], worlds["wide"], Fusion(0.5))[0]["samples"]

    def stop(apply_model: Any, call: dict[str, Any]) -> Tensor:
        progress.request_cancel()
        return apply_model(call["input"], call["timestep"], **call["c"])

    clone = worlds["wide"].model.clone()
    clone.set_model_unet_function_wrapper(stop)
    b = worlds["wide"]
    with pytest.raises(Cancelled):
        bridged(worlds["a"], Side(clone, b.vae, b.positive, b.negative, 3.0), Fusion(0.5))
    progress.clear_cancel()
    assert torch.equal(bridged(worlds["a"], worlds["wide"], Fusion(0.5))[0]["samples"], before)
