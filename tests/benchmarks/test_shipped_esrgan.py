"""The shipped x4 upscaler: small, better than bicubic, seamless, and read by ComfyUI's stock loader."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from rapiddraw.benchmarks.esrgan import WEIGHTS, pictures
from rapiddraw.core.bundles.load import load_bundle
from rapiddraw.core.metrics.psnr import psnr
from rapiddraw.core.paths import pack_root
from rapiddraw.core.train.recipes.esrgan import enlarge_with
from rapiddraw.core.upscale import degrade
from rapiddraw.core.upscale.rrdb import load_upscaler
from rapiddraw.core.upscale.tiles import Tiling, upscale

PATH = pack_root() / "weights" / WEIGHTS


def test_it_is_small_and_says_where_it_came_from():
    bundle = load_bundle(PATH, "esrgan")
    assert PATH.stat().st_size < 3_000_000
    assert bundle.info.config["scale"] == 4
    assert bundle.info.provenance["recipe"] == "esrgan" and bundle.info.provenance["steps"] > 0


def test_it_beats_bicubic_on_pictures_it_never_saw():
    upscaler = load_upscaler(PATH)
    gains = []
    for high in pictures(4):
        low = degrade.reduce(high, 4)
        gains.append(psnr(enlarge_with(upscaler, low), high, 4) - psnr(degrade.enlarge(low, 4), high, 4))
    assert np.mean(gains) > 0.5, f"gains over bicubic in dB: {gains}"


def test_comfyuis_stock_loader_reads_it_and_gives_equal_pixels():
    spandrel = pytest.importorskip("spandrel")
    stock = spandrel.ModelLoader().load_from_state_dict(load_bundle(PATH).tensors).eval()
    image = torch.rand(1, 3, 17, 22, generator=torch.Generator().manual_seed(0))
    assert stock.scale == 4
    with torch.no_grad():
        torch.testing.assert_close(stock(image), load_upscaler(PATH)(image), rtol=0, atol=1e-6)


def test_its_tiles_leave_no_seam_on_a_flat_gradient():
    row = torch.linspace(0.2, 0.8, 160)
    image = torch.stack([row, row.flip(0), torch.full((160,), 0.5)], -1)[None, None].expand(1, 72, -1, -1)
    upscaler = load_upscaler(PATH)
    whole, tiled = upscale(upscaler, image), upscale(upscaler, image, tiling=Tiling(64, 32))
    assert (whole - tiled).abs().max() < 1 / 255
    assert (whole.diff(dim=2) - tiled.diff(dim=2)).abs().max() < 1 / 255
