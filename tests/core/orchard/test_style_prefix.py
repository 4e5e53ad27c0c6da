"""The prefix of a style takes the place of its words, in both languages."""

from __future__ import annotations

import random

import pytest
from rapiddraw.core.errors import InputError
from rapiddraw.core.orchard.captions import KINDS, LANGUAGES, STYLE_PREFIXES, caption, describe, with_prefix
from rapiddraw.core.orchard.world import STYLES, random_scene
from rapiddraw.core.text.tokenizer import build_vocabulary
from rapiddraw.core.train import make_recipe


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("style", STYLES)
def test_the_words_go_and_the_prefix_comes(language, style):
    for seed in range(20):
        scene = random_scene(random.Random(seed), style=style)
        text = caption(scene, None, language, KINDS[1], random.Random(seed))
        said = with_prefix(text, style)
        assert said.startswith(f"{STYLE_PREFIXES[style]} ") and said[2:] in text and len(said) < len(text)
        assert not any(word in said for word in ("photo", "picture", "cartoon", "drawing"))
    bare = describe(scene, None, ("sky",), language)
    assert with_prefix(bare, style) == f"{STYLE_PREFIXES[style]} {bare}"


def test_a_prefix_is_one_token_of_every_vocabulary():
    assert set(STYLE_PREFIXES.values()) <= set(build_vocabulary(["a fruit"]))


def test_a_share_out_of_range_is_refused():
    with pytest.raises(InputError, match="style_prefix"):
        make_recipe("unet", {"data": "x", "vae": "x", "text": "x", "style_prefix": 1.5}).check()
