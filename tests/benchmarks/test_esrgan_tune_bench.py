"""`bench esrgan-tune` with a tiny network: its shape, and that what is measured is not trained on."""

from __future__ import annotations

import argparse
import json

import numpy as np
import pytest
from PIL import Image
from rapiddraw.benchmarks import esrgan_tune
from rapiddraw.core.upscale import basicsr_shim
from rapiddraw.tests import helpers


@pytest.mark.skipif(not basicsr_shim.available(), reason="basicsr is not installed")
def test_the_result_has_the_documented_shape(tiny_pack, tmp_path, monkeypatch):
    tower = helpers.write_image(tmp_path / "tower.safetensors")
    rng = np.random.default_rng(0)
    (tmp_path / "photos").mkdir()
    for i in range(2):
        small = rng.integers(0, 255, (32, 32, 3), dtype=np.uint8)
        Image.fromarray(small).resize((512, 512)).save(tmp_path / "photos" / f"{i}.png")
    monkeypatch.setattr(
        "rapiddraw.benchmarks.esrgan.pictures", lambda count: iter([np.full((256, 256, 3), i, np.uint8) for i in range(count)])
    )
    args = argparse.Namespace(
        start="tiny-esrgan.safetensors",
        data=str(tmp_path / "photos"),
        count=2,
        steps=1,
        batch=1,
        features=str(tower),
        folder=tmp_path / "runs",
    )
    result = esrgan_tune.run(args)
    assert {(row["set"], row["method"]) for row in result["rows"]} == {
        (name, method)
        for name in ("photographs", "drawings")
        for method in ("bicubic", "pretrained", "tuned for PSNR", "tuned with a critic")
    }
    assert len(result["checks"]) == 4 and (tmp_path / "runs" / "compared.png").is_file()
    json.dumps(result)
    held = esrgan_tune.prepare("photographs", args)
    trained = [np.asarray(Image.open(path)) for path in sorted((tmp_path / "runs" / "photographs" / "train").glob("*.png"))]
    assert len(trained) == 6 and not any(np.array_equal(one, other) for one in held for other in trained)
