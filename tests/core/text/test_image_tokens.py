"""A picture as a prompt: how tokens are joined to a text's, and every way in which the parts can fail to fit."""

import pytest
import torch
from rapiddraw.core.bundles.format import BundleInfo, save_bundle
from rapiddraw.core.bundles.load import load_bundle
from rapiddraw.core.errors import BundleError, InputError
from rapiddraw.core.paths import file_sha256
from rapiddraw.core.text.image_tokens import ImageTokens, encode_variation, load_image_tokens, to_bundle
from rapiddraw.core.text.image_tower import ImageTower
from rapiddraw.core.text.image_tower import to_bundle as tower_to_bundle
from rapiddraw.tests.helpers import seeded


class Vision:
    """What a ComfyUI CLIP_VISION answers."""

    def __init__(self, width):
        self.width = width

    def encode_image(self, image):
        return {"image_embeds": torch.ones(len(image), self.width)}


@pytest.fixture
def files(tmp_path):
    tower = save_bundle(tmp_path / "tower.safetensors", *tower_to_bundle(seeded(lambda: ImageTower(16, (8, 8), 12).eval())))
    about = {"kind": "image", "sha256": file_sha256(tower)}
    return save_bundle(tmp_path / "tokens.safetensors", *to_bundle(seeded(lambda: ImageTokens(12, 8, 3, 16)), about, {})), tower


IMAGE = torch.rand(1, 20, 24, 3, generator=torch.Generator().manual_seed(0))


def test_tokens_follow_the_texts_and_grow_with_the_strength(files):
    text = torch.randn(1, 5, 16)
    conditioning = [[text, {"pooled_output": text[:, 0]}]]
    ((joined, details),) = encode_variation(IMAGE, *files, 1.0, conditioning)
    ((alone, _),) = encode_variation(IMAGE, *files, 1.0)
    assert joined.shape == (1, 8, 16) and torch.equal(joined[:, :5], text) and torch.equal(joined[:, 5:], alone)
    assert details == conditioning[0][1] and conditioning[0][0] is text
    assert torch.allclose(encode_variation(IMAGE, *files, 0.5)[0][0], alone / 2)
    assert encode_variation(IMAGE, *files, 0.0, conditioning) is conditioning
    assert not torch.equal(encode_variation(1 - IMAGE, *files, 1.0)[0][0], alone)


def test_a_batch_of_pictures_is_a_batch_of_prompts(files):
    pictures = torch.cat([IMAGE, 1 - IMAGE])
    ((joined, _),) = encode_variation(pictures, *files, 1.0, [[torch.randn(1, 5, 16), {}]])
    assert joined.shape == (2, 8, 16) and torch.equal(joined[0, :5], joined[1, :5]) and not torch.equal(joined[0, 5:], joined[1, 5:])
    with pytest.raises(InputError, match="3 prompts and 2 pictures"):
        encode_variation(pictures, *files, 1.0, [[torch.randn(3, 5, 16), {}]])


def test_what_does_not_fit_is_said(files, tmp_path):
    tokens, tower = files
    for strength in (-1, 11, float("nan")):
        with pytest.raises(InputError, match="strength"):
            encode_variation(IMAGE, tokens, tower, strength)
    with pytest.raises(InputError, match="IMAGE"):
        encode_variation(IMAGE[0], tokens, tower, 1.0)
    with pytest.raises(InputError, match="another text encoder"):
        encode_variation(IMAGE, tokens, tower, 1.0, [[torch.randn(1, 5, 20), {}]])
    other = save_bundle(tmp_path / "other.safetensors", *tower_to_bundle(seeded(lambda: ImageTower(16, (8, 8), 12).eval(), 1)))
    with pytest.raises(InputError, match="another image tower than other"):
        encode_variation(IMAGE, tokens, other, 1.0)


def test_a_users_clip_vision_needs_a_projection_of_its_own(files, tmp_path):
    tokens, tower = files
    with pytest.raises(InputError, match=r"no projection was trained for this CLIP_VISION \(1024 features\)"):
        encode_variation(IMAGE, tokens, tower, 1.0, clip_vision=Vision(1024))
    mine = save_bundle(tmp_path / "mine.safetensors", *to_bundle(ImageTokens(1024, 8, 3, 16), {"kind": "clip_vision"}, {}))
    assert encode_variation(IMAGE, mine, tower, 1.0, clip_vision=Vision(1024))[0][0].shape == (1, 3, 16)
    with pytest.raises(InputError, match="of a 'clip_vision'"):
        encode_variation(IMAGE, mine, tower, 1.0)


def test_broken_files_are_refused(files, tmp_path):
    bundle = load_bundle(files[0])
    assert load_image_tokens(bundle).config["tokens"] == 3
    for change in ({"tokens": 4}, {"width": 10**9}, {"embedding": "many"}, {"tower": None}):
        config = {key: value for key, value in {**bundle.info.config, **change}.items() if value is not None}
        path = save_bundle(tmp_path / "bad.safetensors", bundle.tensors, BundleInfo("image_tokens", config))
        with pytest.raises(BundleError, match=r"bad\.safetensors"):
            load_image_tokens(load_bundle(path))


def test_a_picture_alone_has_an_empty_pooled_state(files):
    for width, expected in ((None, 16), (7, 7)):
        ((_, details),) = encode_variation(IMAGE, *files, 1.0, pooled_width=width)
        assert details["pooled_output"].shape == (1, expected) and not details["pooled_output"].any()
    assert encode_variation(IMAGE, *files, 1.0, pooled_width=0)[0][1] == {}
    needed = encode_variation(IMAGE, *files, 1.0, pooled_width=0, needed=["attention_mask"])[0][1]
    assert needed.keys() == {"attention_mask"} and bool(needed["attention_mask"].all())
    with pytest.raises(InputError, match="conditioning_llama3"):
        encode_variation(IMAGE, *files, 1.0, needed=["conditioning_llama3"])
