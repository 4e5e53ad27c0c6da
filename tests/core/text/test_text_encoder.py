"""The text encoder is CLIP as Stable Diffusion calls it, with a place where knowledge enters."""

from __future__ import annotations

import copy

import pytest
import torch
from rapiddraw.core.bundles.format import BundleInfo, save_bundle
from rapiddraw.core.bundles.load import load_bundle
from rapiddraw.core.errors import BundleError, InputError
from rapiddraw.core.text.encoder import TextEncoder, default_config, load_text_encoder, to_bundle
from rapiddraw.core.text.image_tower import ImageTower, load_image_tower
from rapiddraw.core.text.image_tower import to_bundle as tower_bundle
from rapiddraw.core.text.tokenizer import build_vocabulary, encode_texts

VOCABULARY = build_vocabulary(["a photo of a red fruit"], ["mirado"])


def make(**changes):
    torch.manual_seed(0)
    config = default_config(len(VOCABULARY), hidden_size=32, intermediate_size=64, num_hidden_layers=2, projection_dim=16, kg_dim=8)
    return TextEncoder(config | changes, VOCABULARY).eval()


@pytest.fixture(scope="module")
def encoder():
    return make()


def ids(encoder, *texts):
    return encode_texts(encoder.tokenizer, texts)


@torch.no_grad()
def test_it_equals_transformers_own_forward(encoder):
    batch = ids(encoder, "a red mirado", "a photo of a red fruit " * 9, "")
    hidden, pooled = encoder.encode_ids(batch)
    theirs = encoder.text_model(batch)
    assert torch.allclose(hidden, theirs.last_hidden_state, atol=1e-5)
    assert torch.allclose(pooled, theirs.pooler_output, atol=1e-5)


@torch.no_grad()
def test_embeddings_of_ids_and_no_extra_change_nothing(encoder):
    batch = ids(encoder, "a red mirado")
    hidden, pooled = encoder.encode_ids(batch)
    end = (batch == encoder.end_id).int().argmax(1)
    for other in (encoder.encode_embeddings(encoder.embed(batch), end), encoder.encode_ids(batch, torch.zeros(1, 32, 32))):
        assert torch.equal(other[0], hidden)
        assert torch.equal(other[1], pooled)


@torch.no_grad()
def test_what_is_added_at_a_token_reaches_it_and_later_ones_only(encoder):
    batch = ids(encoder, "a red mirado")
    extra = torch.zeros(1, 32, 32)
    extra[0, 3] = 1.0
    changed = (encoder.encode_ids(batch, extra)[0] - encoder.encode_ids(batch)[0]).abs().sum(-1)[0]
    assert (changed[:3] == 0).all()
    assert (changed[3:] > 0).all()


@torch.no_grad()
def test_shorter_rows_give_the_same_states(encoder):
    batch = ids(encoder, "a red mirado")
    assert torch.allclose(encoder.encode_ids(batch[:, :12])[0], encoder.encode_ids(batch)[0][:, :12], atol=1e-5)


@torch.no_grad()
def test_projections(encoder):
    assert encoder.knowledge(torch.zeros(3, 8)).abs().sum() == 0
    assert torch.allclose(encoder.project(torch.randn(4, 32)).norm(dim=1), torch.ones(4), atol=1e-5)


@torch.no_grad()
def test_clip_skip_takes_an_earlier_layer(encoder):
    batch = ids(encoder, "a red mirado")
    end = (batch == encoder.end_id).int().argmax(1)
    last, second = (encoder.encode_embeddings(encoder.embed(batch), end, layer) for layer in (-1, -2))
    assert not torch.equal(last[0], second[0])
    assert torch.equal(last[1], second[1])
    with pytest.raises(InputError, match="layer=-3"):
        encoder.encode_embeddings(encoder.embed(batch), end, -3)


def rounded(network):
    """Return a copy of `network` with every weight rounded to float16, which is what a bundle keeps."""
    copied = copy.deepcopy(network)
    copied.load_state_dict({key: t.half().float() if t.is_floating_point() else t for key, t in network.state_dict().items()})
    return copied


@torch.no_grad()
def test_a_bundle_gives_the_encoder_back_with_its_weights_in_half_precision(encoder, tmp_path):
    encoder = rounded(encoder)
    path = save_bundle(tmp_path / "text.safetensors", *to_bundle(encoder, {"recipe": "test"}))
    bundle = load_bundle(path, "text")
    back = load_text_encoder(bundle)
    batch = ids(encoder, "a red mirado")
    assert torch.equal(back.encode_ids(batch)[0], encoder.encode_ids(batch)[0])
    assert back.vocabulary == VOCABULARY
    assert {k.split(".")[0] for k in bundle.tensors} == {"text_model", "text_projection", "kg_projection", "logit_scale"}


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"hidden_size": 4096}, "shape"),
        ({"hidden_size": 10**9}, "hidden_size"),
        ({"num_hidden_layers": 64}, "layers.63"),
        ({"kg_dim": 9}, "kg_projection"),
        ({"vocab_size": 9}, "vocab_size"),
        ({"hidden_size": "32"}, "hidden_size"),
    ],
)
def test_a_config_that_lies_is_refused_before_anything_is_built(encoder, tmp_path, changes, says):
    tensors, info = to_bundle(encoder)
    lying = BundleInfo("text", config=info.config | changes, extra=info.extra)
    path = save_bundle(tmp_path / "bad.safetensors", tensors, lying)
    with pytest.raises(BundleError, match=says):
        load_text_encoder(load_bundle(path, "text"))


@torch.no_grad()
def test_the_image_tower_round_trips_and_takes_any_size(tmp_path):
    torch.manual_seed(0)
    tower = rounded(ImageTower(32, (8, 16), 16).eval())
    back = load_image_tower(load_bundle(save_bundle(tmp_path / "image.safetensors", *tower_bundle(tower)), "image"))
    images = torch.rand(2, 3, 50, 40) * 2 - 1
    assert torch.equal(back(images), tower(images))
    assert torch.allclose(tower(images).norm(dim=1), torch.ones(2), atol=1e-5)
    with pytest.raises(InputError, match="multiple"):
        ImageTower(30, (8, 16), 16)
