"""Train Image Tokens by a CLIP_VISION, on a random checkpoint of SD 1.5's shape, under inference mode as ComfyUI runs nodes."""

from __future__ import annotations

import json
import re

import pytest
import torch
from rapiddraw.core import paths
from rapiddraw.core.bundles.load import load_bundle
from rapiddraw.core.errors import InputError
from rapiddraw.core.host import current
from rapiddraw.core.host.embedded.checkpoint import load_checkpoint
from rapiddraw.core.operations import domain_run
from rapiddraw.core.orchard.dataset import write_dataset
from rapiddraw.nodes.image_variation import ImageVariationEncode
from rapiddraw.nodes.train_image_tokens import LINKED, TrainImageTokens
from rapiddraw.tests import helpers, sd_helpers

SETTINGS = {
    "folder": "fruit", "filename": "mine", "steps": 3, "batch_size": 2, "lr": 0.01, "size": 64, "prompts": "a red fruit", "seed": 0,
    "tokens": 3, "hidden": 16, "reading": 2, "tower_name": LINKED,
}  # fmt: skip
PICTURE = torch.rand(1, 48, 40, 3, generator=torch.Generator().manual_seed(0))


class Vision:
    """A CLIP_VISION of `width` features: the picture's means in 64 fields, projected."""

    def __init__(self, width=24, seed=0):
        self.weight = torch.randn(192, width, generator=torch.Generator().manual_seed(seed))

    def encode_image(self, image):
        assert image.shape[-1] == 3 and float(image.min()) >= 0 and float(image.max()) <= 1
        fields = torch.nn.functional.adaptive_avg_pool2d(image.movedim(-1, 1), 8).flatten(1)
        return {"image_embeds": (fields - 0.5) @ self.weight}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("weights") / "checkpoints"
    size = len(json.loads((sd_helpers.write_tokenizer(folder / "tokenizer") / "vocab.json").read_text(encoding="utf-8")))
    helpers.write_image(folder.parent / "tiny-image.safetensors")
    return sd_helpers.write_single_file(folder / "sd15.safetensors", sd_helpers.narrow_sd15(size))


@pytest.fixture
def parts(checkpoint, tiny_pack, monkeypatch):
    made = tiny_pack / "output" / "rapiddraw"
    monkeypatch.setattr(paths, "weights_dirs", lambda: [checkpoint.parent.parent, *([made] if made.is_dir() else [])])
    monkeypatch.delenv("COMFYUI_PATH", raising=False)
    write_dataset("train", 4, 64, tiny_pack / "input" / "fruit")
    return load_checkpoint(checkpoint, torch.device("cpu"))


def run(parts, **changes):
    with torch.inference_mode():
        return TrainImageTokens().execute(*parts, **{**SETTINGS, **changes})["result"]


def varied(trained, vision, text=None, strength=1.0):
    given = {"tokens_name": "", "tower_name": "tiny-image.safetensors", "trained": trained, "clip_vision": vision}
    return ImageVariationEncode().execute(PICTURE, **given, strength=strength, conditioning=text)[0]


def test_a_projection_of_a_users_clip_vision_serves_that_clip_vision_alone(parts):
    vision = Vision()
    trained, report, plot, samples = run(parts, clip_vision=vision)
    assert trained == "mine.safetensors" and "projection of 24 features to 3 tokens of" in report and "for Image Variation Encode" in report
    assert plot.shape[-1] == 3 and samples.shape == (1, 192, 64, 3) and not torch.equal(samples[:, :64], samples[:, 64:128])
    text = [[torch.randn(1, 5, varied(trained, vision)[0][0].shape[-1]), {}]]
    ((alone, _),), ((joined, _),) = varied(trained, vision), varied(trained, vision, text)
    assert joined.shape == (1, 8, alone.shape[-1]) and torch.equal(joined[:, 5:], alone) and torch.equal(joined[:, :5], text[0][0])
    assert varied(trained, vision, text, 0.0) is text
    for other, words in (
        (Vision(seed=1), "another CLIP_VISION of 24 features"),
        (Vision(25), "no projection was trained"),
        (None, "of a 'clip"),
    ):
        with pytest.raises(InputError, match=words):
            varied(trained, other)


