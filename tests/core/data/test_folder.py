"""core.data.folder: both layouts read, every malformed one named by file and line."""

from __future__ import annotations

import json
import os

import numpy as np
import pytest
import torch
from PIL import Image
from rapiddraw.core.data.folder import MAX_CAPTION, ImageFolder, check_folder
from rapiddraw.core.errors import DataError, InputError, RapidDrawError


def picture(path, size=(32, 24), colour=(255, 0, 0)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(path)
    return path


def index(root, *rows):
    root.mkdir(parents=True, exist_ok=True)
    (root / "captions.jsonl").write_text(
        "".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows), encoding="utf-8"
    )


@pytest.fixture
def folder(tmp_path):
    for i, colour in enumerate([(255, 0, 0), (0, 255, 0)]):
        picture(tmp_path / f"images/{i:06d}.png", colour=colour)
    captions = [{"text": "one", "language": "en", "kind": "name"}, {"text": "\u4e00", "language": "zh", "kind": "name"}]
    index(
        tmp_path,
        {"file_name": "images/000000.png", "captions": captions, "entity": "e1", "scene": {"sky": "dawn"}},
        "",
        {"file_name": "images/000001.png", "text": "green"},
    )
    return tmp_path


def test_the_documented_layout(folder):
    data = ImageFolder(folder)
    assert len(data) == 2
    assert data.items[0].entity == "e1"
    assert data.items[0].scene == {"sky": "dawn"}
    assert data.items[0].captions[1].language == "zh"
    row = data[1]
    assert row["caption"] == "green"
    assert row["image"].shape == (3, 24, 32)
    assert torch.equal(row["image"][:, 0, 0], torch.tensor([-1.0, 1.0, -1.0]))


def test_a_size_scales_and_crops(folder):
    data = ImageFolder(folder, size=16, cache=True)
    batch = data.batch([0, 1, 0])
    assert batch["image"].shape == (3, 3, 16, 16)
    assert batch["index"].tolist() == [0, 1, 0]
    assert len(batch["caption"]) == 3
    assert torch.equal(batch["image"][0], batch["image"][2])


def test_captions_are_drawn_with_the_generator(folder):
    data = ImageFolder(folder)
    drawn = [data.caption(0, torch.Generator().manual_seed(7)) for _ in range(5)]
    assert len(set(drawn)) == 1
    generator = torch.Generator().manual_seed(1)
    assert {data.caption(0, generator) for _ in range(40)} == {"one", "\u4e00"}


def test_a_users_own_folder_with_text_files(tmp_path):
    picture(tmp_path / "b.jpg")
    (tmp_path / "b.txt").write_text("\ufeffsecond\n\nother words\n", encoding="utf-8")
    picture(tmp_path / "sub" / "a.PNG")
    (tmp_path / "sub" / "a.txt").write_text("first", encoding="utf-8")
    data = ImageFolder(tmp_path)
    assert [[c.text for c in item.captions] for item in data.items] == [["second", "other words"], ["first"]]


def test_strings_as_captions_and_images_without_any(tmp_path):
    picture(tmp_path / "a.png")
    picture(tmp_path / "b.png")
    index(tmp_path, {"file_name": "a.png", "captions": ["x", "y"]}, {"file_name": "b.png"})
    with pytest.raises(DataError, match=r"line 2: b.png has no caption"):
        ImageFolder(tmp_path)
    data = ImageFolder(tmp_path, captions=False)
    assert data.caption(1) == ""
    assert [c.text for c in data.items[0].captions] == ["x", "y"]


def test_transparency_is_on_white_and_grey_16_bit_keeps_its_range(tmp_path):
    Image.new("RGBA", (16, 16), (0, 0, 0, 0)).save(tmp_path / "a.png")
    Image.fromarray(np.full((16, 16), 32896, dtype=np.uint16)).save(tmp_path / "b.png")
    data = ImageFolder(tmp_path, captions=False)
    assert data.pixels(0).min() == 255
    assert data.pixels(1)[0, 0].tolist() == [128, 128, 128]


