"""The ESRGAN recipe: where it starts, what it sees, what it writes, and that its loss falls."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from rapiddraw.core.bundles.load import load_bundle
from rapiddraw.core.errors import BundleError, DataError, InputError
from rapiddraw.core.metrics.reconstruction import RoundTrips
from rapiddraw.core.train import make_recipe
from rapiddraw.core.train.loop import Intervals, train
from rapiddraw.core.train.recipes.esrgan import ADDED, EsrganRecipe, enlarge_with, relativistic_loss, start_as_bilinear
from rapiddraw.core.upscale import basicsr_shim
from rapiddraw.core.upscale.layouts import RRDBConfig
from rapiddraw.core.upscale.rrdb import build, load_upscaler
from rapiddraw.tests.helpers import write_image, write_vae
from torch.nn import functional

SMALL = {"num_feat": 8, "num_block": 1, "images": 2, "size": 64, "patch": 32, "batch_size": 2, "precision": "no", "warmup": 2}
needs_basicsr = pytest.mark.skipif(not basicsr_shim.available(), reason="basicsr is not installed")


def ready(**settings) -> EsrganRecipe:
    recipe = make_recipe("esrgan", SMALL | settings)
    recipe.check()
    recipe.setup(torch.device("cpu"))
    return recipe


@pytest.mark.parametrize("backend", ["spandrel", pytest.param("basicsr", marks=needs_basicsr)])
def test_it_starts_as_bilinear_interpolation(backend):
    config = RRDBConfig(3, 3, 8, 1, 32)
    network = build(config, backend)
    start_as_bilinear(network, config)
    image = torch.rand(1, 3, 10, 12, generator=torch.Generator().manual_seed(0))
    expected = image
    for _ in range(2):
        expected = functional.interpolate(expected, scale_factor=2, mode="bilinear")
    inner = (..., slice(6, -6), slice(6, -6))  # at the borders the network pads with zeros
    with torch.no_grad():
        torch.testing.assert_close(network(image)[inner], expected[inner], rtol=0, atol=1e-5)


def test_batches_are_aligned_pairs_and_a_function_of_index_and_generator():
    recipe = ready(soft=0.0, batch_size=6)
    first, again = (recipe.batch(3, torch.Generator().manual_seed(5)) for _ in range(2))
    assert first["low"].shape == (6, 3, 8, 8) and first["high"].shape == (6, 3, 32, 32)
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert not torch.equal(first["high"], recipe.batch(3, torch.Generator().manual_seed(6))["high"])
    # The small patch is where the large one is: its area average, nearly.
    assert (functional.avg_pool2d(first["high"], 4) - first["low"]).abs().mean() < 0.03


def test_softened_patches_are_smoother():
    sharp, soft = (ready(soft=share, batch_size=8).batch(0, torch.Generator().manual_seed(1)) for share in (0.0, 1.0))
    assert torch.equal(sharp["high"], soft["high"])
    assert soft["low"].diff(dim=3).abs().mean() < sharp["low"].diff(dim=3).abs().mean()


def test_with_a_vae_patches_are_what_it_decodes(tmp_path):
    vae = write_vae(tmp_path / "vae.safetensors")
    plain, through = (ready(batch_size=6, soft=1.0, vae=path).batch(0, torch.Generator().manual_seed(1)) for path in ("", str(vae)))
    assert torch.equal(plain["high"], through["high"]) and not torch.equal(plain["low"], through["low"])
    recipe = ready(vae=str(vae))
    low, _ = recipe.pairs[0]
    trips = RoundTrips(vae)
    expected = (trips.of(torch.from_numpy(low.copy()).permute(2, 0, 1)[None] / 127.5 - 1)[0] + 1) * 127.5
    np.testing.assert_allclose(recipe.decoded[0], expected.permute(1, 2, 0).numpy(), atol=1)
    assert recipe.evaluate(0, tmp_path)["psnr"] > 0
    with pytest.raises(DataError, match="at least 88 px"):
        ready(vae=str(vae), size=88, patch=88)  # cropped to the multiples of scale and VAE, 64 px are left
    with pytest.raises(BundleError):
        make_recipe("esrgan", SMALL | {"vae": str(tmp_path / "none.safetensors")}).check_files()


@pytest.mark.parametrize("scale", [1, 2, 4])
def test_a_short_run_writes_a_bundle_that_any_loader_reads(tmp_path, scale):
    # Trained on a user's own folder, one file of which is too small.
    (tmp_path / "data").mkdir()
    rng = np.random.default_rng(0)
    for i, side in enumerate((80, 72, 16)):
        small = rng.integers(0, 255, (max(2, side // 8), max(2, side // 8), 3), dtype=np.uint8)
        Image.fromarray(small).resize((side, side)).save(tmp_path / "data" / f"{i}.png")
    recipe = make_recipe("esrgan", SMALL | {"scale": scale, "ema": 0.0, "data": str(tmp_path / "data")})
    result = train(recipe, tmp_path / "x.safetensors", 6, run_dir=tmp_path / "run", every=Intervals(save=6, log=2))
    bundle = load_bundle(result.files[0], "esrgan")
    assert bundle.info.config["scale"] == scale
    assert bundle.info.provenance["recipe"] == "esrgan" and "psnr" in bundle.info.provenance["metrics"]
    assert all(tensor.dtype == torch.float16 for tensor in bundle.tensors.values())
    image = torch.rand(1, 3, 12, 12)
    ours = load_upscaler(result.files[0])
    assert ours.scale == scale
    spandrel = pytest.importorskip("spandrel")
    stock = spandrel.ModelLoader().load_from_state_dict(bundle.tensors).eval()
    assert stock.scale == scale
    with torch.no_grad():
        torch.testing.assert_close(stock(image), ours(image), rtol=0, atol=1e-6)
    # Storing in half precision moves no pixel of an 8-bit picture by more than one step.
    recipe.generator.eval()
    picture = rng.integers(0, 255, (16, 16, 3), dtype=np.uint8)
    moved = enlarge_with(recipe.generator, picture).astype(int) - enlarge_with(ours, picture)
    assert np.abs(moved).max() <= 1


def test_the_loss_falls(tmp_path):
    recipe = make_recipe("esrgan", SMALL | {"lr": 3e-3, "soft": 0.0, "batch_size": 4})
    result = train(recipe, tmp_path / "x.safetensors", 40, run_dir=tmp_path / "run", every=Intervals(save=40, log=10))
    assert result.losses[-1][1] < 0.9 * result.losses[0][1]


@needs_basicsr
def test_with_a_critic_both_networks_train(tmp_path):
    settings = SMALL | {"ema": 0.0, "soft": 0.0, "gan_weight": 0.005, "batch_size": 4}
    recipe = make_recipe("esrgan", settings)
    result = train(recipe, tmp_path / "x.safetensors", 50, run_dir=tmp_path / "run", every=Intervals(save=50))
    assert load_upscaler(result.files[0]).scale == 4  # the critic is not part of the file
    batch = recipe.batch(99, torch.Generator().manual_seed(5))
    with torch.no_grad():
        losses = recipe.loss(batch)
        made = recipe.generator(batch["low"])
        expected = relativistic_loss(recipe.critic(made), recipe.critic(batch["high"]))
        torch.testing.assert_close(losses["adversarial"], expected)
        # The critic tells real from made: by chance it would be log 2.
        assert float(recipe.critic_loss(batch)["loss"]) < 0.5 * float(torch.log(torch.tensor(2.0)))
        recipe.critic = None
        torch.testing.assert_close(losses["loss"], recipe.loss(batch)["loss"] + 0.005 * expected)


@needs_basicsr
def test_the_critics_opinion_reaches_the_generator(tmp_path):
    moved = {}
    for weight in (0.0, 0.5):
        recipe = make_recipe("esrgan", SMALL | {"ema": 0.0, "gan_weight": weight})
        train(recipe, tmp_path / f"{weight}.safetensors", 3, run_dir=tmp_path / f"run-{weight}")
        moved[weight] = torch.cat([p.detach().flatten() for p in recipe.generator.parameters()])
    assert not torch.equal(moved[0.0], moved[0.5])


def test_fine_tuning_goes_on_from_a_bundle(tmp_path):
    (first,) = train(make_recipe("esrgan", SMALL), tmp_path / "a.safetensors", 2, run_dir=tmp_path / "run").files
    recipe = ready(start=str(first))
    with torch.no_grad():
        image = torch.rand(1, 3, 8, 8)
        torch.testing.assert_close(recipe.generator(image).clamp(0, 1), load_upscaler(first)(image))
    with pytest.raises(InputError, match="enlarges by 4"):
        ready(start=str(first), scale=2)


def test_the_relativistic_loss_prefers_the_right_order():
    high, low = torch.full((2, 1), 3.0), torch.full((2, 1), -3.0)
    assert relativistic_loss(high, low) < 0.01 < relativistic_loss(low, high)
    assert relativistic_loss(high, high) == pytest.approx(float(torch.log(torch.tensor(2.0))))


@pytest.mark.parametrize(
    "bad", [{"scale": 3}, {"patch": 30}, {"patch": 128}, {"num_feat": 0}, {"soft": 2.0}, {"images": 0}, {"gan_weight": -1.0}]
)
def test_hyper_parameters_are_checked(bad):
    with pytest.raises(InputError):
        make_recipe("esrgan", SMALL | bad).check()


def test_a_folder_without_usable_pictures_says_so(tmp_path):
    with pytest.raises(DataError, match="no images"):
        ready(data=str(tmp_path))
    (tmp_path / "broken.png").write_bytes(b"not a picture")
    with pytest.raises(DataError, match="broken.png"):
        ready(data=str(tmp_path))
    (tmp_path / "broken.png").unlink()
    Image.new("RGB", (16, 16)).save(tmp_path / "small.png")
    with pytest.raises(DataError, match="at least 32 px"):
        ready(data=str(tmp_path))


def test_the_rate_is_halved_at_the_papers_shares_of_a_run():
    recipe = make_recipe("esrgan", SMALL | {"milestones": True, "warmup": 0})
    factors = [recipe.lr_factor(step, 400_000) for step in (0, 49_999, 50_000, 100_000, 200_000, 300_000, 399_999)]
    assert factors == [1.0, 1.0, 0.5, 0.25, 0.125, 0.0625, 0.0625]
    assert [recipe.lr_factor(step, 8) for step in range(8)] == [1.0, 0.5, 0.25, 0.25, 0.125, 0.125, 0.0625, 0.0625]


def test_added_settings_are_recorded_only_where_they_are_used():
    assert not set(ADDED) & set(make_recipe("esrgan", {}).settings()), "checkpoints of older runs are resumed"
    assert make_recipe("esrgan", {"jpeg": 0.5}).settings()["jpeg"] == 0.5


def test_compressed_patches_and_feature_maps_take_part(tmp_path):
    tower = write_image(tmp_path / "tower.safetensors")
    plain, harmed = (ready(soft=0.0, jpeg=share).batch(0, torch.Generator().manual_seed(1)) for share in (0.0, 1.0))
    assert torch.equal(plain["high"], harmed["high"]) and not torch.equal(plain["low"], harmed["low"])
    recipe = ready(perceptual_weight=2.0, pixel_weight=0.5, gradient_weight=0.0, features=str(tower))
    losses = recipe.loss(recipe.batch(0, torch.Generator().manual_seed(1)))
    torch.testing.assert_close(losses["loss"], 0.5 * losses["pixel"] + 2.0 * losses["perceptual"])
    losses["loss"].backward()
    assert any(weight.grad is not None for weight in recipe.generator.parameters())


@needs_basicsr
def test_another_critic_is_refused_by_its_features(tmp_path):
    settings = {"gan_weight": 0.005, "ema": 0.0}
    train(make_recipe("esrgan", SMALL | settings), tmp_path / "x.safetensors", 1, run_dir=tmp_path / "run")
    critic = tmp_path / "x-critic.safetensors"
    assert load_bundle(critic, "critic").info.config == {"num_feat": 32}
    ready(**settings, start_critic=str(critic))
    with pytest.raises(InputError, match="32 features, critic_feat is 16"):
        ready(**settings, start_critic=str(critic), critic_feat=16)
