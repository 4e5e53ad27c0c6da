"""Dataset nodes, one into the next, inside the input and the output folder."""

from __future__ import annotations

import pytest
from rapiddraw.core.data.folder import ImageFolder
from rapiddraw.core.errors import DataError, InputError
from rapiddraw.nodes.dataset import FilterDataset, OrchardDataset, RecaptionDataset

LIMITS = {
    "min_side": 0,
    "max_aspect": 0.0,
    "min_aesthetics": 0.0,
    "max_watermark": 0.0,
    "min_clip": -1.0,
    "scorer": "none",
    "judge": "none",
}
NEW = {
    "source": "scene", "languages": "en, zh", "captions_each": 1, "least_sure": 0.8, "old_captions": "drop", "min_clip": 0.2, "seed": 0,
    "scorer": "none", "judge": "none",
}  # fmt: skip


def test_from_a_drawing_to_new_captions(tiny_pack):
    drawn = OrchardDataset().execute("mine", 6, 64, 0.5, 0)["result"][0]
    limits = {**LIMITS, "min_clip": -0.99, "scorer": "tiny-text.safetensors", "min_aesthetics": 0.01, "judge": "tiny-judge.safetensors"}
    filtered = FilterDataset().execute(drawn, "sub/good", **limits)
    name, report, sheet = filtered["result"]
    assert name == "sub/good" and "of 6 pictures" in report and filtered["ui"]["text"] == [report] and sheet.shape[-1] == 3
    last = RecaptionDataset().execute(name, "captioned", **NEW)["result"]
    assert last[0] == "captioned" and len(ImageFolder(tiny_pack / "output" / "captioned")) > 0
    before = FilterDataset.IS_CHANGED("mine")
    OrchardDataset().execute("other", 6, 64, 0.0, 1)
    assert before == FilterDataset.IS_CHANGED("mine") != FilterDataset.IS_CHANGED("other")
    assert FilterDataset.IS_CHANGED("gone") == FilterDataset.IS_CHANGED(folder=None)


def test_pictures_may_lie_in_the_input_folder(tiny_pack):
    (tiny_pack / "input" / "own").mkdir()
    OrchardDataset().execute("mine", 1, 64, 0.0, 0)
    (tiny_pack / "output" / "mine" / "images" / "000000.png").rename(tiny_pack / "input" / "own" / "a.png")
    assert "kept 1 of 1" in FilterDataset().execute("own", "good", **LIMITS)["result"][1]


@pytest.mark.parametrize("name", ["../x", "/etc", "", "..", "a/../../b"])
def test_no_name_leaves_its_folder(tiny_pack, name):
    OrchardDataset().execute("mine", 1, 64, 0.0, 0)
    with pytest.raises((InputError, DataError)):
        OrchardDataset().execute(name, 1, 64, 0.0, 0)
    with pytest.raises((InputError, DataError)):
        FilterDataset().execute(name, "good", **LIMITS)
    with pytest.raises((InputError, DataError)):
        FilterDataset().execute("mine", name, **LIMITS)
    with pytest.raises((InputError, DataError)):
        RecaptionDataset().execute("mine", name, **NEW)


def test_a_link_does_not_lead_out(tiny_pack, tmp_path_factory):
    outside = tmp_path_factory.mktemp("outside")
    (tiny_pack / "input" / "link").symlink_to(outside)
    with pytest.raises(InputError, match="outside"):
        FilterDataset().execute("link", "good", **LIMITS)
