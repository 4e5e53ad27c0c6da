from __future__ import annotations

import pytest
import torch
from rapiddraw.core.errors import InputError
from rapiddraw.core.image import mark
from rapiddraw.core.image.mark import POSITIONS, draw_mark, mark_images


@pytest.mark.parametrize("size", [1, 2, 5, 16, 32, 33, 48, 64, 100, 128, 512])
def test_every_size_gets_a_visible_mark_that_covers_little(size):
    images = torch.full((2, size, size, 3), 0.5)
    marked = mark_images(images)
    changed = (marked != images).any(-1)
    assert bool(changed.any()) and bool((marked[0] == marked[1]).all())
    assert float(marked.min()) >= 0 and float(marked.max()) <= 1
    if size >= 32:
        assert float(changed[0].float().mean()) < 0.4
        assert float(marked.max()) > 0.8 and float(marked.min()) < 0.4, "light text on a dark plate can be read on any picture"
    assert bool((images == 0.5).all()), "the input is untouched"


@pytest.mark.parametrize("position", POSITIONS)
def test_the_mark_stands_in_its_corner(position):
    images = torch.full((1, 96, 160, 3), 0.5)
    rows, columns = torch.where((mark_images(images, position=position) != images).any(-1)[0])
    vertical, horizontal = position.split("_")
    assert (int(rows.min()) == 0) == (vertical == "top") and (int(rows.max()) == 95) == (vertical == "bottom")
    assert (int(columns.min()) == 0) == (horizontal == "left") and (int(columns.max()) == 159) == (horizontal == "right")


def test_opacity_scales_the_change_and_0_is_untouched():
    images = torch.rand(1, 64, 64, 3)
    assert mark_images(images, opacity=0.0) is images
    weak, strong = (float((mark_images(images, opacity=value) - images).abs().sum()) for value in (0.3, 0.9))
    assert weak * 2.9 < strong < weak * 3.1


def test_wide_and_tall_pictures_fit():
    for height, width in ((32, 400), (400, 32), (8, 64), (64, 8)):
        colour, alpha = draw_mark("AI-generated", width, height)
        assert colour.shape == alpha.shape and colour.shape[0] <= height and colour.shape[1] <= width


def test_text_without_glyphs_falls_back_to_latin(monkeypatch):
    chinese = "AI\u751f\u6210"
    monkeypatch.setattr(mark, "_covering_font", lambda text: None)
    draw_mark.cache_clear()
    images = torch.full((1, 256, 256, 3), 0.5)
    assert torch.equal(mark_images(images, chinese), mark_images(images, "AI-generated"))
    draw_mark.cache_clear()
    assert torch.equal(mark_images(images, "  \n "), mark_images(images, "AI-generated")), "an empty text is no way around the mark"


@pytest.mark.parametrize(
    ("options", "reason"),
    [({"position": "middle"}, "choose one of"), ({"opacity": 1.5}, "from 0"), ({"opacity": float("nan")}, "from 0")],
)
def test_wrong_values_are_refused(options, reason):
    with pytest.raises(InputError, match=reason):
        mark_images(torch.zeros(1, 32, 32, 3), **options)
    with pytest.raises(InputError, match="batch, height, width"):
        mark_images(torch.zeros(3, 32, 32))


@pytest.mark.parametrize("channels", [1, 4])
def test_grey_and_transparent_pictures_are_marked(channels):
    images = torch.zeros(1, 64, 64, channels)
    marked = mark_images(images)
    assert marked.shape == images.shape and float(marked[..., 0].max()) > 0.7
    if channels == 4:
        assert float(marked[..., 3].max()) > 0.7, "the mark shows on a transparent picture too"
