"""The embedded host's CLIP of a Stable Diffusion checkpoint: one or two CLIP text transformers behind the socket of CLIPTextEncode.

The rules are those of ComfyUI's `SD1ClipModel` and `SDXLClipModel`: SD 1.5 has one encoder, `l`, whose last layer is normed; SDXL has `l`
and `g`, whose states before the last layer, not normed, lie side by side, and `g` makes the pooled state.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ...knowledge.attach import KnowledgeReader, TokenSpace
from ...text.encoder import layer_states
from .prompt import parse_weights, token_rows
from .rows import Rows, embed_rows, encode_weighted


class SdEncoder:
    """One text transformer and its tokenizer.

    `network` is transformers' CLIPTextModelWithProjection, `pad` the id that fills a row up. `hidden_layer` (-2: the one before the last)
    says which layer's states are the tokens; None means the last, after the final layer norm. `is_normed`: whether other layers pass that
    norm as well. `width` are the features of a token, `length` the tokens of a row, start and end included.
    """

    def __init__(
        self, network: Any, tokenizer: Any, device: torch.device, *, pad: int, hidden_layer: int | None = None, is_normed: bool = True
    ) -> None:
        self.network, self.tokenizer, self.device = network.to(device), tokenizer, device
        self.pad, self.hidden_layer, self.is_normed = pad, hidden_layer, is_normed
        self.start, self.end = int(tokenizer.bos_token_id), int(tokenizer.eos_token_id)
        self.length, self.width = map(int, network.text_model.embeddings.position_embedding.weight.shape)

    def rows(self, text: str) -> Rows:
        """Return rows of (id, weight), weights `(text:1.2)` understood."""
        return token_rows(parse_weights(text), self.token_ids, self.start, self.end, self.pad, self.length)

    def token_ids(self, text: str) -> list[int]:
        """Return the ids of a text without start and end."""
        return self.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]

    def embed(self, ids: Tensor) -> Tensor:
        """Return token embeddings (..., width) of ids (...), without positions."""
        return self.network.text_model.embeddings.token_embedding(ids)

    def encode(self, rows: Rows, layer: int | None = None) -> tuple[Tensor, Tensor]:
        """Return (1, rows * length, width) hidden states and the first row's projected pooled state; see :func:`encode_weighted`.

        `layer` replaces `hidden_layer`, unless there are not so many. It runs under the caller's gradient mode.
        """
        empty = [self.start, self.end, *[self.pad] * (self.length - 2)]
        return encode_weighted(rows, empty, lambda tokens: self._states(tokens, layer))

    def _states(self, tokens: list[list[Any]], layer: int | None) -> tuple[Tensor, Tensor]:
        embeddings, ids = embed_rows(tokens, self.embed, self.device)
        states, norm = layer_states(self.network.text_model, embeddings), self.network.text_model.final_layer_norm
        last = hidden = norm(states[-1])
        if layer is None or -layer > len(states):
            layer = self.hidden_layer
        if layer is not None:
            hidden = norm(states[layer]) if self.is_normed else states[layer]
        end = (ids == self.end).int().argmax(dim=1)
        return hidden, self.network.text_projection(last[torch.arange(len(last), device=last.device), end])


class SdClip:
    """The CLIP socket. `encoders` by ComfyUI's keys, in the order their tokens lie side by side: `l`, or `l` and `g`. `clone()` before
    changing anything: outputs of nodes are shared."""

    def __init__(self, encoders: Mapping[str, SdEncoder], layer: int | None = None, reader: KnowledgeReader | None = None) -> None:
        self.encoders, self.layer = dict(encoders), layer
        self.reader = reader or KnowledgeReader(tuple(_space(key, encoder) for key, encoder in self.encoders.items()))

    def clone(self) -> SdClip:
        """Return a new object with the same encoders and graphs."""
        return self.with_reader(self.reader)

    def with_reader(self, reader: KnowledgeReader) -> SdClip:
        """Return a clone that knows the graphs of `reader`."""
        return SdClip(self.encoders, self.layer, reader)

    def clip_layer(self, layer: int) -> None:
        """Take the states of `layer` (-1 the last, -2 the one before, "clip skip") in every encoder that has so many."""
        self.layer = layer

    def tokenize(self, text: str) -> dict[str, Rows]:
        """Return rows of (id, weight) for each encoder. The tokens of a linked entity hold an embedding (width,) instead of an id."""
        return self.reader.inform(self.plain_rows(text))[0]

    def plain_rows(self, text: str) -> dict[str, Rows]:
        """Return the rows of (id, weight) of `text` for each encoder before any graph adds to them."""
        spelled = self.reader.respell(text)
        return {key: encoder.rows(spelled) for key, encoder in self.encoders.items()}

    @torch.no_grad()
    def encode_from_tokens(self, tokens: Mapping[str, Rows]) -> tuple[Tensor, Tensor]:
        """Return hidden states (1, T, sum of widths) of all encoders side by side, and the last encoder's pooled state (1, width)."""
        return self.states(tokens)

    def states(self, tokens: Mapping[str, Rows]) -> tuple[Tensor, Tensor]:
        """Return what :meth:`encode_from_tokens` does, under the caller's gradient mode."""
        encoded = [encoder.encode(tokens[key], self.layer) for key, encoder in self.encoders.items()]
        shortest = min(hidden.shape[1] for hidden, _ in encoded)
        return torch.cat([hidden[:, :shortest] for hidden, _ in encoded], dim=-1), encoded[-1][1]

    def encode_from_tokens_scheduled(self, tokens: Mapping[str, Rows]) -> list[list[Any]]:
        """Return the CONDITIONING of `tokens`. (The name is ComfyUI's.)"""
        cond, pooled = self.encode_from_tokens(tokens)
        return [[cond, {"pooled_output": pooled}]]


def _space(key: str, encoder: SdEncoder) -> TokenSpace:
    @torch.no_grad()
    def embed(ids: Sequence[int]) -> Tensor:
        return encoder.embed(torch.tensor(list(ids), device=encoder.device)).float()

    return TokenSpace(key, encoder.width, encoder.tokenizer, embed)
