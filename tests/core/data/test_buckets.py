"""Resolution buckets: the paper's table, which way round its sizes are, and the index that goes into a conditioning."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from rapiddraw.core.data import buckets
from rapiddraw.core.data.folder import ImageFolder
from rapiddraw.core.orchard.dataset import write_dataset
from rapiddraw.core.orchard.entities import entities
from rapiddraw.core.orchard.render import render, render_maps, render_wide, segmentation_wide
from rapiddraw.core.errors import InputError
from rapiddraw.core.train.inputs.buckets import assign


def test_one_index_means_one_shape_in_both_stages():
    assert len(buckets.STRUCTURE) == len(buckets.TEXTURE) == 11
    for index, (height, width) in enumerate(buckets.STRUCTURE):
        assert buckets.STRUCTURE[10 - index] == (width, height)  # the lists mirror each other: 0 is the widest
        texture = buckets.TEXTURE[index]
        assert math.log(texture[1] / texture[0]) == pytest.approx(math.log(width / height), abs=0.05)
    assert buckets.STRUCTURE[0] == (512, 2048) and buckets.STRUCTURE[buckets.SQUARE] == (1024, 1024)


def test_sizes_are_height_first_and_multiples():
    assert buckets.bucket_size(0) == (512, 2048) and buckets.bucket_size(10) == (2048, 512)
    assert buckets.bucket_sizes() == list(buckets.STRUCTURE) and buckets.bucket_sizes("texture") == list(buckets.TEXTURE)
    tiny = buckets.bucket_sizes("structure", 0.125)
    assert tiny[:6] == [(64, 256), (64, 224), (96, 192), (96, 160), (96, 128), (128, 128)]
    assert tiny[6:] == [(w, h) for h, w in tiny[4::-1]]
    assert all(side % 32 == 0 for size in tiny for side in size)
    assert buckets.bucket_sizes("structure", 0.125, 8)[1] == (64, 240)


@pytest.mark.parametrize(
    "given_", [{"index": 11}, {"index": -1}, {"index": True}, {"index": 1.5}, {"stage": "both"}, {"scale": 0.0}, {"scale": float("nan")},
               {"scale": 9.0}, {"multiple": 7}],
)  # fmt: skip
def test_sizes_that_cannot_be_are_refused(given_):
    with pytest.raises(InputError):
        buckets.bucket_size(**{"index": 0, **given_})


@given(st.integers(1, 5000), st.integers(1, 5000))
def test_the_nearest_bucket_is_the_nearest_and_turns_with_the_picture(height, width):
    sizes = list(buckets.STRUCTURE)
    found = buckets.nearest_bucket(height, width)

    def far(index):
        return abs(math.log(sizes[index][1] / sizes[index][0]) - math.log(width / height))

    assert far(found) <= min(far(i) for i in range(11)) + 1e-12
    turned = buckets.nearest_bucket(width, height)
    assert far(10 - turned) == pytest.approx(far(found), abs=1e-9)


def test_each_bucket_is_its_own_nearest():
    for stage in buckets.TABLES:
        sizes = buckets.bucket_sizes(stage)
        assert [buckets.nearest_bucket(*size, sizes) for size in sizes] == list(range(11))


def test_the_embedding_tells_indices_apart_and_is_cosine_first():
    rows = buckets.index_embedding(torch.arange(11))
    assert rows.shape == (11, 256) and torch.equal(rows[0], torch.cat([torch.ones(128), torch.zeros(128)]))
    assert rows[3, 0] == pytest.approx(math.cos(3)) and rows[3, 128] == pytest.approx(math.sin(3))
    assert torch.pdist(rows).min() > 0.1


def test_without_an_index_the_latents_own_shape_counts():
    pooled = torch.randn(2, 32)
    given_ = buckets.index_condition(pooled, 10, 32, (2, 4, 32, 8))
    assert given_.shape == (2, 288) and torch.equal(given_, buckets.index_condition(pooled, None, 32, (2, 4, 32, 8)))
    assert torch.equal(buckets.index_condition(None, 0, 32, (1, 4, 8, 8))[:, :32], torch.zeros(1, 32))
    with pytest.raises(InputError, match="32 features"):
        buckets.index_condition(torch.zeros(1, 31), 0, 32, (1, 4, 8, 8))


def test_choices_name_width_first():
    rows = buckets.aspect_choices()
    assert rows[0] == "0: 4:1 (2048x512)" and rows[4] == "4: 4:3 (1152x864)"
    assert [buckets.index_of_choice(row) for row in rows] == list(range(11))
    with pytest.raises(InputError, match="no row"):
        buckets.index_of_choice("12: 1:1")


def test_an_empty_latent_is_as_high_as_it_should_be():
    latent = buckets.empty_latent(64, 256, 2)
    assert latent["samples"].shape == (2, 4, 8, 32)
    with pytest.raises(InputError):
        buckets.empty_latent(64, 256, 0)


def test_a_wide_picture_has_the_square_one_in_it():
    import random

    scene = entities()[0].scene(random.Random(0), position="right", sky="day")
    wide, high, square = render_wide(scene, 64, 128), render_wide(scene, 128, 64), render(scene, 64)
    assert wide.shape == (64, 128, 3) and high.shape == (128, 64, 3)
    assert (wide[:, 64:] == square).mean() > 0.999 and (high[64:] == square).mean() > 0.999
    segments = render_maps(scene, 64)["segmentation"]
    flat, tall = segmentation_wide(scene, 64, 128), segmentation_wide(scene, 128, 64)
    assert (flat[:, 64:] == segments).all() and (tall[64:] == segments).all() and (tall[:64] == 0).all()
    assert (flat[:, :64] == flat[:, :1]).all() and set(flat[:, 0]) == {0, 1}
    with pytest.raises(InputError):
        render_wide(scene, 64, 1024)


def test_pictures_go_to_the_bucket_of_their_shape(tmp_path):
    sizes = buckets.bucket_sizes(scale=0.125)
    folder = write_dataset("train", 11, 64, tmp_path / "set", maps=("segmentation",), shapes=sizes)
    images = ImageFolder(folder)
    assert [images.shape(i) for i in range(11)] == sizes
    assert assign(images, sizes) == [[i] for i in range(11)]
    assert images.fitted(0, 64, 128).shape == (3, 64, 128) and images.fitted_map(0, "segmentation", 64, 128).shape == (64, 128)
    with pytest.raises(InputError, match="segmentation"):
        write_dataset("train", 11, 64, tmp_path / "more", maps=("edges",), shapes=sizes)
    turned = Image.open(images.items[0].path)
    exif = turned.getexif()
    exif[0x0112] = 6  # stored lying, shown standing
    turned.save(images.items[0].path, exif=exif)
    assert images.shape(0) == (sizes[0][1], sizes[0][0]) and images.pixels(0).shape[:2] == images.shape(0)
