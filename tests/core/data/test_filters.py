"""Filters keep what is good, lose nothing, and never leave their folders."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image
from rapiddraw.core.data.filters import MEASURED, Limits, _Seen, filter_folder, write_subset
from rapiddraw.core.data.folder import ImageFolder
from rapiddraw.core.data.sheet import contact_sheet
from rapiddraw.core.data.spoil import TRUTH, write_crawl
from rapiddraw.core.data.watermark import SIDE, find_watermark, thumbnail
from rapiddraw.core.errors import DataError, InputError
from rapiddraw.core.scoring.aesthetics import appearance
from rapiddraw.core.scoring.clip_score import load_scorer
from rapiddraw.core.scoring.vision import AestheticHead, Vision
from rapiddraw.core.text.picture_reader import PictureReader


@pytest.fixture(scope="module")
def crawl(tmp_path_factory):
    """48 pictures, half of them spoiled."""
    return write_crawl(tmp_path_factory.mktemp("crawl") / "web", 48, 128, seed=3, spoiled=0.5)


@pytest.fixture(scope="module")
def truth(crawl):
    return json.loads((crawl / TRUTH).read_text())


def picture(folder, name, width, height, seed=0):
    pixels = np.random.default_rng(seed).integers(0, 255, (height, width, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(folder / name)
    return folder / name


def test_a_crawl_is_written_once(crawl):
    before = (crawl / "captions.jsonl").stat().st_mtime_ns
    assert write_crawl(crawl, 48, 128, seed=3, spoiled=0.5) == crawl and (crawl / "captions.jsonl").stat().st_mtime_ns == before
    with pytest.raises(InputError, match="already holds"):
        write_crawl(crawl, 47, 64)


def test_size_and_shape(tmp_path):
    for name, width, height in (("a.png", 64, 64), ("b.png", 32, 40), ("c.png", 300, 64)):
        picture(tmp_path, name, width, height)
    found = filter_folder(tmp_path, Limits(min_side=48, max_aspect=2.0))
    assert [row.file_name for row in found.kept] == ["a.png"] and found.folder is None
    assert {row.file_name: row.reasons for row in found.dropped} == {"b.png": ["resolution"], "c.png": ["aspect ratio"]}
    assert "kept 1 of 3" in found.report and "resolution: 1" in found.report
    assert len(filter_folder(tmp_path, Limits()).kept) == 3


def test_a_picture_cut_short_is_left_out_and_the_rest_goes_on(tmp_path):
    root = tmp_path / "in"
    root.mkdir()
    for name in ("a.png", "b.png", "c.png"):
        whole = picture(root, name, 64, 64, seed=ord(name[0]))
    (root / "b.png").write_bytes(whole.read_bytes()[:3000])
    (root / "d.png").write_bytes(b"no picture")
    (root / "e.heic").write_bytes(b"another kind")
    found = filter_folder(root, Limits(min_side=48, aesthetics=0.001, watermark=0.9), tmp_path / "out")
    assert [row.file_name for row in found.kept] == ["a.png", "c.png"]
    assert {row.file_name: row.reasons for row in found.dropped} == {"b.png": ["unreadable"], "d.png": ["unreadable"]}
    assert "unreadable: 2" in found.report and "passed over 1" in found.report and "e.heic" in found.report
    assert len(ImageFolder(tmp_path / "out", captions=False)) == 2
    sheet = contact_sheet([root / "a.png"], [root / row.file_name for row in found.dropped])
    assert sheet.isfinite().all()
    (root / "a.png").unlink(), (root / "c.png").unlink()
    assert filter_folder(root, Limits(watermark=0.5)).kept == ()


def test_another_picture_of_the_same_name_takes_the_old_ones_place(tmp_path):
    for folder, seed in (("one", 1), ("two", 2)):
        (tmp_path / folder).mkdir()
        picture(tmp_path / folder, "a.png", 32, 32, seed)
        (tmp_path / folder / "a.png").chmod(0o600)
        write_subset(tmp_path / folder, ImageFolder(tmp_path / folder, captions=False).items, tmp_path / "out")
        assert (tmp_path / "out" / "a.png").read_bytes() == (tmp_path / folder / "a.png").read_bytes()
        assert (tmp_path / folder / "a.png").stat().st_mode & 0o777 == 0o600, "the first folder stays as it was"
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [".rapiddraw-subset", "a.png", "captions.jsonl"]


def test_what_is_blurred_looks_worse(crawl, truth):
    found = filter_folder(crawl, Limits(aesthetics=0.001))
    scores = {row.file_name: row.values["aesthetics"] for row in (*found.kept, *found.dropped)}
    blurred = [scores[name] for name, flaw in truth.items() if flaw == "blur"]
    whole = [score for name, score in scores.items() if truth.get(name) not in ("blur", "mark")]
    assert np.mean(blurred) < np.mean(whole) - 0.1


def test_marks_are_found_and_scenes_are_not_taken_for_them(crawl, truth, tmp_path):
    found = filter_folder(crawl, Limits(watermark=0.5))
    marked = {name for name, flaw in truth.items() if flaw == "mark"}
    refused = {row.file_name for row in found.dropped}
    assert len(refused & marked) >= 0.8 * len(marked) and len(refused - marked) <= 3
    clean = write_crawl(tmp_path / "clean", 32, 128, seed=5)
    assert not filter_folder(clean, Limits(watermark=0.5)).dropped


def test_a_mark_needs_pictures():
    assert find_watermark(torch.rand(40, 3, SIDE, SIDE)) is None and find_watermark(torch.zeros(9, 3, SIDE, SIDE)) is None
    assert thumbnail(torch.rand(3, 50, 300)).shape == (3, SIDE, SIDE)


def test_the_clip_score_is_that_of_the_best_caption(crawl, tiny_weights):
    scorer = load_scorer(tiny_weights / "tiny-text.safetensors")
    found = filter_folder(crawl, Limits(clip=-0.99), scorer=scorer)
    folder = ImageFolder(crawl)
    best = max(float(scorer.score(folder.image(0)[None], [caption.text])[0]) for caption in folder.items[0].captions)
    assert found.kept[0].values["clip"] == pytest.approx(best, abs=1e-3)
    with pytest.raises(InputError, match="scorer"):
        filter_folder(crawl, Limits(clip=0.1))


def test_what_is_kept_is_a_folder_and_nothing_is_lost(crawl, truth, tmp_path):
    before = sorted((path, path.read_bytes()) for path in crawl.rglob("*") if path.is_file())
    found = filter_folder(crawl, Limits(aesthetics=0.4), tmp_path / "good")
    folder = ImageFolder(tmp_path / "good")
    assert len(folder) == len(found.kept) and 0 < len(folder) < 48
    rows = [json.loads(line) for line in (tmp_path / "good" / MEASURED).read_text().splitlines()]
    assert len(rows) == 48 and sum(not row["reasons"] for row in rows) == len(folder)
    kept = {item.path.name: item for item in ImageFolder(crawl).items}
    assert all(item.captions == kept[item.path.name].captions and item.scene == kept[item.path.name].scene for item in folder.items)
    again = filter_folder(crawl, Limits(), tmp_path / "good")  # the same folder, written anew
    assert len(ImageFolder(tmp_path / "good")) == len(again.kept) == 48
    assert before == sorted((path, path.read_bytes()) for path in crawl.rglob("*") if path.is_file())


def test_maps_go_along(tmp_path):
    source = tmp_path / "in"
    (source / "maps" / "edges").mkdir(parents=True)
    picture(source, "a[1].png", 32, 32)
    picture(source / "maps" / "edges", "a[1].png", 32, 32)
    (source / "a[1].txt").write_text("a fruit")
    write_subset(source, ImageFolder(source).items, tmp_path / "out")
    assert (tmp_path / "out" / "maps" / "edges" / "a[1].png").is_file() and ImageFolder(tmp_path / "out").items[0].captions


def test_no_folder_is_mixed_with_another(crawl, tmp_path):
    items = ImageFolder(crawl).items[:1]
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("x")
    for out in (crawl, crawl / "inside", crawl.parent, tmp_path / "full"):
        with pytest.raises(DataError):
            write_subset(crawl, items, out)
    assert (tmp_path / "full" / "mine.txt").read_text() == "x"


@pytest.mark.parametrize(
    "limits",
    [{"min_side": -1}, {"max_aspect": 0.5}, {"max_aspect": float("nan")}, {"aesthetics": 2.0}, {"clip": float("nan")}, {"watermark": -0.1}],
)
def test_limits_that_make_no_sense_are_refused(tmp_path, limits):
    with pytest.raises(InputError):
        filter_folder(tmp_path, Limits(**limits))


def test_looks_are_bounded_and_flat_pictures_have_none():
    flat = appearance(torch.full((3, 40, 40), 0.5))
    assert flat["sharpness"] == flat["contrast"] == flat["colour"] == 0.0
    for seed in range(5):
        found = appearance(torch.rand(3, 300, 40, generator=torch.Generator().manual_seed(seed)))
        assert all(0 <= value <= 1 for value in found.values())


def test_a_sheet_shows_both(crawl):
    paths = [item.path for item in ImageFolder(crawl).items]
    assert contact_sheet(paths[:3], paths[3:20]).shape == (1, 3 * 104, 832, 3) and contact_sheet([], []).shape == (1, 104, 832, 3)


def test_a_folder_in_the_way_is_named_before_any_picture_is_measured(tmp_path, monkeypatch):
    (tmp_path / "in").mkdir()
    (tmp_path / "full").mkdir()
    picture(tmp_path / "in", "a.png", 64, 64)
    (tmp_path / "full" / "mine.txt").write_text("x")
    monkeypatch.setattr("rapiddraw.core.data.filters._Measurer.__call__", lambda *rest: pytest.fail("measured before the folder was tried"))
    with pytest.raises(DataError, match="already holds something else"):
        filter_folder(tmp_path / "in", Limits(), tmp_path / "full")


def test_names_that_differ_in_case_alone_are_not_mixed_up_on_a_disk_that_ignores_case(tmp_path):
    root, target = tmp_path / "in", tmp_path / "out"
    root.mkdir()
    for name in ("a.png", "A.png"):
        picture(root, name, 64, 64)
    items = ImageFolder(root, captions=False).items
    assert len(list(write_subset(root, items, target).glob("*.png"))) == 2
    (target / ".RAPIDDRAW-SUBSET").touch()  # what such a disk would show
    with pytest.raises(DataError, match="ignores case"):
        write_subset(root, items, target)


def colours(root):
    """Pictures of two plain colours, each twice with little noise, and captions that name the colour; the last is named wrongly."""
    root.mkdir()
    for name, colour, said in (("a", 200, "red"), ("b", 202, "red"), ("c", 60, "blue"), ("d", 58, "red")):
        pixels = np.full((40, 40, 3), (colour, 20, 255 - colour), dtype=np.uint8)
        Image.fromarray(pixels).save(root / f"{name}.png")
        (root / f"{name}.txt").write_text(f"a {said} thing", encoding="utf-8")
    return root


def seen(head=None, texts=True):
    reader = PictureReader(lambda image: image.mean((1, 2)) - 0.4, 3, {})
    said = {"red": [1.0, 0.0, 0.0], "blue": [0.0, 0.0, 1.0]}
    return Vision(reader, (lambda lines: torch.tensor([said[line.split()[1]] for line in lines])) if texts else None, head)


def test_a_users_networks_find_wrong_captions_dull_pictures_and_near_copies(tmp_path):
    root = colours(tmp_path / "in")
    head = AestheticHead([(torch.tensor([[10.0, 0.0, 0.0]]), torch.tensor([1.0]))])
    found = filter_folder(root, Limits(clip=0.2), vision=seen())
    assert {row.file_name: row.reasons for row in found.dropped} == {"d.png": ["CLIP score"]}
    found = filter_folder(root, Limits(score=3.0), vision=seen(head, texts=False))
    assert [row.file_name for row in found.kept] == ["a.png", "b.png"] and "left out for aesthetic score: 2" in found.report
    found = filter_folder(root, Limits(likeness=0.98), tmp_path / "out", vision=seen(texts=False))
    assert [row.file_name for row in found.kept] == ["a.png", "c.png"] and "likeness to a kept picture: 2" in found.report
    assert len(list(root.iterdir())) == 8 and len(ImageFolder(tmp_path / "out", captions=False)) == 2
    every = filter_folder(root, Limits(clip=0.2, score=3.0, likeness=0.98), vision=seen(head))
    assert [row.file_name for row in every.kept] == ["a.png"] and every.kept[0].values.keys() == {"clip", "score", "likeness"}


@pytest.mark.parametrize(
    ("limits", "vision", "words"),
    [
        (Limits(clip=0.2), seen(texts=False), "a CLIP and a CLIP_VISION"),
        (Limits(score=3.0), seen(), "aesthetic head"),
        (Limits(score=3.0), None, "aesthetic head"),
        (Limits(likeness=0.9), None, "link clip_vision"),
        (Limits(likeness=1.1), seen(), "likeness"),
        (Limits(score=float("nan")), seen(), "score"),
    ],
)
def test_limits_without_their_networks_are_refused(tmp_path, limits, vision, words):
    with pytest.raises(InputError, match=words):
        filter_folder(colours(tmp_path / "in"), limits, vision=vision)


def test_the_table_of_kept_pictures_grows():
    table, rows = _Seen(), torch.nn.functional.normalize(torch.randn(600, 4), dim=-1)
    assert table.likeness(rows[0]) == 0.0
    for row in rows:
        table.add(row)
    assert table.likeness(rows[0]) == pytest.approx(1.0) and table.count == 600 and torch.equal(table.rows[:600], rows)
