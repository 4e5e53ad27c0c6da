"""Pictures and videos between VAEs: axes, frames, masks, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from rapiddraw.core.bridge.frames import (
    as_image,
    check_plain,
    decode_frames,
    empty_latent,
    encode_frames,
    kept_for,
    pixel_frames,
    with_axes_of,
)
from rapiddraw.core.errors import InputError
from torch import Tensor


class Video:
    """A VAE in which every pixel is a cell, and every frame after the first stands for two."""

    latent_dim, latent_channels = 3, 3
    downscale_ratio: Any = (lambda frames: (frames + 1) // 2, 1, 1)
    upscale_ratio: Any = (lambda steps: 2 * steps - 1, 1, 1)

    def decode(self, latent: Tensor) -> Tensor:
        return latent.repeat_interleave(2, dim=2)[:, :, 1:].movedim(1, -1)

    def encode(self, pixels: Tensor) -> Tensor:
        return pixels.movedim(-1, 0).unsqueeze(0)[:, :, ::2]


class Pictures:
    latent_channels = 3

    def decode(self, latent: Tensor) -> Tensor:
        return latent.movedim(1, -1)

    def encode(self, pixels: Tensor) -> Tensor:
        return pixels.movedim(-1, 1)


@pytest.fixture(autouse=True)
def plain_host(monkeypatch: pytest.MonkeyPatch) -> None:
    from rapiddraw.core.host import current

    monkeypatch.setattr(current().vae, "decode", lambda vae, latent, tile=0: vae.decode(latent))
    monkeypatch.setattr(current().vae, "encode", lambda vae, pixels, tile=0: vae.encode(pixels))


def test_videos_come_back_one_by_one() -> None:
    latent = torch.rand(2, 3, 3, 4, 4)
    frames = decode_frames(Video(), latent)
    assert frames.shape == (2, 5, 4, 4, 3) and as_image(frames).shape == (10, 4, 4, 3) and pixel_frames(Video(), latent) == 5
    assert torch.equal(encode_frames(Video(), frames), latent)


def test_pictures_have_one_frame() -> None:
    latent = torch.rand(2, 3, 4, 4)
    frames = decode_frames(Pictures(), latent)
    assert frames.shape == (2, 1, 4, 4, 3) and torch.equal(encode_frames(Pictures(), frames), latent)
    with pytest.raises(InputError, match="2 frames"):
        encode_frames(Pictures(), torch.rand(1, 2, 4, 4, 3))


def test_empty_latents_have_the_vaes_axes() -> None:
    assert empty_latent(Pictures(), 2, 1, (4, 5)).shape == (2, 3, 4, 5)
    assert empty_latent(Video(), 2, 5, (4, 5)).shape == (2, 3, 3, 4, 5)


def test_axes_are_added_and_taken_away() -> None:
    picture, video = torch.rand(1, 3, 4, 4), torch.rand(1, 3, 2, 4, 4)
    assert with_axes_of(picture, torch.Size((1, 3, 1, 4, 4))).shape == (1, 3, 1, 4, 4)
    assert with_axes_of(picture.unsqueeze(2), picture.shape).shape == picture.shape
    assert with_axes_of(video, picture.shape) is video


def test_a_mask_keeps_its_batch() -> None:
    mask, picture, video = torch.rand(2, 1, 8, 8), torch.zeros(2, 3, 4, 4), torch.zeros(2, 3, 1, 4, 4)
    there = kept_for({"samples": picture, "noise_mask": mask, "batch_index": [0, 1], "other": 1}, video)
    assert there.keys() == {"noise_mask", "batch_index"} and there["noise_mask"].shape == (2, 1, 1, 8, 8)
    assert torch.equal(kept_for({"samples": video, "noise_mask": there["noise_mask"]}, picture)["noise_mask"], mask)
    assert kept_for({"samples": picture}, picture) == {}


@pytest.mark.parametrize("samples", [torch.zeros(1, 4, 16), torch.zeros(3, 4)])
def test_other_latents_are_refused(samples: Tensor) -> None:
    with pytest.raises(InputError, match="pictures"):
        check_plain(samples)
