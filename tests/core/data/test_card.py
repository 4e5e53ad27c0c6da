"""A data card names what a folder holds, what is left out, and why."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image
from rapiddraw.core.data.card import data_card
from rapiddraw.core.errors import DataError


def picture(seed=0, size=(64, 48)):
    small = np.random.default_rng(seed).integers(0, 255, (6, 8, 3), dtype=np.uint8)
    return Image.fromarray(small).resize(size, Image.Resampling.BICUBIC)


def test_counts_sizes_captions_copies_and_reasons(tmp_path):
    picture(0).save(tmp_path / "a.png")
    picture(0, (128, 96)).save(tmp_path / "b.jpg", quality=95)
    picture(1, (48, 64)).save(tmp_path / "c.png")
    picture(2, (20, 20)).save(tmp_path / "d.png")
    (tmp_path / "e.png").write_bytes(b"nothing")
    (tmp_path / "a.txt").write_text("a red door", encoding="utf-8")
    card = data_card(tmp_path, least=32)
    assert [item.path.name for item in card.usable] == ["a.png", "c.png"] and card.duplicates == (("a.png", "b.jpg"),)
    text = card.text()
    assert "2 usable pictures" in text and "1 captions of 3 to 3 words; 1 pictures have none" in text and "a.png = b.jpg" in text
    assert "smaller than 32 px: 1 (d.png)" in text and "e.png" in text and "1 wide" in text and "1 tall" in text
    assert len(data_card(tmp_path, copies=False).usable) == 4
    assert [item.path.name for item in data_card(tmp_path, captions=True).usable] == ["a.png"]


def test_a_folder_without_pictures_is_refused(tmp_path):
    with pytest.raises(DataError, match="holds no pictures"):
        data_card(tmp_path)


def test_no_two_of_many_pictures_are_taken_for_copies(tmp_path):
    for seed in range(20):
        picture(seed, (96, 72)).save(tmp_path / f"{seed}.png")
    Image.new("RGB", (40, 40), (7, 7, 7)).save(tmp_path / "dark.png")
    Image.new("RGB", (40, 40), (90, 90, 90)).save(tmp_path / "grey.png")
    assert len(data_card(tmp_path).usable) == 22
