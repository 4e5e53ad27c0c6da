"""Knowledge graphs attached to a CLIP of ComfyUI: ours, SD 1.5's, SDXL's, Flux's, Qwen-Image's, Wan's and others. Every encoder has its own
tokenizer, width and projection W: CLIP, T5, umT5 and language models (Qwen, Gemma, Llama, Mistral).

The clone gets a tokenizer whose rows hold embeddings at the tokens of a name, as textual inversion does in ComfyUI. Weights, rows beyond
the first, clip skip and LoRAs therefore work as always, before and after the graph. One case does not work: a LoRA that changes the token
embeddings themselves (common trainers make none) does not reach the tokens of a name.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import comfy.clip_model
import comfy.sd1_clip
import torch

from ...errors import KnowledgeError
from ...knowledge.attach import KnowledgeReader, TokenSpace
from ...knowledge.graph import KnowledgeGraph
from ...knowledge.linking import EntityLink
from ...knowledge.pieces import mark_of
from ...knowledge.projection import Projection

log = logging.getLogger("rapiddraw")


class KnowledgeTokenizer:
    """A tokenizer that adds the knowledge of the attached graphs to the tokens of a name. Everything else is the wrapped tokenizer's."""

    def __init__(self, base: Any, reader: KnowledgeReader) -> None:
        self.base, self.reader = base, reader

    def __getattr__(self, name: str) -> Any:
        if name == "base":  # not there yet: a copy that is being made
            raise AttributeError(name)
        return getattr(self.base, name)

    def tokenize_with_weights(self, text: str, return_word_ids: bool = False, **options: Any) -> dict[str, Any]:
        """Return rows as ComfyUI's tokenizers do, with an embedding (width,) instead of an id at the tokens of a linked entity."""
        rows = self.base.tokenize_with_weights(self.reader.respell(text), return_word_ids, **options)
        empty = self.base.tokenize_with_weights("", return_word_ids, **options) if self.reader.framed else None
        return self.reader.inform(rows, empty)[0]


def reader_of(clip: Any) -> KnowledgeReader:
    """See :meth:`KnowledgeTopic.reader_of`."""
    tokenizer, model = getattr(clip, "tokenizer", None), getattr(clip, "cond_stage_model", None)
    if isinstance(tokenizer, KnowledgeTokenizer):
        return tokenizer.reader
    spaces, others = [], []
    for name, encoder in model.named_children() if isinstance(model, torch.nn.Module) else ():
        if not isinstance(encoder, comfy.sd1_clip.SDClipModel):
            continue
        words = getattr(tokenizer, name, None) or getattr(tokenizer, f"clip_{name}", None)
        if isinstance(words, comfy.sd1_clip.SDTokenizer) and _is_read(encoder.transformer, words.tokenizer):
            key = name.removeprefix("clip_")  # a child `clip_l` has its rows under `l`
            spaces.append(_space(key, encoder.transformer, words.tokenizer, getattr(tokenizer, "kg_projection", None)))
        else:
            others.append(name)
    if not spaces:
        raise KnowledgeError(
            f"this CLIP ({type(model).__name__}) has no text encoder that knowledge can enter: that is CLIP, T5, BERT or a language "
            "model, with its own tokenizer"
        )
    if others:
        log.info("knowledge enters the encoders %s, not %s", ", ".join(space.key for space in spaces), ", ".join(others))
    return KnowledgeReader(tuple(spaces))


def attach(clip: Any, knowledge: KnowledgeGraph, scale: float, projection: Projection | None = None) -> Any:
    """See :meth:`KnowledgeTopic.attach`."""
    return _clone(clip, reader_of(clip).attached(knowledge, scale, projection))


def carry_projection(clip: Any, projection: Projection) -> Any:
    """See :meth:`KnowledgeTopic.carry_projection`."""
    return _clone(clip, reader_of(clip).carrying(projection))


def encode_with_links(clip: Any, text: str) -> tuple[Any, list[EntityLink]]:
    """See :meth:`KnowledgeTopic.encode_with_links`."""
    if not isinstance(clip.tokenizer, KnowledgeTokenizer):
        return clip.encode_from_tokens_scheduled(clip.tokenize(text)), []
    reader, plain = clip.tokenizer.reader, clip.clone()
    plain.tokenizer = clip.tokenizer.base
    tokens, links = reader.inform(plain.tokenize(reader.respell(text)), plain.tokenize("") if reader.framed else None)
    return clip.encode_from_tokens_scheduled(tokens), links


def _clone(clip: Any, reader: KnowledgeReader) -> Any:
    informed = clip.clone()
    informed.tokenizer = KnowledgeTokenizer(getattr(clip.tokenizer, "base", clip.tokenizer), reader)
    return informed


def _is_read(transformer: Any, tokenizer: Any) -> bool:
    """Return whether an encoder has token embeddings and a tokenizer of a kind in which names are found. ByT5's, of bytes, is none."""
    if not hasattr(transformer, "get_input_embeddings") or not hasattr(tokenizer, "get_vocab"):
        return False
    if isinstance(transformer, comfy.clip_model.CLIPTextModel):
        return True
    vocabulary = tokenizer.get_vocab()
    return mark_of(vocabulary) is not None or any(token.startswith("##") for token in vocabulary)


def _space(key: str, transformer: Any, tokenizer: Any, projection: torch.Tensor | None) -> TokenSpace:
    table = transformer.get_input_embeddings()

    def embed(ids: Sequence[int]) -> torch.Tensor:
        with torch.no_grad():  # through the module, which knows how its weight is stored (half, quantised)
            return table(torch.tensor([list(ids)], device=table.weight.device), out_dtype=torch.float32)[0]

    return TokenSpace(key, table.embedding_dim, tokenizer, embed, projection, not isinstance(transformer, comfy.clip_model.CLIPTextModel))
