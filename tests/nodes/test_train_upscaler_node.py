"""An upscaler is fine-tuned in a graph of nodes: on the user's pictures, against the network before, and refused in one line."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from rapiddraw.core.bundles.load import load_bundle
from rapiddraw.core.errors import BundleError, DataError, InputError
from rapiddraw.core.paths import input_dir, made_bundle_path
from rapiddraw.core.upscale import basicsr_shim
from rapiddraw.core.upscale.rrdb import load_upscaler
from rapiddraw.nodes.loaders import BundleLoader
from rapiddraw.nodes.train_upscaler import TrainUpscaler
from rapiddraw.nodes.upscale import ESRGANLoader
from rapiddraw.tests import helpers

needs_basicsr = pytest.mark.skipif(not basicsr_shim.available(), reason="basicsr is not installed")
SETTINGS = {
    "steps": 3, "batch_size": 2, "lr": 1e-3, "patch": 32, "degradation": "bicubic", "degraded": 0.5, "pixel_weight": 1.0,
    "perceptual_weight": 0.0, "perceptual": "included image tower", "gan_weight": 0.0, "critic": "new", "seed": 0, "save_every": 10,
    "resume": True,
}  # fmt: skip


@pytest.fixture
def pack(tiny_pack, tiny_weights, monkeypatch):
    from rapiddraw.core.scoring import perceptual

    tower = helpers.write_image(tiny_pack / "tower.safetensors")
    monkeypatch.setattr(perceptual, "resolve_bundle", lambda name, kind: tower)
    rng = np.random.default_rng(0)
    folder = input_dir() / "mine"
    folder.mkdir()
    for i in range(4):
        small = rng.integers(0, 255, (8, 8, 3), dtype=np.uint8)
        Image.fromarray(small).resize((64 + 8 * i, 64)).save(folder / f"{i}.png")
    return tiny_pack


def upscaler():
    return ESRGANLoader().execute("tiny-esrgan.safetensors")[0]


def trained(model=None, folder="mine", filename="mine", vae=None, **changes):
    return TrainUpscaler().execute(model or upscaler(), folder, filename, **{**SETTINGS, **changes}, vae=vae)["result"]


def test_it_trains_a_copy_and_compares_it_on_held_out_pictures(pack):
    given = upscaler()
    before = {key: value.clone() for key, value in given.model.state_dict().items()}
    model, report, plot, compared = trained(given, perceptual_weight=1.0)
    assert all(torch.equal(value, before[key]) for key, value in given.model.state_dict().items())
    saved = load_bundle(made_bundle_path("mine"), "esrgan")
    assert saved.info.provenance["recipe"] == "train_upscaler" and saved.info.provenance["steps"] == 3
    image = torch.rand(1, 3, 8, 8)
    assert model.scale == 4 and not torch.equal(model(image), given(image))
    assert (
        "4 usable pictures" in report
        and "bicubic" in report
        and "before" in report
        and "trained" in report
        and "mine.safetensors" in report
    )
    assert compared.shape == (1, 64, 4 * 64, 3) and plot.shape[-1] == 3


def test_the_same_seed_gives_the_same_file_and_a_run_is_resumed(pack):
    trained(filename="a", steps=4)
    trained(filename="b", steps=4)
    a, b = (load_bundle(made_bundle_path(name)).tensors for name in ("a", "b"))
    assert all(torch.equal(a[key], b[key]) for key in a)
    trained(filename="a", steps=4)  # finished: nothing is left to do
    assert all(torch.equal(value, a[key]) for key, value in load_bundle(made_bundle_path("a")).tensors.items())


@pytest.mark.parametrize("kind", ["vae", "jpeg", "blur"])
def test_degradations_change_what_is_learned(pack, kind):
    vae = BundleLoader().execute("tiny-unet.safetensors", "tiny-text.safetensors", "tiny-vae.safetensors")[2]
    trained(filename="plain", degraded=1.0)
    trained(filename=kind, degradation=kind, degraded=1.0, vae=vae)
    plain, other = (load_bundle(made_bundle_path(name)).tensors for name in ("plain", kind))
    assert any(not torch.equal(plain[key], other[key]) for key in plain)


@needs_basicsr
def test_the_critic_is_kept_in_its_own_file_and_restored(pack, monkeypatch):
    from rapiddraw.core.operations import train_upscaler

    report = trained(gan_weight=0.005)[1]
    critic = made_bundle_path("mine-critic")
    assert "mine-critic.safetensors" in report and load_bundle(critic, "critic").info.config == {"num_feat": 64}
    monkeypatch.setattr(train_upscaler, "resolve_bundle", lambda name, kind: critic)
    trained(filename="again", gan_weight=0.005, critic="mine-critic.safetensors", steps=1, lr=0.0)
    first, again = (load_bundle(path, "critic").tensors for path in (critic, made_bundle_path("again-critic")))
    assert all(torch.equal(first[key], again[key]) for key in first if key.endswith("weight_orig"))


def test_what_cannot_be_trained_on_is_said_before_the_work(pack):
    with pytest.raises(DataError, match="no such folder"):
        trained(folder="nothing")
    with pytest.raises(InputError):
        trained(folder="../..")
    one = input_dir() / "one"
    one.mkdir()
    Image.new("RGB", (64, 64), "red").save(one / "a.png")
    Image.new("RGB", (1, 1)).save(one / "dot.png")
    Image.new("RGB", (24, 24)).save(one / "small.png")
    (one / "broken.png").write_bytes(b"no picture")
    with pytest.raises(DataError, match="1 usable picture in one: at least 2.*smaller than 32 px: 1 .small.png") as error:
        trained(folder="one")
    assert "dot.png" in str(error.value) and "broken.png" in str(error.value) and "\n" not in str(error.value)
    with pytest.raises(InputError, match="degradation=vae needs a VAE"):
        trained(degradation="vae")
    with pytest.raises(InputError, match="degradation='fog'"):
        trained(degradation="fog")
    for bad in ({"patch": 33}, {"steps": 0}, {"degraded": 2.0}, {"gan_weight": -1.0}, {"lr": float("nan")}):
        with pytest.raises(InputError):
            trained(**bad)
    helpers.write_vae(made_bundle_path("taken"))
    with pytest.raises(BundleError, match="another kind"):
        trained(filename="taken")
    assert not made_bundle_path("mine").exists()


def test_no_memory_and_no_disk_are_said_before_the_work(pack, monkeypatch):
    from rapiddraw.core.operations import train_upscaler

    monkeypatch.setattr(train_upscaler, "train", lambda *_, **__: pytest.fail("it was trained"))
    with monkeypatch.context() as full:
        full.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=1000))
        with pytest.raises(InputError, match="0 MB are free on the disk of .*mine-run: free space, or set gan_weight to 0$"):
            trained()
    monkeypatch.setattr(train_upscaler, "free_memory", lambda _: 1000)
    with pytest.raises(InputError, match="for the weights alone and 0.0 GB are free on cpu"):
        trained()


@needs_basicsr
def test_a_critic_has_about_the_weights_that_are_reckoned_with():
    from rapiddraw.core.operations.train_upscaler import CRITIC_WEIGHTS

    critic = basicsr_shim.discriminator_class()(3, num_feat=64)
    assert sum(one.numel() for one in critic.parameters()) == pytest.approx(CRITIC_WEIGHTS, rel=0.02)


def test_pictures_of_every_kind_are_taken(pack):
    folder = input_dir() / "odd"
    folder.mkdir()
    rng = np.random.default_rng(1)
    for mode in ("RGB", "CMYK", "L", "RGBA", "P"):
        Image.fromarray(rng.integers(0, 255, (48, 40, 3), dtype=np.uint8)).convert(mode).save(
            folder / f"{mode}.{'tif' if mode == 'CMYK' else 'png'}"
        )
    Image.fromarray(rng.integers(0, 65535, (64, 64), dtype=np.uint16)).save(folder / "deep.png")
    assert "6 usable pictures" in trained(folder="odd")[1]


def test_other_networks_are_refused_by_name(pack):
    class Other:
        model = torch.nn.Sequential(torch.nn.PReLU())
        scale = 4

    with pytest.raises(InputError, match="takes ESRGAN networks .RRDB., and this one is a Sequential"):
        trained(Other())
    with pytest.raises(InputError, match="UPSCALE_MODEL is needed"):
        trained(3)


def test_the_file_is_a_plain_upscaler(pack):
    trained()
    assert load_upscaler(made_bundle_path("mine"))(torch.rand(1, 3, 6, 7)).shape == (1, 3, 24, 28)
