"""Tiles: they cover everything, leave no seam on what a tile can know, and step in where memory runs out."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from rapiddraw.core.errors import InputError
from rapiddraw.core.host import tiling
from torch.nn import functional


class LocalVae:
    """A VAE of factor 8 in which every cell is by itself, so tiles must equal the whole. Fails above `limit` cells, like a full card."""

    def __init__(self, limit: int = 10**9) -> None:
        self.limit, self.calls = limit, 0

    def spacial_compression_encode(self) -> int:
        return 8

    def _use(self, cells: int) -> None:
        self.calls += 1
        if cells > self.limit:
            raise torch.OutOfMemoryError("out of memory")

    def decode(self, latent: torch.Tensor) -> torch.Tensor:
        self._use(latent.shape[2] * latent.shape[3])
        return functional.interpolate(latent[:, :3], scale_factor=8).movedim(1, -1)

    def encode(self, pixels: torch.Tensor) -> torch.Tensor:
        self._use(pixels.shape[1] * pixels.shape[2] // 64)
        planes = pixels.movedim(-1, 1)
        height, width = (side // 8 * 8 for side in planes.shape[2:])
        top, left = (planes.shape[2] - height) // 2, (planes.shape[3] - width) // 2
        return functional.avg_pool2d(planes[:, :, top : top + height, left : left + width], 8)


@settings(max_examples=30, deadline=None)
@given(height=st.integers(1, 40), width=st.integers(1, 40), tile=st.sampled_from([64, 96, 128, 200]))
def test_tiles_equal_the_whole_where_cells_are_independent(height: int, width: int, tile: int) -> None:
    vae, latent = LocalVae(), torch.rand(2, 3, height, width)
    torch.testing.assert_close(tiling.decode(vae, latent, tile), vae.decode(latent))
    pixels = torch.rand(1, height * 8 + 3, width * 8 + 5, 3)
    torch.testing.assert_close(tiling.encode(vae, pixels, tile), vae.encode(pixels))


def test_memory_running_out_means_tiles_not_failure() -> None:
    latent = torch.rand(1, 3, 100, 100)
    vae = LocalVae(limit=64 * 64)
    torch.testing.assert_close(tiling.decode(vae, latent), LocalVae().decode(latent))
    assert vae.calls > 2
    torch.testing.assert_close(tiling.encode(LocalVae(64 * 64), LocalVae().decode(latent)), latent)
    with pytest.raises(torch.OutOfMemoryError):
        tiling.decode(LocalVae(1), latent)


def test_whole_is_one_call() -> None:
    vae = LocalVae()
    tiling.decode(vae, torch.rand(1, 3, 9, 9))
    assert vae.calls == 1


def test_other_errors_are_not_swallowed() -> None:
    class Broken(LocalVae):
        def decode(self, latent: torch.Tensor) -> torch.Tensor:
            raise RuntimeError("shapes do not fit")

    with pytest.raises(RuntimeError, match="shapes"):
        tiling.decode(Broken(), torch.rand(1, 3, 4, 4))


@pytest.mark.parametrize("tile", [-8, 8, 63, 8193, True])
def test_tiles_out_of_range_are_refused(tile: int) -> None:
    with pytest.raises(InputError, match="tile"):
        tiling.decode(LocalVae(), torch.rand(1, 3, 4, 4), tile)
