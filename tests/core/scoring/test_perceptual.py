"""Perceptual distances: zero for equal pictures, gradients for made ones alone, and VGG19 as torchvision computes it."""

from __future__ import annotations

import pytest
import torch
from rapiddraw.core.errors import BundleError
from rapiddraw.core.scoring.perceptual import load_perceptual
from rapiddraw.tests import helpers

PICTURES = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))


def test_a_tower_tells_pictures_apart(tmp_path):
    network = load_perceptual(str(helpers.write_image(tmp_path / "image.safetensors")))
    assert network.name == "image tower"
    assert network.distance(PICTURES, PICTURES).abs().max() < 1e-6
    apart = network.distance(PICTURES, PICTURES.flip(0))
    assert apart.shape == (2,) and float(apart.min()) > 0 and float(apart.max()) <= 4
    made = PICTURES.clone().requires_grad_()
    network.loss(made, PICTURES.flip(0)).backward()
    assert made.grad is not None and float(made.grad.abs().sum()) > 0
    assert not any(weight.requires_grad for weight in network.parameters())


def test_vgg19_is_torchvisions_up_to_conv5_4(tmp_path):
    torchvision = pytest.importorskip("torchvision")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        whole = torchvision.models.vgg19(weights=None).eval()
    features = {f"features.{key}": value for key, value in whole.features.state_dict().items()}
    torch.save(features | {"classifier.0.weight": torch.zeros(1)}, tmp_path / "vgg19.pth")
    network = load_perceptual(str(tmp_path / "vgg19.pth"))
    assert network.name == "VGG19"
    mean, spread = (torch.tensor(v)[:, None, None] for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    with torch.no_grad():
        torch.testing.assert_close(network(PICTURES), whole.features[:35]((PICTURES - mean) / spread))
    del features["features.28.weight"]
    torch.save(features, tmp_path / "part.pth")
    with pytest.raises(BundleError, match="part.pth: its weights are not VGG19's"):
        load_perceptual(str(tmp_path / "part.pth"))


def test_other_files_are_refused(tmp_path):
    with pytest.raises(BundleError, match="no such file"):
        load_perceptual(str(tmp_path / "none.pth"))
    with pytest.raises(BundleError):
        load_perceptual(str(helpers.write_vae(tmp_path / "vae.safetensors")))
