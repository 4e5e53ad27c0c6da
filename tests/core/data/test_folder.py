"""core.data.folder: both layouts read, every malformed one named by file and line."""

from __future__ import annotations

import json
import os
import unicodedata
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from rapiddraw.core.data.filters import write_subset
from rapiddraw.core.data.folder import ImageFolder, check_folder
from rapiddraw.core.data.rows import MAX_CAPTION
from rapiddraw.core.errors import DataError, InputError, RapidDrawError
from rapiddraw.core.paths import safe_join


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


def texts(data):
    return {item.path.name: [caption.text for caption in item.captions] for item in data.items}


def test_hidden_files_and_folders_are_not_read(tmp_path):
    for name in ("a.png", ".ipynb_checkpoints/a-checkpoint.png", ".hidden.png", "sub/.git/b.png", "__MACOSX/._a.png", "._a.png"):
        picture(tmp_path / name)
    (tmp_path / "a.txt").write_text("apple")
    assert texts(ImageFolder(tmp_path)) == {"a.png": ["apple"]}
    assert check_folder(tmp_path) == (1, [])


def test_every_kind_that_pillow_reads_is_read(tmp_path):
    for name in ("a.png", "b.tiff", "c.gif", "d.jfif", "e.webp", "f.bmp", "g.avif", "h.TIF", "i.ppm"):
        kind = {"d.jfif": "JPEG"}.get(name)
        Image.new("RGB", (32, 24), (200, 30, 60)).save(tmp_path / name, kind)
        (tmp_path / name).with_suffix(".txt").write_text(name)
    data = ImageFolder(tmp_path)
    assert [item.captions[0].text for item in data.items] == [item.path.name for item in data.items] and len(data) == 9
    assert all(abs(data.pixels(i).astype(int).mean(axis=(0, 1)) - (200, 30, 60)).max() < 12 for i in range(9))
    assert check_folder(tmp_path) == (9, []) and data.passed_over == ()


def test_other_kinds_are_counted_and_named(tmp_path, caplog):
    picture(tmp_path / "a.png")
    (tmp_path / "a.txt").write_text("apple")
    for name in ("b.heic", "c.JXL", "film.mp4", "notes.pdf"):
        (tmp_path / name).write_bytes(b"something")
    (tmp_path / "film.txt").write_text("a film with a caption")
    data = ImageFolder(tmp_path)
    assert (len(data), data.passed_over) == (1, ("b.heic", "c.JXL", "film.mp4"))
    assert "passed over 3" in caplog.text and "b.heic" in caplog.text
    good, problems = check_folder(tmp_path)
    assert good == 1 and [problem.split(":")[0] for problem in problems] == ["b.heic", "c.JXL", "film.mp4"]
    (tmp_path / "a.png").unlink()
    with pytest.raises(DataError, match="holds no images.*passed over 3.*b.heic"):
        ImageFolder(tmp_path)


def test_a_name_that_is_no_utf8_is_counted(tmp_path, capsys):
    (picture(tmp_path / "a.png").with_suffix(".txt")).write_text("apple")
    try:
        (tmp_path / os.fsdecode(b"b\xff.png")).write_bytes((tmp_path / "a.png").read_bytes())
    except OSError:
        pytest.skip("this disk takes names in UTF-8 only")
    data = ImageFolder(tmp_path)
    assert len(data) == 1 and data.passed_over == ("'b\\udcff.png'",)
    print("\n".join(check_folder(tmp_path)[1]).encode())


@pytest.mark.parametrize("listed", ["NFC", "NFD"])
@pytest.mark.parametrize("kept", ["NFC", "NFD"])
def test_names_compare_in_one_unicode_form(tmp_path, listed, kept):
    name = "\u00e9t\u00e9/\ud55c.png"
    on_disk = unicodedata.normalize(kept, name)
    picture(tmp_path / on_disk)
    picture(tmp_path / "maps/edges" / unicodedata.normalize(listed, "\ud55c.png"), colour=(9, 9, 9))
    index(tmp_path, {"file_name": unicodedata.normalize(listed, name), "text": "summer"})
    data = ImageFolder(tmp_path)
    assert data.items[0].path.is_file() and data.map(0, "edges").max() == 9
    write_subset(tmp_path, data.items, tmp_path.parent / "out")
    assert texts(ImageFolder(tmp_path.parent / "out")) == texts(data)
    assert ImageFolder(tmp_path.parent / "out").map(0, "edges").max() == 9
    (tmp_path / "captions.jsonl").unlink()
    (tmp_path / on_disk).with_name(unicodedata.normalize(listed, "\ud55c.TXT")).write_text("summer")
    assert texts(ImageFolder(tmp_path)) == {Path(on_disk).name: ["summer"]}


