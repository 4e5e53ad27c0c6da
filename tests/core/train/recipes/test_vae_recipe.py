"""The recipe of the VAE: its start, its crops, its latent space."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL
from rapiddraw.core.bundles.load import load_bundle
from rapiddraw.core.data.folder import ImageFolder
from rapiddraw.core.errors import InputError
from rapiddraw.core.networks import network_of
from rapiddraw.core.orchard.dataset import write_dataset
from rapiddraw.core.train import make_recipe
from rapiddraw.core.train.inputs.crops import Crops
from rapiddraw.core.train.inputs.foreground import FOREGROUND_CLASSES
from rapiddraw.core.train.inputs.vae_start import pass_through
from rapiddraw.core.train.loop import train
from rapiddraw.core.train.recipes.vae import vae_config
from rapiddraw.core.upscale import basicsr_shim

needs_basicsr = pytest.mark.skipif(not basicsr_shim.available(), reason="basicsr is not installed")
WIDE = {"widths": (96, 96, 96), "layers_per_block": 0, "latent_channels": 12, "start": "pass_through", "optimizer": "muon"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_dataset("train", 8, 64, tmp_path_factory.mktemp("vae-data") / "set", maps=("segmentation",))


def recipe(folder, **changes):
    return make_recipe("vae", {"data": str(folder), "size": 64, "batch_size": 2, "warmup": 1, "precision": "no", **WIDE, **changes})


def psnr(a, b):
    return float(-10 * (((a - b) / 2) ** 2).mean().log10())


@pytest.mark.parametrize("levels", [3, 4])
@pytest.mark.parametrize("channels", [4, 16])
def test_a_picture_passes_through_before_any_training(folder, levels, channels):
    images = ImageFolder(folder, size=64)
    pictures = torch.stack([images.image(i) for i in range(8)])
    torch.manual_seed(0)
    vae = AutoencoderKL(**vae_config((96,) * levels, channels, 0)).eval()
    pass_through(vae, pictures)
    with torch.no_grad():
        latents = vae.encode(pictures).latent_dist.mode()
        back = vae.decode(latents).sample
    blurred = torch.nn.functional.interpolate(
        torch.nn.functional.avg_pool2d(pictures, 2 ** (levels - 1)), size=64, mode="bilinear", align_corners=False
    )
    with torch.no_grad():
        noise = psnr(AutoencoderKL(**vae_config((96,) * levels, channels, 0)).eval()(pictures).sample, pictures)
    assert psnr(back, pictures) > psnr(blurred, pictures) - 6  # the decoder's other channels add a little noise at first
    assert psnr(back, pictures) > noise + 3
    carried = latents[:, : min(channels, 12)]
    assert float(carried.mean((0, 2, 3)).abs().max()) < 0.3 and 0.7 < float(carried.std((0, 2, 3)).mean()) < 1.3


class Marked:
    """Pictures that show where their object is: white inside, black outside."""

    def map(self, index, kind):
        inside = np.zeros((64, 64), np.uint8)
        inside[8 * index : 8 * index + 8, 40:48] = FOREGROUND_CLASSES[0]
        return inside

    def image(self, index):
        return torch.from_numpy(self.map(index, "segmentation") > 0).float().expand(3, -1, -1)


def test_crops_lie_around_objects_as_often_as_asked():
    def hits(on_objects):
        cutter, generator = Crops(Marked(), 32, on_objects), torch.Generator().manual_seed(0)
        crops = [cutter.crop(i % 8, generator) for i in range(240)]
        assert {tuple(crop.shape) for crop in crops} == {(3, 32, 32)}
        return sum(bool(crop.max() > 0) for crop in crops) / len(crops)

    by_chance = hits(0.0)
    assert hits(1.0) == 1.0
    assert hits(0.85) == pytest.approx(0.85 + 0.15 * by_chance, abs=0.08)
    one, two = (Crops(Marked(), 32, 0.85).crop(3, torch.Generator().manual_seed(7)) for _ in range(2))
    assert torch.equal(one, two)


def test_it_learns_from_crops_and_gives_each_latent_channel_one_size(folder, tmp_path):
    out = tmp_path / "vae.safetensors"
    made = recipe(folder, crop=32, crops=3)
    made.setup(torch.device("cpu"))
    assert made.batch(0, torch.Generator().manual_seed(0))["pictures"].shape == (6, 3, 32, 32)
    result = train(recipe(folder, crop=32, crops=3), out, 8, run_dir=tmp_path / "run", device="cpu")
    bundle = load_bundle(result.files[0], "vae")
    vae = network_of(AutoencoderKL, bundle)
    images = ImageFolder(folder, size=64)
    pictures = torch.stack([images.image(i) for i in range(8)])
    with torch.no_grad():
        latents = vae.encode(pictures).latent_dist.mode()
    assert float(latents.mean((0, 2, 3)).abs().max()) < 0.05
    assert (latents.std((0, 2, 3)) - 1).abs().max() < 0.05
    assert bundle.info.latent.scale == pytest.approx(1, abs=0.02) and bundle.info.latent.channels == 12
    assert bundle.info.provenance["metrics"]["psnr_training_pictures"] > 15


def test_whitening_the_latents_changes_no_picture(folder):
    made = recipe(folder, start="random", widths=(32, 32, 32), optimizer="adamw")
    torch.manual_seed(0)
    made.setup(torch.device("cpu"))
    pictures = made._some_pictures(8)
    with torch.no_grad():
        made.vae.quant_conv.bias[:12] += torch.arange(12.0)  # channels of many means
        before = made._round_trip(pictures)
        spread = made.vae.encode(pictures).latent_dist.std / made._encode(pictures).std((0, 2, 3))[None, :, None, None]
        made._whiten(pictures)
        torch.testing.assert_close(made._round_trip(pictures), before, rtol=0, atol=1e-4)
        torch.testing.assert_close(made.vae.encode(pictures).latent_dist.std, spread, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"widths": (64, 64, 64)}, "96 or more"),
        ({"widths": (96, 96, 128)}, "one width"),
        ({"start": "warm"}, "pass_through"),
        ({"optimizer": "sgd"}, "muon"),
        ({"crop": 30}, "32 to 64"),
        ({"crop": 32, "on_objects": 1.5}, "a share from 0 to 1"),
    ],
)
def test_settings_that_cannot_work_are_refused(folder, changes, said):
    with pytest.raises(InputError, match=said):
        recipe(folder, **changes).check()


@needs_basicsr
def test_a_critic_trains_beside_the_autoencoder_and_is_not_kept(folder, tmp_path):
    critical = recipe(folder, gan_weight=0.03, widths=(32, 32, 32), start="random", layers_per_block=1)
    result = train(critical, tmp_path / "vae.safetensors", 2, run_dir=tmp_path / "run", device="cpu")
    assert {"loss", "pixel", "adversarial", "grad_norm_main_muon", "grad_norm_critic"} <= set(result.metrics)
    assert result.metrics["grad_norm_critic"] > 0
    assert not any("critic" in name for name in load_bundle(result.files[0], "vae").tensors)


@needs_basicsr
def test_the_critics_weight_is_a_share_of_the_loss(folder):
    made = recipe(folder, gan_weight=0.25, widths=(32, 32, 32), start="random", layers_per_block=1)
    torch.manual_seed(0)
    made.setup(torch.device("cpu"))
    batch = made.batch(0, torch.Generator().manual_seed(0))
    torch.manual_seed(1)
    whole = made.loss(batch)
    made.critic = None
    torch.manual_seed(1)
    torch.testing.assert_close(whole["loss"], made.loss(batch)["loss"] + 0.25 * whole["adversarial"])
    with pytest.raises(InputError, match="gan_weight"):
        recipe(folder, gan_weight=-1.0).check()
