"""Two text encoders for one model: features side by side, tokens one after the other, and what does not fit."""

from __future__ import annotations

import pytest
import torch
from rapiddraw.core.bundles.load import load_bundle
from rapiddraw.core.errors import InputError
from rapiddraw.core.host import Host
from rapiddraw.core.text.bilingual import check_width, encode_bilingual, joined_conditioning, joined_tokens, pad_tokens
from rapiddraw.core.text.encoder import load_text_encoder
from rapiddraw.core.text.tokenizer import build_vocabulary, make_tokenizer
from rapiddraw.tests.helpers import write_text, write_unet


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bilingual")
    write_text(folder / "zh.safetensors", seed=4, width=32)
    write_text(folder / "en.safetensors", seed=5, width=64)
    write_unet(folder / "both.safetensors", cross_attention_dim=96)
    write_unet(folder / "one.safetensors")
    return folder


def test_features_stand_side_by_side_and_the_pooled_state_is_the_english_one(folder):
    host = Host("embedded")
    zh, en = host.clip.load(folder / "zh.safetensors"), host.clip.load(folder / "en.safetensors")
    ((tokens, details),) = encode_bilingual(host, zh, en, "a round fruit")
    ((first, _),), ((second, english),) = host.clip.encode(zh, "a round fruit"), host.clip.encode(en, "a round fruit")
    assert torch.equal(tokens, torch.cat([first, second], dim=2)) and tokens.shape[2] == 96
    assert torch.equal(details["pooled_output"], english["pooled_output"])
    check_width(host, host.model.load(folder / "both.safetensors"), [[tokens, details]], "32 + 64")
    with pytest.raises(InputError, match=r"32 \+ 64 = 96 features, the model attends to tokens of 32"):
        check_width(host, host.model.load(folder / "one.safetensors"), [[tokens, details]], "32 + 64")


def test_the_shorter_text_is_padded_with_its_own_padding(folder):
    host = Host("embedded")
    zh, en = host.clip.load(folder / "zh.safetensors"), host.clip.load(folder / "en.safetensors")
    long = "xqzj " * 20  # spelled letter by letter in one vocabulary or the other: several rows

    with_rows = host.clip.encode(en, long)[0][0].shape[1]
    assert with_rows > 32
    short = host.clip.encode(zh, "a")
    pad = host.clip.encode(zh, "")[0][0][:, -1:]
    joined = joined_conditioning(short, host.clip.encode(en, long), pads=(pad, None))[0][0]
    assert joined.shape[1:] == (with_rows, 96)
    assert torch.equal(joined[:, 32:, :32], pad.expand(1, with_rows - 32, 32))
    own = joined_tokens(short[0][0], torch.zeros(1, 40, 8))
    assert torch.equal(own[:, 32:, :32], short[0][0][:, -1:].expand(1, 8, 32))
    assert pad_tokens(short[0][0], 8) is short[0][0]


def test_token_mode_needs_one_width():
    one, other = torch.randn(1, 3, 8), torch.randn(2, 5, 8)
    assert joined_tokens(one, other, "token").shape == (2, 8, 8)
    with pytest.raises(InputError, match="8 and 6 features"):
        joined_tokens(one, torch.randn(1, 3, 6), "token")
    for wrong in ((torch.zeros(2, 3, 8), torch.zeros(3, 3, 8)), (torch.zeros(3, 8), torch.zeros(1, 3, 8))):
        with pytest.raises(InputError, match="one batch"):
            joined_tokens(*wrong)
    with pytest.raises(InputError, match="mode"):
        joined_tokens(one, one, "sum")


def test_entries_pair_up_and_inputs_stay_as_they_are():
    first = [[torch.zeros(1, 2, 4), {"area": (1, 1, 0, 0), "pooled_output": torch.zeros(1, 4)}], [torch.ones(1, 2, 4), {"strength": 0.5}]]
    second = [[torch.full((1, 2, 3), 2.0), {"pooled_output": torch.ones(1, 3), "area": None}]]
    joined = joined_conditioning(first, second)
    assert [tokens.shape[2] for tokens, _ in joined] == [7, 7]
    assert joined[0][1]["area"] == (1, 1, 0, 0) and joined[1][1]["strength"] == 0.5
    assert all(torch.equal(details["pooled_output"], torch.ones(1, 3)) for _, details in joined)
    assert joined_conditioning(first[:1], second, pooled="first")[0][1]["pooled_output"].shape == (1, 4)
    assert "pooled_output" not in joined_conditioning(second, [[torch.zeros(1, 2, 3), {}]])[0][1]
    assert first[0][1]["pooled_output"].shape == (1, 4)
    with pytest.raises(InputError, match="2 and 3 entries"):
        joined_conditioning(first, second * 3)
    with pytest.raises(InputError, match="pooled"):
        joined_conditioning(first, second, pooled="both")


def test_an_encoder_of_chinese_alone_knows_no_latin_word(folder):
    zh = load_text_encoder(load_bundle(folder / "zh.safetensors")).tokenizer.convert_tokens_to_ids("[UNK]")
    vocabulary = build_vocabulary(["\u7ea2\u8272\u7684\u6c34\u679c, photo 7"], ["mirado"], latin=False)
    ids = make_tokenizer(vocabulary)("a red \u7ea2", add_special_tokens=False)["input_ids"]
    assert ids[:2] == [zh, zh] and ids[2] != zh and not any(c.isascii() and c.isalnum() for t in vocabulary[5:] for c in t)


def test_an_attention_mask_covers_both_texts():
    long = [[torch.zeros(1, 4, 2), {"attention_mask": torch.tensor([[1, 1, 1, 0]])}]]
    short = [[torch.zeros(1, 2, 2), {"attention_mask": torch.tensor([[1, 0]])}]]
    bare = [[torch.zeros(1, 2, 2), {}]]
    assert joined_conditioning(long, short)[0][1]["attention_mask"].tolist() == [[1, 1, 1, 0]]
    assert joined_conditioning(short, long)[0][1]["attention_mask"].tolist() == [[1, 1, 1, 0]]
    assert joined_conditioning(short, bare)[0][1]["attention_mask"].tolist() == [[1, 1]]
    assert joined_conditioning(long, short, "token")[0][1]["attention_mask"].tolist() == [[1, 1, 1, 0, 1, 0]]
    assert "attention_mask" not in joined_conditioning(bare, bare)[0][1]
