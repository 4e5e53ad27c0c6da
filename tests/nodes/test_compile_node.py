"""Compile on a whole pipeline: the same picture, the source unchanged, a report, and every part it was given."""

from __future__ import annotations

import pytest
import torch
from rapiddraw.core.errors import InputError
from rapiddraw.core.host import SamplingRun, current
from rapiddraw.core.upscale.tiles import upscale
from rapiddraw.nodes.compile import Compile, CompileReport
from rapiddraw.nodes.loaders import BundleLoader
from rapiddraw.nodes.upscale import ESRGANLoader


@pytest.fixture
def parts(tiny_pack):
    model, clip, vae = BundleLoader().execute("tiny-unet.safetensors", "tiny-text.safetensors", "tiny-vae.safetensors")
    return {"model": model, "clip": clip, "vae": vae, "upscale_model": ESRGANLoader().execute("tiny-esrgan.safetensors")[0]}


def draw(model, clip, vae, upscale_model, cfg=3.0):
    host = current()
    latent = {"samples": torch.zeros(1, 4, 4, 4)}
    drawn = host.sampling.sample(
        host.sampling.make_guider(model, host.clip.encode(clip, "a red fruit"), host.clip.encode(clip, ""), cfg),
        latent,
        SamplingRun(1, 3, "euler", "simple"),
    )
    return upscale(upscale_model, host.vae.decode(vae, drawn["samples"]))


def test_the_picture_is_the_same_and_the_source_unchanged(parts):
    before = draw(**parts)
    done = dict(zip(parts, Compile().execute(compile="never", precision="keep", budget=30.0, **parts), strict=True))
    assert all(done[name] is not parts[name] for name in parts)
    report, image = CompileReport().execute(done["model"], before)
    assert image is before and report.count("has not run yet") == 4
    for cfg in (3.0, 1.0):
        torch.testing.assert_close(draw(**done, cfg=cfg), draw(**parts, cfg=cfg), rtol=0, atol=1 / 255)
    assert torch.equal(draw(**parts), before)
    report, _ = CompileReport().execute(done["model"], before)
    assert [line.split(":")[0] for line in report.splitlines() if not line.startswith(" ")] == [
        "U-Net", "text encoder", "VAE", "upscaler",
    ]  # fmt: skip
    assert "resnet" in report and "feed-forward" in report and "dense block" in report


def test_what_is_not_linked_stays_out(parts):
    model, clip, vae, upscaler = Compile().execute(parts["model"], "never", "keep", 30.0)
    assert model is not parts["model"] and (clip, vae, upscaler) == (None, None, None)
    assert "has not been through Compile" in CompileReport().execute(parts["model"], None)[0]
    again, *_ = Compile().execute(model, "never", "auto", 30.0)
    assert CompileReport().execute(again, None)[0].startswith("U-Net")


def test_numbers_are_checked_again(parts):
    with pytest.raises(InputError, match="budget is 1000000000"):
        Compile().execute(parts["model"], "never", "keep", 1e9)


def test_a_sped_up_upscaler_is_still_one(parts):
    *_, upscaler = Compile().execute(parts["model"], "never", "keep", 30.0, upscale_model=parts["upscale_model"])
    assert upscaler.scale == 4 and upscaler.to(torch.device("cpu")) is upscaler and upscaler.eval() is upscaler
    assert upscaler(torch.rand(1, 3, 5, 7)).shape == (1, 3, 20, 28)
