"""The nodes for two text encoders and for resolutions, on tiny models in the embedded host."""

from __future__ import annotations

import logging

import pytest
import torch
from rapiddraw.core.errors import InputError
from rapiddraw.core.host import Host, SamplingRun
from rapiddraw.nodes.attention import AttentionEntropyScale
from rapiddraw.nodes.conditioning import BilingualTextEncode, ConditioningConcatFeature, TextLoader
from rapiddraw.nodes.resolution import ConditioningSetResolutionIndex, ResolutionBucket
from rapiddraw.tests.helpers import write_unet


@pytest.fixture(scope="module")
def host():
    return Host("embedded")


@pytest.fixture(scope="module")
def models(host, tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    config = {"class_embed_type": "projection", "projection_class_embeddings_input_dim": 32 + 256}
    wide, told, plain = (write_unet(folder / f"{name}.safetensors", **more) for name, more in
                         (("wide", {"cross_attention_dim": 64}), ("told", config), ("plain", {})))  # fmt: skip
    return {path.stem: host.model.load(path) for path in (wide, told, plain)}


def draw(host, model, conds, latent):
    return host.sampling.sample(host.sampling.make_guider(model, *conds, 3.0), latent, SamplingRun(1, 2, "euler", "simple"))["samples"]


def test_two_encoders_draw_with_a_model_of_their_width(tiny_pack, host, models):
    (clip,) = TextLoader().execute("tiny-text.safetensors")
    (positive,) = BilingualTextEncode().execute(clip, clip, "a round fruit", "feature", models["wide"])
    (negative,) = BilingualTextEncode().execute(clip, clip, "", "feature")
    one = host.clip.encode(clip, "a round fruit")
    (joined,) = ConditioningConcatFeature().execute(one, one, "second", models["wide"])
    assert torch.equal(joined[0][0], positive[0][0])
    latent = ResolutionBucket().execute("5: 1:1 (1024x1024)", "texture", 0.125, 1, 32)[0]
    assert draw(host, models["wide"], (positive, negative), latent).shape == (1, 4, 8, 8)
    for make in (lambda: BilingualTextEncode().execute(clip, clip, "a", "feature", models["plain"]),
                 lambda: ConditioningConcatFeature().execute(one, one, "second", models["plain"])):  # fmt: skip
        with pytest.raises(InputError, match="64 features, the model attends to tokens of 32"):
            make()
    (longer,) = BilingualTextEncode().execute(clip, clip, "a", "token", models["plain"])
    assert longer[0][0].shape == (1, 64, 32)
    with pytest.raises(InputError, match="64"):  # where no model was linked, the sampler says it
        draw(host, models["plain"], (positive, negative), latent)
    assert TextLoader.IS_CHANGED("tiny-text.safetensors") == TextLoader.IS_CHANGED("tiny-text.safetensors")


def test_a_bucket_is_as_wide_as_it_says():
    rows = ResolutionBucket.INPUT_TYPES()["required"]["aspect"][0]
    latent, width, height, index = ResolutionBucket().execute(rows[0], "structure", 0.125, 3, 32)
    assert (width, height, index) == (256, 64, 0) and latent["samples"].shape == (3, 4, 8, 32)
    assert ResolutionBucket().execute(rows[10], "texture", 1.0, 1, 32)[1:] == (256, 1024, 10)
    for wrong in (("no row", "structure", 1.0, 1, 32), (rows[0], "both", 1.0, 1, 32), (rows[0], "structure", 1e9, 1, 32),
                  (rows[0], "structure", 1.0, 10**9, 32), (rows[0], "structure", 1.0, 1, 1)):  # fmt: skip
        with pytest.raises(InputError):
            ResolutionBucket().execute(*wrong)


def test_the_index_is_drawn_by_and_follows_the_latent_where_unset(host, models, tiny_pack, caplog):
    (clip,) = TextLoader().execute("tiny-text.safetensors")
    conds = [host.clip.encode(clip, text) for text in ("a round fruit", "")]
    latent = ResolutionBucket().execute("10: 1:4 (512x2048)", "structure", 0.0625, 1, 8)[0]
    pictures = []
    for index in (None, 10, 2):
        told = conds if index is None else [ConditioningSetResolutionIndex().execute(cond, index, models["told"])[0] for cond in conds]
        pictures.append(draw(host, models["told"], told, latent))
    assert torch.equal(pictures[0], pictures[1]) and not torch.allclose(pictures[0], pictures[2])
    assert not caplog.records and "rapiddraw_resolution_index" not in conds[0][0][1]
    with caplog.at_level(logging.INFO, "rapiddraw"):
        (ignored,) = ConditioningSetResolutionIndex().execute(conds[0], 3, models["plain"])
        same = draw(host, models["plain"], (ignored, conds[1]), latent)
    assert torch.equal(same, draw(host, models["plain"], conds, latent)) and "takes no resolution index" in caplog.text
    with pytest.raises(InputError, match="index 11"):
        ConditioningSetResolutionIndex().execute(conds[0], 11)
    with pytest.raises(InputError, match="pooled text state of 32"):
        draw(host, models["told"], [[[cond[0][0], {"pooled_output": torch.zeros(1, 9)}]] for cond in conds], latent)


def test_entropy_is_scaled_only_at_another_size(host, models, tiny_pack):
    (clip,) = TextLoader().execute("tiny-text.safetensors")
    conds = [host.clip.encode(clip, text) for text in ("a round fruit", "")]
    latent = {"samples": torch.zeros(1, 4, 8, 16)}
    plain = draw(host, models["plain"], conds, latent)
    assert torch.equal(draw(host, AttentionEntropyScale().execute(models["plain"], 128, 64)[0], conds, latent), plain)
    assert torch.equal(draw(host, AttentionEntropyScale().execute(models["plain"], 64, 128)[0], conds, latent), plain)  # the area counts
    smaller = AttentionEntropyScale().execute(models["plain"], 32, 32)[0]
    assert not torch.allclose(draw(host, smaller, conds, latent), plain)
    assert torch.equal(draw(host, models["plain"], conds, latent), plain)  # the one given stays as it was
    with pytest.raises(InputError, match="trained at"):
        AttentionEntropyScale().execute(models["plain"], 0, 64)