def test_a_slightly_less_precise_clip_vision_is_the_same(parts):
    vision, half = Vision(), Vision()
    half.weight = vision.weight.bfloat16().float()
    assert varied(run(parts, clip_vision=vision)[0], half)[0][0].isfinite().all()


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ({"last_hidden_state": torch.ones(1, 5, 8)}, "gives no embedding, not one vector a picture"),
        ({"image_embeds": torch.ones(1, 5, 8)}, r"shape \(1, 5, 8\)"),
        ({"image_embeds": torch.ones(1, 9000)}, "9000 features; expected at most 8192"),
    ],
)
def test_a_clip_vision_that_does_not_fit_is_refused_before_any_work(parts, monkeypatch, answer, words):
    class Other:
        def encode_image(self, image):
            return answer

    monkeypatch.setattr(domain_run, "open_domain", lambda *_: pytest.fail("worked first"))
    with pytest.raises(InputError, match=words):
        run(parts, clip_vision=Other())
    with pytest.raises(InputError, match="link clip_vision"):
        run(parts)


@pytest.mark.parametrize(("key", "value"), [("tokens", 0), ("tokens", 257), ("hidden", 8193), ("reading", -1)])
def test_settings_out_of_range_are_refused(parts, key, value):
    with pytest.raises(InputError, match=key):
        run(parts, clip_vision=Vision(), **{key: value})


def test_captions_of_any_length_mirror_images_and_text_dropout_are_trained_on(parts, tiny_pack):
    (next((tiny_pack / "input" / "fruit").rglob("*.png"))).with_suffix(".txt").write_text("a red fruit " * 40, encoding="utf-8")
    (tiny_pack / "input" / "fruit" / "captions.jsonl").unlink(missing_ok=True)
    run(parts, clip_vision=Vision(), subject="fruit", flip=True, caption_dropout=0.5, steps=6, reading=0)
    log = (tiny_pack / "output" / "rapiddraw" / "mine-run" / "log.jsonl").read_text(encoding="utf-8").splitlines()
    assert len(log) == 6 and all(json.loads(line)["grad_norm"] > 0 for line in log)


def test_another_clip_vision_or_setting_does_not_go_on_from_a_run_and_says_so_before_any_work(parts, tiny_pack, monkeypatch):
    run(parts, clip_vision=Vision())
    first = load_bundle(tiny_pack / "output" / "rapiddraw" / "mine.safetensors")
    assert first.info.config["tower"]["kind"] == "clip_vision" and len(first.info.config["tower"]["mark"]) == 16
    monkeypatch.setattr(domain_run, "encode_pictures", lambda *_: pytest.fail("encoded first"))
    for changes, words in (
        ({"clip_vision": Vision(seed=1)}, "reader was"),
        ({"clip_vision": Vision(), "tokens": 4}, "tokens was 3 and is 4"),
    ):
        with pytest.raises(Exception, match=words):
            run(parts, **changes)
    with pytest.raises(Exception, match="already at step 3, past the 2"):
        run(parts, clip_vision=Vision(), steps=2)


def test_the_diffusion_loss_of_held_out_pictures_falls_and_the_base_is_as_before(parts, tiny_pack):
    write_dataset("train", 12, 64, tiny_pack / "input" / "more")
    before = [one.clone() for one in current().speed.network_of("model", parts[0]).parameters()]
    losses = []
    for name, lr, steps in (("begun", 0.0, 1), ("trained", 0.02, 40)):
        report = run(parts, clip_vision=Vision(), folder="more", filename=name, lr=lr, steps=steps, weighting="none")[1]
        losses.append(float(re.search(r"for validation: .* by the base, (\S+) by the projection", report)[1]))
    assert losses[1] < losses[0]
    assert all(torch.equal(*both) for both in zip(before, current().speed.network_of("model", parts[0]).parameters(), strict=True))
