"""Filter Dataset by a user's own CLIP, CLIP_VISION and aesthetic head."""

from __future__ import annotations

import json

import pytest
import torch
from rapiddraw.core import paths
from rapiddraw.core.bundles.find import resolve_bundle
from rapiddraw.core.bundles.load import load_bundle
from rapiddraw.core.errors import BundleError, InputError
from rapiddraw.core.host import current
from rapiddraw.core.text.image_tower import load_image_tower
from rapiddraw.nodes.dataset import FilterDataset, OrchardDataset
from rapiddraw.tests.nodes.test_dataset_nodes import LIMITS
from safetensors.torch import save_file


class Vision:
    """The tiny image tower behind ComfyUI's CLIP_VISION; with `width`, another network of as many features."""

    def __init__(self, width=0):
        self.tower = load_image_tower(load_bundle(resolve_bundle("tiny-image.safetensors", "image"), "image"))
        self.width = width

    def encode_image(self, image):
        made = self.tower(image.movedim(-1, 1) * 2 - 1)
        return {"image_embeds": torch.ones(len(image), self.width) if self.width else made}


@pytest.fixture
def drawn(tiny_pack):
    return OrchardDataset().execute("mine", 5, 64, 0.0, 0)["result"][0]


@pytest.fixture
def clip(tiny_pack):
    return current().clip.load(resolve_bundle("tiny-text.safetensors", "text"))


def filtered(drawn, out, **changes):
    with torch.inference_mode():
        return FilterDataset().execute(drawn, out, **{**LIMITS, **changes})["result"]


def measures(tiny_pack, out):
    lines = (tiny_pack / "output" / out / "filter.jsonl").read_text(encoding="utf-8").splitlines()
    return {row["file_name"]: row["values"] for row in map(json.loads, lines)}


def test_a_clip_and_a_clip_vision_score_as_the_same_networks_of_a_scorer(drawn, clip, tiny_pack):
    filtered(drawn, "scorer", min_clip=-0.99, scorer="tiny-text.safetensors")
    _, report, _ = filtered(drawn, "own", min_clip=-0.99, clip=clip, clip_vision=Vision())
    ours, theirs = measures(tiny_pack, "own"), measures(tiny_pack, "scorer")
    assert ours.keys() == theirs.keys() and len(ours) == 5
    assert all(ours[name]["clip"] == pytest.approx(theirs[name]["clip"], abs=2e-3) for name in ours)
    assert "plain colours rightly: they may not have been trained together" in report
    assert "colours" not in filtered(drawn, "no-texts", clip=clip, clip_vision=Vision(), max_likeness=0.999)[1]


def test_a_head_scores_and_near_copies_are_left_out(drawn, tiny_pack):
    head = {"weight": torch.zeros(1, 16), "bias": torch.tensor([4.5])}
    save_file(head, paths.weights_dirs()[0] / "my-aesthetic.safetensors")
    assert "my-aesthetic.safetensors" in FilterDataset.INPUT_TYPES()["optional"]["aesthetic_head"][0]
    given = {"clip_vision": Vision(), "aesthetic_head": "my-aesthetic.safetensors"}
    assert "kept 5 of 5" in filtered(drawn, "a", **given, min_score=4.0)[1]
    _, report, _ = filtered(drawn, "b", **given, min_score=5.0)
    assert "kept 0 of 5" in report and "left out for aesthetic score: 5" in report and "score: 4.500 to 4.500" in report
    assert "kept 1 of 5" in filtered(drawn, "c", clip_vision=Vision(16), max_likeness=0.9)[1]
    first = FilterDataset.IS_CHANGED("mine", aesthetic_head="my-aesthetic.safetensors")
    save_file({**head, "bias": torch.tensor([5.5])}, paths.weights_dirs()[0] / "my-aesthetic.safetensors")
    assert FilterDataset.IS_CHANGED("mine", aesthetic_head="my-aesthetic.safetensors") != first


def test_networks_that_do_not_fit_are_refused_before_any_picture_is_measured(drawn, clip, monkeypatch):
    monkeypatch.setattr("rapiddraw.core.data.filters._Measurer.__call__", lambda *_: pytest.fail("measured first"))
    save_file({"weight": torch.zeros(1, 8), "bias": torch.zeros(1)}, paths.weights_dirs()[0] / "aesthetic-8.safetensors")
    for changes, words in (
        ({"clip": clip, "min_clip": 0.1}, "clip need a CLIP_VISION"),
        ({"aesthetic_head": "aesthetic-8.safetensors", "min_score": 1.0}, "aesthetic_head need a CLIP_VISION"),
        (
            {"aesthetic_head": "aesthetic-8.safetensors", "clip_vision": Vision()},
            "scores embeddings of 8 features and the CLIP_VISION gives 16",
        ),
        ({"clip": clip, "clip_vision": Vision(20), "min_clip": 0.1}, "the CLIP gives vectors of 16 features and the CLIP_VISION of 20"),
        ({"max_likeness": 0.9}, "link clip_vision"),
        ({"min_score": 1.0, "clip_vision": Vision()}, "needs an aesthetic head"),
    ):
        with pytest.raises(InputError, match=words):
            filtered(drawn, "out", **changes)
    with pytest.raises(BundleError, match="no file named 'aesthetic-none.pth'"):
        filtered(drawn, "out", aesthetic_head="aesthetic-none.pth", clip_vision=Vision())
