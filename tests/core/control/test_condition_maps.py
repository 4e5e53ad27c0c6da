"""Condition maps: Canny finds what is there and nothing else, maps agree with the Orchard's exact ones, segments survive as colours."""

import random

import pytest
import torch
from rapiddraw.core.bundles.format import BundleInfo, save_bundle
from rapiddraw.core.control.maps import canny, condition_map, outline, sketch
from rapiddraw.core.control.segmenter import PALETTE, Segmenter, classes_to_image, image_to_classes, load_segmenter, segment, to_bundle
from rapiddraw.core.errors import BundleError, InputError
from rapiddraw.core.metrics.control import edge_nmse
from rapiddraw.core.metrics.orchard import render_batch
from rapiddraw.core.orchard.render import render_maps
from rapiddraw.core.orchard.world import random_scene
from rapiddraw.tests.helpers import seeded
from torch.nn import functional


def disc(side=64, contrast=1.0):
    y, x = torch.meshgrid(torch.arange(side) - side / 2, torch.arange(side) - side / 2, indexing="ij")
    return ((x**2 + y**2).sqrt() < side / 4).float().mul(contrast).expand(1, 3, -1, -1)


def test_a_step_is_found_once_and_where_it_is():
    picture = torch.zeros(1, 1, 16, 24)
    picture[..., 10:] = 1
    edges = canny(picture)[0]
    assert edges.sum(1).tolist() == [1.0] * 16 and len(set(edges.argmax(1).tolist())) == 1 and int(edges[5].argmax()) in (9, 10)
    assert torch.equal(canny(picture.transpose(2, 3))[0].T, edges)


def test_a_disc_has_a_closed_thin_border_and_a_flat_picture_none():
    edges = canny(disc())[0]
    assert 80 < int(edges.sum()) < 130  # a circle of radius 16 has a border of about 100 pixels
    inside = torch.zeros(64, 64)
    inside[32, 32] = 1
    for _ in range(200):  # a flood from the middle does not get out, stepping to four neighbours
        cross = functional.conv2d(inside[None, None], torch.tensor([[0.0, 1, 0], [1, 1, 1], [0, 1, 0]])[None, None], padding=1)[0, 0]
        inside = (cross > 0).float() * (1 - edges)
    assert inside[0, 0] == 0 and int(inside.sum()) < 900
    assert not canny(torch.full((1, 3, 16, 16), 0.3)).any()


def test_thresholds_are_heights_of_steps_and_weak_edges_need_a_strong_one():
    assert not canny(disc(contrast=0.08)).any() and canny(disc(contrast=0.08), 0.01, 0.02).any()
    picture = torch.zeros(1, 1, 32, 32)
    picture[:, :, :16, 16:], picture[:, :, 16:, 16:] = 0.5, 0.22
    alone = picture.clone()
    alone[:, :, :16] = 0.22
    weak = canny(picture, 0.1, 0.25)[0, 20:28]
    assert weak.any() and not canny(alone, 0.1, 0.25).any()


def test_colours_of_equal_brightness_have_an_edge_between_them():
    picture = torch.zeros(1, 3, 16, 16)
    picture[:, 0, :, :8], picture[:, 1, :, 8:] = 0.587, 0.299
    assert canny(picture)[0].sum() >= 14


def test_canny_and_outline_agree_with_the_exact_maps():
    rng = random.Random(5)
    scenes = [random_scene(rng, style="cartoon", sky="day", pattern="plain") for _ in range(4)]
    pictures = render_batch(scenes, 128) / 2 + 0.5
    maps = [render_maps(scene, 128) for scene in scenes]
    near = functional.max_pool2d(canny(pictures)[:, None], 5, 1, 2)[:, 0].bool()
    exact = torch.stack([torch.from_numpy(m["edges"] > 0) for m in maps])
    assert float((near & exact).sum() / exact.sum()) > 0.8
    drawn = outline(torch.stack([torch.from_numpy(m["segmentation"]).long() for m in maps]))
    strokes = torch.stack([torch.from_numpy(m["sketch"] > 0) for m in maps]).float()
    wide = functional.max_pool2d(strokes[:, None], 5, 1, 2)[:, 0]
    assert float((drawn * wide).sum() / drawn.sum()) > 0.9
    assert sketch(pictures).shape == (4, 128, 128) and set(sketch(pictures).unique().tolist()) == {0.0, 1.0}