@pytest.mark.parametrize("text", ["A.txt", "A.TXT", "A.Txt"])
def test_endings_in_capitals(tmp_path, text):
    picture(tmp_path / "A.PNG")
    (tmp_path / text).write_text("apple")
    assert texts(ImageFolder(tmp_path)) == {"A.PNG": ["apple"]}
    index(tmp_path, {"file_name": "A.png", "text": "pear"})
    assert texts(ImageFolder(tmp_path)) == {"A.PNG": ["pear"]}


def test_the_name_as_it_stands_comes_first(tmp_path):
    picture(tmp_path / "A.PNG", colour=(1, 1, 1))
    picture(tmp_path / "A.png", colour=(2, 2, 2))
    index(tmp_path, *({"file_name": name, "text": name} for name in ("A.png", "A.PNG")))
    data = ImageFolder(tmp_path)
    assert [data.pixels(i).max() for i in range(2)] == [2, 1]


@pytest.mark.parametrize(
    "row",
    [
        {"file_name": "\ud800.png", "text": "x"},
        {"file_name": "a.png", "text": "half a pair \ud83c"},
        {"file_name": "a.png", "captions": [{"text": "x", "language": "\udcff"}]},
        {"file_name": "a.png", "text": "x", "entity": "\ud800"},
        {"file_name": "a.png", "text": "x", "scene": {"\ud800": 1}},
    ],
)
def test_a_lone_surrogate_is_refused_by_line(tmp_path, row):
    picture(tmp_path / "a.png")
    index(tmp_path, {**GOOD, "text": "a whole pair \U0001f34e"}, row)
    with pytest.raises(DataError, match="line 2: .*surrogate") as error:
        ImageFolder(tmp_path)
    str(error.value).encode()


def test_a_folder_named_by_half_a_pair_is_refused():
    for name in ("\ud800", "a/\udcff/b"):
        with pytest.raises(InputError, match="surrogate") as error:
            safe_join("input", name)
        str(error.value).encode()


def test_text_files_that_cannot_be_read_are_named(tmp_path):
    picture(tmp_path / "a.png")
    (tmp_path / "a.txt").write_bytes(b"\xff\xfe")
    with pytest.raises(DataError, match="a.png: a.txt is not UTF-8"):
        ImageFolder(tmp_path)
    (tmp_path / "a.txt").write_bytes(b"x" * (2**20 + 1))
    with pytest.raises(DataError, match="a.txt is longer"):
        ImageFolder(tmp_path)


def test_a_file_of_another_kind_behind_a_pictures_name_is_not_opened(tmp_path):
    """Pillow goes by the content: an EPS file would start another program."""
    picture(tmp_path / "a.png")
    (tmp_path / "b.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 64 64\n%%EndComments\nquit\n")
    with pytest.raises(DataError, match="not a readable image"):
        ImageFolder(tmp_path, captions=False).pixels(1)


def test_what_nobody_may_read_is_named(tmp_path, monkeypatch):
    (picture(tmp_path / "sub" / "a.png").with_suffix(".txt")).write_text("apple")
    index(tmp_path, {"file_name": "sub/a.png", "text": "apple"})

    def refuse(path, *_, **__):
        raise PermissionError(13, "Permission denied", str(path))

    with monkeypatch.context() as context:
        context.setattr("pathlib.Path.open", refuse)
        with pytest.raises(DataError, match="captions.jsonl cannot be read"):
            ImageFolder(tmp_path)
    (tmp_path / "captions.jsonl").unlink()
    monkeypatch.setattr("os.scandir", refuse)
    with pytest.raises(DataError, match="cannot be read"):
        ImageFolder(tmp_path)
    assert "cannot be read" in check_folder(tmp_path)[1][0]
