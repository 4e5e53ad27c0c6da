"""The nodes of condition maps, metrics and adapters on tiny bundles: what they give, and what they refuse."""

import math

import pytest
import torch
from rapiddraw.core import paths
from rapiddraw.core.control.segmenter import image_to_classes
from rapiddraw.core.errors import BundleError, InputError
from rapiddraw.core.host import current
from rapiddraw.nodes.condition_maps import ConditionMapExtractor, ControllabilityMetrics, EvaluatePictures
from rapiddraw.nodes.kronecker import KroneckerAdapterLoader

SEGMENTER = "tiny-segmenter.safetensors"
SCORE = {"text_name": "tiny-text.safetensors", "image_name": "tiny-image.safetensors", "kg_name": "tiny-kg.safetensors"}


@pytest.fixture(autouse=True)
def _pack(tiny_pack):
    return tiny_pack


@pytest.fixture
def pictures():
    squares = torch.zeros(2, 32, 32, 3)
    squares[0, 8:24, 8:24], squares[1, 4:16, 10:30, 0] = 1, 1
    return squares


def maps(image, kind):
    return ConditionMapExtractor().execute(image, kind, 0.1, 0.2, SEGMENTER)[0]


def test_maps_are_images_and_only_segments_need_a_segmenter(pictures):
    for kind in ("canny", "sketch", "segmentation", "outline"):
        assert maps(pictures, kind).shape == pictures.shape and 0 <= maps(pictures, kind).min() <= maps(pictures, kind).max() <= 1
    assert ConditionMapExtractor().execute(pictures, "canny", 0.1, 0.2, "nothing there")[0].any()
    with pytest.raises(BundleError, match="no segmenter bundle"):
        ConditionMapExtractor().execute(pictures, "segmentation", 0.1, 0.2, "nothing there")


def test_a_picture_follows_its_own_maps_wholly_and_anothers_less(pictures):
    def measured(edges, segmentation, texts=""):
        return ControllabilityMetrics().execute(pictures, texts, **SCORE, low=0.1, high=0.2, segmenter_name=SEGMENTER, edges=edges,
                                                segmentation=segmentation)  # fmt: skip

    report, nmse, iou, score = measured(maps(pictures, "canny"), maps(pictures, "segmentation"))
    assert nmse == 0.0 and iou == 1.0 and score == -1.0 and "CLIP score: not measured" in report
    swapped = pictures.flip(0)
    assert measured(maps(swapped, "canny"), None)[1] > 0.5
    assert -1 <= measured(None, None, "a round red fruit on a green hill")[3] <= 1
    lines = measured(None, None, "a mirado\na quelba")[3]
    assert lines != measured(None, None, "a quelba\na mirado")[3]
    with pytest.raises(InputError, match="3 texts for 2 pictures"):
        measured(None, None, "a\nb\nc")
    with pytest.raises(InputError, match="3 edges maps for 2 pictures"):
        measured(torch.zeros(3, 32, 32, 3), None)
    small = maps(torch.nn.functional.interpolate(pictures.movedim(-1, 1), (64, 64)).movedim(1, -1), "segmentation")
    assert measured(None, small)[2] > 0.1 and image_to_classes(small).max() < 4


def test_pictures_are_evaluated_against_a_reference(pictures):
    def evaluated(image, texts="", reference=None):
        return EvaluatePictures().execute(image, "tiny-judge.safetensors", texts, **SCORE, reference=reference)

    report, distance, spread, score = evaluated(pictures, "a quelba", pictures)
    assert abs(distance) < 1e-3 and spread >= 1 and -1 <= score <= 1 and "FID-A" in report
    assert evaluated(pictures, reference=torch.rand(4, 32, 32, 3))[1] > distance
    assert evaluated(pictures[:1])[1:] == (-1.0, -1.0, -1.0)
    with pytest.raises(InputError, match="finite"):
        evaluated(pictures * math.nan)


def test_the_adapter_is_linear_in_its_strength_and_leaves_the_given_model_alone():
    model = current().model.load(paths.weights_dirs()[0] / "tiny-unet.safetensors")
    name = "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"
    weights = {s: _weight(KroneckerAdapterLoader().execute(model, "tiny-adapter.safetensors", s)[0], name) for s in (0.0, 0.5, 1.0)}
    assert torch.equal(weights[0.0], _weight(model, name)) and not torch.equal(weights[1.0], weights[0.0])
    assert torch.allclose(weights[0.5] - weights[0.0], (weights[1.0] - weights[0.0]) / 2, atol=1e-6)
    for strength in (math.nan, 1000.0):
        with pytest.raises(InputError, match="strength"):
            KroneckerAdapterLoader().execute(model, "tiny-adapter.safetensors", strength)
    with pytest.raises(BundleError):
        KroneckerAdapterLoader().execute(model, "tiny-unet.safetensors", 1.0)


def test_an_adapter_fits_a_low_rank_model_too():
    from rapiddraw.core.operations.factorize import factorize_model

    model = current().model.load(paths.weights_dirs()[0] / "tiny-unet.safetensors")
    low = factorize_model(model, "param_ratio", 0.7)[0]
    x, sigma, tokens = torch.randn(1, 4, 8, 8), torch.tensor([2.0]), torch.randn(1, 4, 32)
    adapted = KroneckerAdapterLoader().execute(low, "tiny-adapter.safetensors", 1.0)[0]
    assert not torch.allclose(adapted.model.apply_model(x, sigma, tokens), low.model.apply_model(x, sigma, tokens))
    there_and_back = KroneckerAdapterLoader().execute(adapted, "tiny-adapter.safetensors", -1.0)[0]
    assert torch.allclose(there_and_back.model.apply_model(x, sigma, tokens), low.model.apply_model(x, sigma, tokens), atol=1e-3)


def _weight(model, name):
    return model.model.diffusion_model.get_submodule(name).weight
