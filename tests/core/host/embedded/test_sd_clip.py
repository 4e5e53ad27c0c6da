"""The CLIP of Stable Diffusion checkpoints: rows, layers, pooling; equality with ComfyUI's is tested in tests/comfyui."""

from __future__ import annotations

import pytest
import torch
from rapiddraw.core.errors import KnowledgeError
from rapiddraw.core.host.embedded.knowledge import encode_with_links
from rapiddraw.core.host.embedded.sd_clip import SdClip, SdEncoder
from rapiddraw.tests.helpers import tiny_graph
from rapiddraw.tests.sd_helpers import clip_network, write_tokenizer


@pytest.fixture(scope="module")
def clip(tmp_path_factory) -> SdClip:
    from transformers import CLIPTokenizer

    tokenizer = CLIPTokenizer.from_pretrained(write_tokenizer(tmp_path_factory.mktemp("tokenizer")))
    cpu = torch.device("cpu")
    small, large = clip_network(len(tokenizer), width=32), clip_network(len(tokenizer), width=64, seed=1)
    return SdClip(
        {
            "l": SdEncoder(small, tokenizer, cpu, pad=tokenizer.eos_token_id, hidden_layer=-2, is_normed=False),
            "g": SdEncoder(large, tokenizer, cpu, pad=0, hidden_layer=-2, is_normed=False),
        }
    )


@pytest.fixture(scope="module")
def single(clip: SdClip) -> SdClip:
    encoder = clip.encoders["l"]
    return SdClip({"l": SdEncoder(encoder.network, encoder.tokenizer, encoder.device, pad=encoder.end)})


def test_rows_are_padded_as_each_encoder_wants(clip: SdClip) -> None:
    rows, end = clip.tokenize("a red fruit"), clip.encoders["l"].end
    assert set(rows) == {"l", "g"} and len(rows["l"][0]) == len(rows["g"][0]) == 77
    ids = [token for token, _ in rows["l"][0]]
    count = ids.index(end)
    assert ids[0] == clip.encoders["l"].start and ids[count:] == [end] * (77 - count)
    assert [token for token, _ in rows["g"][0]] == [*ids[: count + 1], *[0] * (76 - count)]


def test_a_single_encoder_equals_transformers(single: SdClip) -> None:
    encoder = single.encoders["l"]
    hidden, pooled = single.encode_from_tokens(single.tokenize("a red fruit"))
    ids = torch.tensor([[token for token, _ in single.tokenize("a red fruit")["l"][0]]])
    with torch.no_grad():
        expected = encoder.network.text_model(input_ids=ids)
    torch.testing.assert_close(hidden, expected.last_hidden_state, rtol=1e-4, atol=1e-5)
    end = ids[0].tolist().index(encoder.end)
    torch.testing.assert_close(pooled, encoder.network.text_projection(expected.last_hidden_state[:, end]), rtol=1e-4, atol=1e-5)


def test_two_encoders_lie_side_by_side_and_the_last_one_pools(clip: SdClip) -> None:
    cond, details = clip.encode_from_tokens_scheduled(clip.tokenize("a red fruit"))[0]
    assert cond.shape == (1, 77, 96) and details["pooled_output"].shape == (1, 64)
    long = clip.encode_from_tokens(clip.tokenize("a red fruit " * 60))[0]
    assert long.shape[1] % 77 == 0 and long.shape[1] > 77


def test_the_layer_before_the_last_is_not_normed(clip: SdClip) -> None:
    encoder = clip.encoders["g"]
    ids = torch.tensor([[token for token, _ in clip.tokenize("a red fruit")["g"][0]]])
    with torch.no_grad():
        states = encoder.network.text_model(input_ids=ids, output_hidden_states=True).hidden_states
    hidden = clip.encode_from_tokens(clip.tokenize("a red fruit"))[0][..., 32:]
    torch.testing.assert_close(hidden, states[-2], rtol=1e-4, atol=1e-5)


def test_clip_skip_changes_a_clone_only(single: SdClip) -> None:
    rows = single.tokenize("a red fruit")
    before = single.encode_from_tokens(rows)[0]
    skipped = single.clone()
    skipped.clip_layer(-2)
    assert not torch.equal(skipped.encode_from_tokens(rows)[0], before) and torch.equal(single.encode_from_tokens(rows)[0], before)
    skipped.clip_layer(-24)  # more than there are: as if nothing were said, as in ComfyUI
    assert torch.equal(skipped.encode_from_tokens(rows)[0], before)


def test_more_layers_than_there_are_mean_each_encoders_own(clip: SdClip) -> None:
    skipped = clip.clone()
    skipped.clip_layer(-24)
    rows = clip.tokenize("a red fruit")
    assert torch.equal(skipped.encode_from_tokens(rows)[0], clip.encode_from_tokens(rows)[0])


def test_a_weight_moves_tokens_away_from_the_empty_prompt(clip: SdClip) -> None:
    plain, weighted, empty = (clip.encode_from_tokens(clip.tokenize(text))[0] for text in ("red fruit", "(red fruit:1.5)", ""))
    count = [token for token, _ in clip.tokenize("red fruit")["l"][0]].index(clip.encoders["l"].end)
    torch.testing.assert_close(weighted[:, 1:count], ((plain - empty) * 1.5 + empty)[:, 1:count], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(weighted[:, count:], plain[:, count:], rtol=1e-4, atol=1e-5)


def test_an_embedding_in_the_place_of_its_id_changes_nothing(single: SdClip) -> None:
    rows = single.tokenize("a red fruit")
    row = list(rows["l"][0])
    row[2] = (single.encoders["l"].embed(torch.tensor(row[2][0])).detach(), 1.0)
    assert torch.equal(single.encode_from_tokens({"l": [row]})[0], single.encode_from_tokens(rows)[0])


def test_knowledge_without_a_projection_is_refused(single: SdClip) -> None:
    assert encode_with_links(single, "mirado")[1] == []
    with pytest.raises(KnowledgeError, match="no projection"):
        single.reader.attached(tiny_graph(), 1.0)
