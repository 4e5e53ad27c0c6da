"""Texts as unit vectors in the space that they share with pictures, with or without knowledge."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..knowledge.graph import KnowledgeGraph
from ..knowledge.linking import Linker
from ..knowledge.names import NameFinder
from .encoder import TextEncoder


class KnowledgeTable:
    """A graph's vectors as one table for training: row 0 is nothing, row i + 1 is entity i."""

    def __init__(self, graph: KnowledgeGraph, linker: Linker) -> None:
        vectors = graph.embeddings if graph.embeddings is not None else torch.zeros(len(graph.entities), 1)
        self.vectors = torch.cat([torch.zeros(1, vectors.shape[1]), vectors])
        self.graph, self.linker, self.names = graph, linker, NameFinder(graph)

    def rows(self, ids: Sequence[int], length: int) -> list[int]:
        """Return, for each of `length` tokens of a text with content `ids`, the row of the entity that it names (0 for none)."""
        rows = [0] * length
        for link in self.linker.link_truncated(ids, length):
            rows[link.start : link.end] = [self.graph.index[link.entity] + 1] * (link.end - link.start)
        return rows


def tokenize_linked(encoder: TextEncoder, table: KnowledgeTable | None, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
    """Return token ids (B, L) and table rows (B, L) of texts. L is the length of the longest text; under a causal mask that changes
    nothing.
    """
    plain = list(texts) if table is None else [table.names.respell(text) for text in texts]
    whole = encoder.tokenizer(plain, add_special_tokens=False, verbose=False)["input_ids"]
    length = min(encoder.length, max(map(len, whole)) + 2)
    start, pad = int(encoder.config["bos_token_id"]), int(encoder.config["pad_token_id"])
    ids = torch.full((len(whole), length), pad, dtype=torch.long)
    rows = torch.zeros_like(ids)
    for i, content in enumerate(whole):
        row = [start, *content[: length - 2], encoder.end_id]
        ids[i, : len(row)] = torch.tensor(row)
        if table is not None:
            rows[i] = torch.tensor(table.rows(content, length))
    return ids, rows


def embed_texts(encoder: TextEncoder, table: KnowledgeTable | None, texts: Sequence[str], scale: float = 1.0) -> Tensor:
    """Return unit vectors (len(texts), projection_dim) in the space shared with images, with knowledge where `table` links names."""
    ids, rows = tokenize_linked(encoder, table, texts)
    extra = scale * encoder.knowledge(table.vectors[rows]) if table is not None and scale else None
    return encoder.project(encoder.encode_ids(ids, extra)[1])