def test_exif_orientation_is_applied(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (40, 20)).save(tmp_path / "a.jpg", exif=exif)
    assert ImageFolder(tmp_path, captions=False).pixels(0).shape == (40, 20, 3)


def test_maps(folder):
    (folder / "maps" / "edges").mkdir(parents=True)
    Image.new("L", (32, 24), 9).save(folder / "maps/edges/000000.png")
    data = ImageFolder(folder)
    assert data.map(0, "edges").shape == (24, 32)
    with pytest.raises(DataError, match="no edges map for 000001.png"):
        data.map(1, "edges")
    with pytest.raises(InputError):
        data.map(0, "../..")


def test_different_sizes_need_a_size(tmp_path):
    picture(tmp_path / "a.png", (20, 20))
    picture(tmp_path / "b.png", (30, 20))
    with pytest.raises(DataError, match="different sizes"):
        ImageFolder(tmp_path, captions=False).batch([0, 1])


GOOD = {"file_name": "a.png", "text": "x"}


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("{not json", "line 2 is not a JSON object"),
        ("[1]", "line 2: a JSON object is expected"),
        ("[" * 100_000, "line 2"),
        ({"text": "x"}, 'line 2: "file_name" is missing'),
        ({"file_name": 5, "text": "x"}, 'line 2: "file_name"'),
        ({"file_name": "gone.png", "text": "x"}, "'gone.png' is missing"),
        ({"file_name": "../a.png", "text": "x"}, "line 2: .*plain relative name"),
        ({"file_name": "/etc/a.png", "text": "x"}, "plain relative name"),
        ({"file_name": "link.png", "text": "x"}, "leads outside"),
        ({"file_name": "notes.txt", "text": "x"}, "not an image"),
        ({"file_name": "a.png", "captions": "x"}, "must be a list"),
        ({"file_name": "a.png", "captions": [3]}, "a caption must be text"),
        ({"file_name": "a.png", "text": None}, "a caption must be text"),
        ({"file_name": "a.png", "text": "y" * (MAX_CAPTION + 1)}, "at most"),
        ({"file_name": "a.png", "text": "  "}, "no caption"),
        ({"file_name": "a.png", "text": "x", "entity": 3}, '"entity" must be text'),
        ({"file_name": "a.png", "text": "z" * 2**21}, "longer than"),
    ],
)
def test_a_bad_line_is_refused_by_number(tmp_path, row, message):
    root = tmp_path / "root"
    picture(root / "a.png")
    outside = picture(tmp_path / "outside.png")
    os.symlink(outside, root / "link.png")
    (root / "notes.txt").write_text("x")
    index(root, GOOD, row)
    with pytest.raises(DataError, match=message):
        ImageFolder(root)
    good, problems = check_folder(root)
    assert good == 1
    assert len(problems) == 1


def test_bytes_that_are_no_utf8(tmp_path):
    picture(tmp_path / "a.png")
    (tmp_path / "captions.jsonl").write_bytes(b'{"file_name": "a.png", "text": "\xff\xfe"}\n')
    with pytest.raises(DataError, match="line 1"):
        ImageFolder(tmp_path)


def test_images_are_checked_before_they_are_decoded(tmp_path):
    picture(tmp_path / "tiny.png", (4, 40))
    (tmp_path / "fake.png").write_bytes(b"not an image")
    whole = picture(tmp_path / "whole.png", (64, 64)).read_bytes()
    (tmp_path / "cut.png").write_bytes(whole[: len(whole) // 2])
    data = ImageFolder(tmp_path, captions=False)
    for position, message in enumerate(["damaged|cut short", "not a readable image", "4 x 40 pixels"]):
        with pytest.raises(DataError, match=message):
            data.image(position)
    good, problems = check_folder(tmp_path, captions=False)
    assert good == 1
    assert len(problems) == 3


def test_empty_and_missing_folders(tmp_path):
    with pytest.raises(DataError, match="holds no images"):
        ImageFolder(tmp_path)
    with pytest.raises(DataError, match="no such folder"):
        ImageFolder(tmp_path / "nowhere")
    assert check_folder(tmp_path)[1]
    with pytest.raises(RapidDrawError, match="size="):
        ImageFolder(tmp_path, size=3)