def test_strokes_grow_with_the_picture():
    shares = [float(sketch(disc(side)).mean()) for side in (128, 256, 512)]
    assert min(shares) > 0.01 and max(shares) < 1.6 * min(shares)


@pytest.mark.parametrize(
    ("picture", "low", "high", "words"),
    [
        (torch.zeros(3, 8, 8), 0.1, 0.2, "pictures"), (torch.zeros(1, 3, 8, 9000), 0.1, 0.2, "8192"),
        (torch.zeros(1, 3, 8, 8), 0.3, 0.2, "low"), (torch.zeros(1, 3, 8, 8), float("nan"), 0.2, "low"),
        (torch.zeros(1, 3, 8, 8), -1, 0.2, "low"), (torch.zeros(0, 3, 8, 8), 0.1, 0.2, "pictures"),
    ],
)  # fmt: skip
def test_what_is_no_picture_and_no_threshold_is_refused(picture, low, high, words):
    with pytest.raises(InputError, match=words):
        canny(picture, low, high)


def test_segments_survive_as_colours():
    classes = torch.randint(0, len(PALETTE), (2, 5, 6), generator=torch.Generator().manual_seed(0))
    image = classes_to_image(classes)
    assert image.shape == (2, 5, 6, 3)
    noisy = (image + 0.3 * torch.rand(image.shape, generator=torch.Generator().manual_seed(1)) - 0.15).clamp(0, 1)
    assert torch.equal(image_to_classes(noisy), classes)


@pytest.fixture
def tiny(tmp_path):
    network = seeded(lambda: Segmenter(("a", "b", "c"), 16, (4, 8)).eval())
    return save_bundle(tmp_path / "tiny-segmenter.safetensors", *to_bundle(network, {"recipe": "test"}))


def test_a_segmenter_survives_the_disk_and_takes_any_size(tiny):
    network = load_segmenter(tiny)
    assert network.classes == ("a", "b", "c") and not network.training
    pictures = torch.rand(3, 3, 20, 33) * 2 - 1
    found = segment(network, pictures, batch=2)
    assert found.shape == (3, 20, 33) and found.max() < 3
    image = condition_map(pictures.movedim(1, -1) / 2 + 0.5, "segmentation", segmenter=tiny)
    assert torch.equal(image_to_classes(image), found)
    assert condition_map(pictures.movedim(1, -1), "outline", segmenter=tiny).shape == (3, 20, 33, 3)


def test_broken_segmenters_and_wrong_questions_are_refused(tmp_path, tiny):
    network = Segmenter(("a", "b"), 16, (4, 8))
    tensors, info = to_bundle(network, {})
    for change in ({"widths": [4, 16]}, {"size": "big"}, {"classes": ["a"]}, {"size": 15}, {"widths": [10**6, 8]}):
        path = save_bundle(tmp_path / "bad.safetensors", tensors, BundleInfo("segmenter", {**info.config, **change}))
        with pytest.raises(BundleError, match=r"bad\.safetensors"):
            load_segmenter(path)
    image = torch.zeros(1, 8, 8, 3)
    for arguments, words in (
        ((image, "pose"), "type='pose'"),
        ((image, "segmentation"), "needs a segmenter"),
        ((image[0], "canny"), "IMAGE"),
    ):
        with pytest.raises(InputError, match=words):
            condition_map(*arguments)
    assert edge_nmse(torch.zeros(1, 4, 4), torch.zeros(1, 4, 4)).isnan().all()
