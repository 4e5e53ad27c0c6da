"""Captions for a user's pictures: from a template, from a captioning model of the user's, and what is left out."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image
from rapiddraw.core import paths
from rapiddraw.core.errors import BundleError, DataError, InputError
from rapiddraw.core.text.captioner import list_captioners, load_captioner
from rapiddraw.nodes.caption_folder import CaptionFolder

NONE = "none: template and subject"


def picture(seed):
    small = np.random.default_rng(seed).integers(0, 255, (6, 8, 3), dtype=np.uint8)
    return Image.fromarray(small).resize((48, 40), Image.Resampling.BICUBIC)


@pytest.fixture
def pictures(tiny_pack):
    folder = tiny_pack / "input" / "mine"
    (folder / "red chair").mkdir(parents=True)
    picture(0).save(folder / "red chair" / "IMG_0001.png")
    picture(1).save(folder / "blue_lamp_12.png")
    picture(1).save(folder / "copy.png")
    picture(2).save(folder / "IMG_1234.png")
    (folder / "IMG_1234.txt").write_text("a door by hand", encoding="utf-8")
    (folder / "broken.png").write_bytes(b"nothing")
    return folder


def captioned(model=NONE, template="a photo of {object}", subject="", old="only_missing", **more):
    result = CaptionFolder().execute("mine", "captioned", model, template, subject, old, more.get("least", 0), True)["result"]
    rows = [json.loads(line) for line in (paths.output_dir() / "captioned" / "captions.jsonl").read_text(encoding="utf-8").splitlines()]
    return {row["file_name"]: [caption["text"] for caption in row["captions"]] for row in rows}, result


def test_a_template_and_the_names_of_folders_and_files(pictures):
    texts, (folder, report, sheet) = captioned()
    assert texts == {
        "IMG_1234.png": ["a door by hand"],
        "blue_lamp_12.png": ["a photo of blue lamp"],
        "red chair/IMG_0001.png": ["a photo of red chair"],
    }
    assert folder == "captioned" and "3 usable pictures" in report and "blue_lamp_12.png = copy.png" in report and "broken.png" in report
    assert sheet.dim() == 4 and float(sheet.min()) >= 0 and float(sheet.max()) <= 1


def test_each_caption_has_its_own_language(pictures):
    (pictures / "red chair").rename(pictures / "\u7ea2\u6905\u5b50")
    captioned(template="{object}")
    rows = [json.loads(line) for line in (paths.output_dir() / "captioned" / "captions.jsonl").read_text(encoding="utf-8").splitlines()]
    said = {row["file_name"]: row["captions"][0]["language"] for row in rows}
    assert said["\u7ea2\u6905\u5b50/IMG_0001.png"] == "zh" and said["blue_lamp_12.png"] == "en"


def test_a_subject_and_old_captions(pictures):
    assert captioned(subject="my cat", old="drop")[0]["IMG_1234.png"] == ["a photo of my cat"]
    assert captioned(subject="my cat", old="keep")[0]["IMG_1234.png"] == ["a photo of my cat", "a door by hand"]


def test_what_is_wrong_is_said_before_the_work(pictures):
    with pytest.raises(InputError, match="object"):
        captioned(template="a photo")
    with pytest.raises(InputError, match="old_captions"):
        captioned(old="all")
    with pytest.raises(InputError, match="min_side"):
        captioned(least=-1)
    with pytest.raises(DataError, match="no such folder"):
        CaptionFolder().execute("nothing", "captioned", NONE, "{object}", "", "keep", 0, True)
    with pytest.raises(BundleError, match="no language model"):
        captioned(model="not-there")


@pytest.fixture
def blip(tiny_weights, tmp_path, monkeypatch):
    """A tiny BLIP with random weights, in a folder as the Hub has them."""
    transformers = pytest.importorskip("transformers")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "red", "chair", "[DEC]"]
    text = {
        "vocab_size": len(words), "hidden_size": 16, "encoder_hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1,
        "num_attention_heads": 2, "max_position_embeddings": 64, "bos_token_id": 8, "sep_token_id": 3, "pad_token_id": 0, "eos_token_id": 3,
    }  # fmt: skip
    vision = {
        "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 16, "patch_size": 8,
    }  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        config = transformers.BlipConfig(vision_config=vision, text_config=text, projection_dim=16)
        network = transformers.BlipForConditionalGeneration(config)
    folder = tmp_path / "llm" / "tiny-blip"
    network.save_pretrained(folder)
    (folder / "vocab.txt").write_text("\n".join(words) + "\n", encoding="utf-8")
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "BertTokenizer"}), encoding="utf-8")
    (folder / "preprocessor_config.json").write_text(json.dumps({"size": {"height": 16, "width": 16}}), encoding="utf-8")
    monkeypatch.setattr(paths, "language_model_dirs", lambda: [tmp_path / "llm"])
    return folder


def test_a_captioning_model_writes_what_transformers_writes(blip):
    from transformers import BlipForConditionalGeneration

    assert list_captioners() == ["tiny-blip"]
    captioner = load_captioner(blip)
    pixels = np.asarray(picture(0))
    (text,) = captioner.captions([pixels])
    network = BlipForConditionalGeneration.from_pretrained(blip).eval()
    given = captioner._prepared(pixels)[None]
    ids = network.generate(pixel_values=given, max_new_tokens=48, do_sample=False)[0]
    assert text == " ".join(captioner.tokenizer.decode(ids, skip_special_tokens=True).split())
    assert given.shape == (1, 3, 16, 16) and abs(float(given.mean())) < 2


def test_a_folder_is_captioned_by_it(pictures, blip):
    texts, _ = captioned(model="tiny-blip", template="{object}, on white", old="drop")
    assert len(texts) == 3 and all(text.endswith(", on white") for (text,) in texts.values())


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("preprocessor_config.json", {"size": 100_000}, "size of pictures"),
        ("preprocessor_config.json", {"size": 16, "image_std": [0, 0, 0]}, "image_std"),
        ("preprocessor_config.json", {"size": 16, "image_mean": "x"}, "image_mean"),
    ],
)
def test_settings_that_make_no_pictures_are_refused(blip, name, content, says):
    (blip / name).write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(BundleError, match=says):
        load_captioner(blip)


def test_other_models_are_refused(blip):
    settings = json.loads((blip / "config.json").read_text(encoding="utf-8"))
    (blip / "config.json").write_text(json.dumps(settings | {"model_type": "llava"}), encoding="utf-8")
    with pytest.raises(BundleError, match="kind 'llava'"):
        load_captioner(blip)
    assert list_captioners() == []


def test_the_command_does_the_same(pictures, capsys):
    from rapiddraw.cli import main

    assert main(["data", "card", str(pictures)]) == 0
    assert "3 usable pictures" in capsys.readouterr().out
    out = paths.output_dir() / "by-command"
    assert main(["data", "caption", str(pictures), "--out", str(out), "--template", "a photo of {object}", "--subject", "my cat"]) == 0
    rows = [json.loads(line) for line in (out / "captions.jsonl").read_text(encoding="utf-8").splitlines()]
    assert sorted(row["captions"][0]["text"] for row in rows) == ["a door by hand", "a photo of my cat", "a photo of my cat"]
