"""Pictures to latents and back."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from rapiddraw.core.bundles.load import load_bundle
from rapiddraw.core.errors import InputError
from rapiddraw.core.host.embedded.vae import Vae, load_vae


@pytest.fixture(scope="module")
def vae(tiny_weights: Path) -> Vae:
    return load_vae(load_bundle(tiny_weights / "tiny-vae.safetensors"), torch.device("cpu"))


def picture(batch: int, height: int, width: int, channels: int = 3) -> torch.Tensor:
    return torch.rand(batch, height, width, channels, generator=torch.Generator().manual_seed(0))


def test_encode_is_the_unscaled_mode_of_the_posterior(vae: Vae) -> None:
    pixels = picture(1, 32, 48)
    latent = vae.encode(pixels)
    assert latent.shape == (1, 4, 4, 6)
    with torch.no_grad():
        expected = vae.first_stage_model.encode(pixels.movedim(-1, 1) * 2 - 1).latent_dist.mode()
    assert torch.equal(latent, expected) and torch.equal(vae.encode(pixels), latent)


def test_decode_is_clamped_and_channels_last(vae: Vae) -> None:
    images = vae.decode(torch.randn(2, 4, 4, 6, generator=torch.Generator().manual_seed(0)) * 50)
    assert images.shape == (2, 32, 48, 3) and images.min() >= 0 and images.max() <= 1


def test_a_picture_does_not_depend_on_its_batch(vae: Vae) -> None:
    latents = torch.randn(3, 4, 4, 4, generator=torch.Generator().manual_seed(1))
    assert torch.equal(vae.decode(latents)[1:2], vae.decode(latents[1:2]))


def test_odd_sizes_are_cropped_in_the_middle_and_alpha_is_ignored(vae: Vae) -> None:
    pixels = picture(1, 37, 45, 4)
    assert torch.equal(vae.encode(pixels), vae.encode(pixels[:, 2:34, 2:42, :3]))


def test_shapes_that_cannot_be_are_named(vae: Vae) -> None:
    with pytest.raises(InputError, match="VAE that belongs"):
        vae.decode(torch.zeros(1, 8, 4, 4))
    with pytest.raises(InputError, match="smaller than one latent cell"):
        vae.encode(picture(1, 4, 64))
    with pytest.raises(InputError, match="expected"):
        vae.encode(picture(1, 32, 32, 1))
