"""Attribute accuracy by picture, and FID-A that needs a thousand pictures."""

from __future__ import annotations

import pytest
import torch
from rapiddraw.core.metrics.orchard import AA_ATTRIBUTES, LEAST_FOR_FID, accuracy_by_picture, evaluation_scenes, fid_a, to_pictures
from rapiddraw.core.scoring.judge import attribute_accuracy, labels


def test_the_mean_over_pictures_is_the_accuracy_over_attributes() -> None:
    scenes = [scene for _, scene in evaluation_scenes("seen", 12)]
    predicted = {name: values.clone() for name, values in labels(scenes).items()}
    assert accuracy_by_picture(predicted, scenes, AA_ATTRIBUTES).tolist() == [1.0] * 12
    predicted["shape"][:3] += 1
    predicted["sky"][2] += 1
    found = accuracy_by_picture(predicted, scenes, AA_ATTRIBUTES)
    assert found.mean() == pytest.approx(attribute_accuracy(predicted, scenes, AA_ATTRIBUTES)["AA"])
    assert found.tolist() == pytest.approx([5 / 6, 5 / 6, 4 / 6, *[1.0] * 9])


def test_fid_a_is_not_given_from_few_pictures() -> None:
    features = torch.randn(LEAST_FOR_FID, 4, generator=torch.Generator().manual_seed(0))
    assert fid_a(features[1:], features) is None and fid_a(features, features[1:]) is None
    assert fid_a(features, features) == pytest.approx(0, abs=1e-6)


def test_an_image_becomes_the_pictures_of_the_judge() -> None:
    image = torch.rand(2, 4, 6, 3)
    pictures = to_pictures(image)
    assert pictures.shape == (2, 3, 4, 6) and torch.equal(pictures[:, 1], image[..., 1] * 2 - 1)
