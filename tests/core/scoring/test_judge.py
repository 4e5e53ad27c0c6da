"""The judge's two measures: attribute accuracy counts what a scene has, FID-A is the Frechet distance of two Gaussians."""

import random

import numpy as np
import pytest
import torch
from rapiddraw.core.bundles.format import BundleInfo, save_bundle
from rapiddraw.core.errors import BundleError, InputError
from rapiddraw.core.orchard.world import ATTRIBUTES, random_scene
from rapiddraw.core.scoring.aesthetics import confidence, preference
from rapiddraw.core.scoring.judge import IGNORE, Judge, attribute_accuracy, frechet_distance, judge_pictures, labels, load_judge


def scenes(count, **fixed):
    rng = random.Random(2)
    return [random_scene(rng, **fixed) for _ in range(count)]


def test_right_readings_give_one_and_wrong_ones_zero():
    shown = scenes(20)
    truth = labels(shown)
    assert attribute_accuracy(truth, shown)["AA"] == 1.0
    wrong = {name: (row + 1) % len(ATTRIBUTES[name]) for name, row in truth.items()}
    assert attribute_accuracy(wrong, shown, ("shape", "sky")) == {"shape": 0.0, "sky": 0.0, "AA": 0.0}


def test_the_pattern_colour_of_a_plain_fruit_does_not_count():
    plain = scenes(8, pattern="plain")
    assert (labels(plain)["pattern_colour"] == IGNORE).all()
    assert "pattern_colour" not in attribute_accuracy(labels(plain), plain)


def test_pictures_of_any_size_are_judged():
    judge = Judge(width=8).eval()
    for side in (64, 100, 128):
        pictures = torch.rand(3, 3, side, side) * 2 - 1
        predicted, features = judge_pictures(judge, pictures, batch=2)
        assert features.shape == (3, 128) and set(predicted) == set(ATTRIBUTES)
        with torch.no_grad():  # in batches or at once, and a picture alone
            logits, alone = judge(pictures), judge.features(pictures[2:])
        assert all(torch.equal(row, logits[name].argmax(1)) for name, row in predicted.items())
        torch.testing.assert_close(features[2:], alone)


def test_a_judge_survives_its_bundle(tmp_path):
    torch.manual_seed(0)
    judge = Judge(width=8).eval()
    tensors = {name: t for name, t in judge.state_dict().items() if not name.endswith("num_batches_tracked")}
    path = save_bundle(tmp_path / "judge.safetensors", tensors, BundleInfo("judge", {"width": 8}))
    pictures = torch.rand(2, 3, 64, 64)
    assert torch.equal(load_judge(path).features(pictures), judge.features(pictures))
    for config in ({"width": 16}, {"width": 10**9}, {"width": -1}, {"width": "8"}, {"depth": 3}):  # a config that lies costs nothing
        broken = save_bundle(tmp_path / "wide.safetensors", tensors, BundleInfo("judge", config))
        with pytest.raises(BundleError, match="wide"):
            load_judge(broken)


def test_frechet_distance_of_gaussians():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(4000, 6))
    assert frechet_distance(x, x) == pytest.approx(0, abs=1e-8)
    shifted = frechet_distance(x, x + np.array([3.0, 0, 0, 0, 0, 0]))
    assert shifted == pytest.approx(9.0, rel=1e-6)
    # covariances I and 4 I in six dimensions: 6 * (1 + 4 - 2 * 2) = 6
    y = (x - x.mean(0)) * 2 + x.mean(0)
    assert frechet_distance(x, y) == pytest.approx(6.0, rel=0.05)
    assert frechet_distance(x, y) == pytest.approx(frechet_distance(y, x), rel=1e-9)


@pytest.mark.parametrize("other", [np.zeros((1, 6)), np.zeros((5, 4)), np.zeros(6)])
def test_tables_that_have_no_distance_are_refused(other):
    with pytest.raises(InputError, match="feature tables"):
        frechet_distance(np.zeros((5, 6)), other)


def test_confidence_is_the_mean_probability_of_what_the_judge_reads():
    judge, pictures = Judge(width=8).eval(), torch.rand(3, 3, 64, 64) * 2 - 1
    with torch.no_grad():
        for name, head in judge.heads.items():
            head.weight.zero_()
            head.bias.copy_(torch.tensor([0.0] * len(ATTRIBUTES[name])))
    chance = sum(1 / len(values) for values in ATTRIBUTES.values()) / len(ATTRIBUTES)
    assert confidence(judge, pictures, 2).tolist() == pytest.approx([chance] * 3)
    with torch.no_grad():
        for head in judge.heads.values():
            head.bias[0] = 60.0
    assert confidence(judge, pictures, 2).tolist() == pytest.approx([1.0] * 3)


def test_a_finely_drawn_picture_is_preferred_to_a_cartoon():
    judge, pictures = Judge(width=8).eval(), torch.rand(5, 3, 64, 64) * 2 - 1
    with torch.no_grad():
        judge.heads["style"].weight.zero_()
        for value, style in ((0.5, None), (1.0, "fine"), (0.0, "cartoon")):
            judge.heads["style"].bias.copy_(torch.tensor([30.0 * (name == style) for name in ATTRIBUTES["style"]]))
            expected = (confidence(judge, pictures, 2) + value) / 2
            assert torch.allclose(preference(judge, pictures, 2), expected, atol=1e-6)
