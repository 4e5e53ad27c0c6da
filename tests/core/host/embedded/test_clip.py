"""Encoding: weights, rows, and equality with transformers' own text model."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from rapiddraw.core.bundles.load import load_bundle
from rapiddraw.core.host.embedded.clip import Clip
from rapiddraw.core.text.encoder import load_text_encoder


@pytest.fixture(scope="module")
def clip(tiny_weights: Path) -> Clip:
    return Clip(load_text_encoder(load_bundle(tiny_weights / "tiny-text.safetensors")), torch.device("cpu"))


def encode(clip: Clip, text: str) -> tuple[torch.Tensor, torch.Tensor]:
    return clip.encode_from_tokens(clip.tokenize(text))


def test_plain_text_equals_the_encoder(clip: Clip) -> None:
    from rapiddraw.core.text.tokenizer import encode_texts

    hidden, pooled = encode(clip, "a round red fruit")
    with torch.no_grad():
        expected, expected_pooled = clip.encoder.encode_ids(encode_texts(clip.encoder.tokenizer, ["a round red fruit"]))
    assert hidden.shape == (1, 32, 32) and pooled.shape == (1, 32)
    assert torch.equal(hidden, expected) and torch.equal(pooled, expected_pooled)


def test_a_weight_moves_tokens_away_from_the_empty_prompt(clip: Clip) -> None:
    plain, weighted, empty = (encode(clip, text)[0] for text in ("red fruit", "(red fruit:1.5)", ""))
    tokens = len(clip.encoder.tokenizer("red fruit")["input_ids"]) - 2
    expected = (plain - empty) * 1.5 + empty
    torch.testing.assert_close(weighted[:, 1 : tokens + 1], expected[:, 1 : tokens + 1], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(weighted[:, tokens + 1 :], plain[:, tokens + 1 :], rtol=1e-5, atol=1e-6)


def test_weight_one_is_no_weight(clip: Clip) -> None:
    assert torch.equal(encode(clip, "(red fruit:1.0)")[0], encode(clip, "red fruit")[0])


def test_weight_zero_is_the_empty_prompt_at_that_token(clip: Clip) -> None:
    zeroed, empty = encode(clip, "(red:0)")[0], encode(clip, "")[0]
    torch.testing.assert_close(zeroed[:, 1], empty[:, 1], rtol=1e-5, atol=1e-6)


def test_long_prompts_make_rows_in_one_sequence_pooled_from_the_first(clip: Clip) -> None:
    hidden, pooled = encode(clip, "a " * 40)
    first, first_pooled = encode(clip, "a " * 30)
    assert hidden.shape == (1, 64, 32)
    torch.testing.assert_close(hidden[:, :32], first, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(pooled, first_pooled, rtol=1e-5, atol=1e-6)


def test_an_embedding_in_the_place_of_its_id_changes_nothing(clip: Clip) -> None:
    tokens = clip.tokenize("a red fruit")
    (row,) = tokens["rapiddraw"]
    replaced = [(clip.reader.spaces[0].embed([token])[0], weight) if token > 4 else (token, weight) for token, weight in row]
    hidden, pooled = clip.encode_from_tokens({"rapiddraw": [replaced]})
    assert torch.equal(hidden, encode(clip, "a red fruit")[0]) and torch.equal(pooled, encode(clip, "a red fruit")[1])


def test_conditioning_has_the_shape_nodes_expect(clip: Clip) -> None:
    ((tokens, details),) = clip.encode_from_tokens_scheduled(clip.tokenize("a fruit"))
    assert tokens.ndim == 3 and set(details) == {"pooled_output"} and not tokens.requires_grad
