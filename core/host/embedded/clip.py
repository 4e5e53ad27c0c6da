"""The embedded host's CLIP: the project's text encoder behind the socket that CLIPTextEncode expects."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from ...bundles.load import load_bundle
from ...errors import InputError
from ...knowledge.attach import KnowledgeReader, TokenSpace
from ...text.encoder import TextEncoder, load_text_encoder
from . import process
from .prompt import parse_weights, token_rows
from .rows import Rows, embed_rows, encode_weighted

ENCODER = "rapiddraw"  # the key of this encoder's rows in what `tokenize` returns


class Clip:
    """A tokenizer, a text encoder and the knowledge attached to them. `clone()` before attaching: outputs of nodes are shared.

    `layer` counts from the last (-1) and says which layer's states are the tokens; see :meth:`clip_layer`.
    """

    def __init__(self, encoder: TextEncoder, device: torch.device, reader: KnowledgeReader | None = None, layer: int = -1) -> None:
        self.encoder, self.device, self.layer = encoder, device, layer
        self.reader = reader or KnowledgeReader((_space(encoder, device),))

    def clone(self) -> Clip:
        """Return a new object with the same encoder and graphs."""
        return self.with_reader(self.reader)

    def with_reader(self, reader: KnowledgeReader) -> Clip:
        """Return a clone that knows the graphs of `reader`."""
        return Clip(self.encoder, self.device, reader, self.layer)

    def clip_layer(self, layer: int) -> None:
        """Take the states of `layer` (-1 the last, -2 the one before, "clip skip"). A layer that is not there means the last."""
        self.layer = layer

    def tokenize(self, text: str) -> dict[str, Rows]:
        """Return rows of (id, weight), the context length each. Tokens of a linked entity hold an embedding (width,) instead of an id."""
        return self.reader.inform(self.plain_rows(text))[0]

    def plain_rows(self, text: str) -> dict[str, Rows]:
        """Return the rows of (id, weight) of `text` before any graph adds to them."""
        config = self.encoder.config
        start, end, pad = config["bos_token_id"], config["eos_token_id"], config["pad_token_id"]
        segments = parse_weights(self.reader.respell(text))
        return {ENCODER: token_rows(segments, self._token_ids, start, end, pad, self.encoder.length)}

    def _token_ids(self, segment: str) -> list[int]:
        return self.encoder.tokenizer(segment, add_special_tokens=False, verbose=False)["input_ids"]

    @torch.no_grad()
    def encode_from_tokens(self, tokens: dict[str, Rows]) -> tuple[torch.Tensor, torch.Tensor]:
        """Return (1, rows * length, width) hidden states and the first row's pooled state (1, width); see :func:`encode_weighted`."""
        return self.states(tokens)

    def states(self, tokens: dict[str, Rows]) -> tuple[torch.Tensor, torch.Tensor]:
        """Return what :meth:`encode_from_tokens` does, under the caller's gradient mode."""
        config = self.encoder.config
        padding = [config["pad_token_id"]] * (self.encoder.length - 2)
        return encode_weighted(tokens[ENCODER], [config["bos_token_id"], config["eos_token_id"], *padding], self._encode)

    def encode_from_tokens_scheduled(self, tokens: dict[str, Rows]) -> list[list[Any]]:
        """Return the CONDITIONING of `tokens`. (The name is ComfyUI's.)"""
        cond, pooled = self.encode_from_tokens(tokens)
        return [[cond, {"pooled_output": pooled}]]

    def _encode(self, rows: list[list[Any]]) -> tuple[torch.Tensor, torch.Tensor]:
        embeddings, ids = embed_rows(rows, self.encoder.embed, self.device)
        layer = self.layer if -self.layer <= self.encoder.config["num_hidden_layers"] else -1
        return self.encoder.encode_embeddings(embeddings, (ids == self.encoder.end_id).int().argmax(dim=1), layer)


def load(path: Path) -> Clip:
    """See :meth:`ClipTopic.load`."""
    encoder, device = load_text_encoder(load_bundle(path, "text")), process.device()
    return Clip(encoder.to(device).requires_grad_(False), device)


def encode(clip: Any, text: str) -> list[list[Any]]:
    """See :meth:`ClipTopic.encode`."""
    return clip.encode_from_tokens_scheduled(clip.tokenize(text))


@torch.no_grad()
def beside_pictures(clip: Any, texts: Sequence[str], width: int) -> torch.Tensor:
    """See :meth:`ClipTopic.beside_pictures`."""
    own = int(clip.encoder.config["projection_dim"]) if isinstance(clip, Clip) else clip.encode_from_tokens(clip.tokenize(""))[1].shape[-1]
    if own != width:
        raise InputError(f"the CLIP gives vectors of {own} features and the CLIP_VISION of {width}: link two that were trained together")
    pooled = torch.cat([clip.encode_from_tokens(clip.tokenize(text))[1] for text in texts])
    return (clip.encoder.project(pooled) if isinstance(clip, Clip) else pooled).float().cpu()


def _space(encoder: TextEncoder, device: torch.device) -> TokenSpace:
    @torch.no_grad()
    def embed(ids: Sequence[int]) -> torch.Tensor:
        return encoder.embed(torch.tensor(list(ids), device=device))

    return TokenSpace(ENCODER, encoder.width, encoder.tokenizer, embed, encoder.kg_projection.weight.detach())
