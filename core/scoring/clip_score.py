"""CLIP scores: the similarity of pictures and texts in the space of a contrastive pre-training, as raw cosines, not scaled or clipped."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..bundles.load import load_bundle
from ..paths import image_bundle_path
from ..text.encoder import TextEncoder, load_text_encoder
from ..text.image_tower import ImageTower, load_image_tower

if TYPE_CHECKING:
    from ..knowledge.graph import KnowledgeGraph


class ClipScorer:
    """A text encoder and the image tower that was trained with it. With `knowledge`, names in a text get their vectors from the graph."""

    def __init__(self, encoder: TextEncoder, tower: ImageTower, knowledge: KnowledgeGraph | None = None) -> None:
        from ..knowledge.linking import wordpiece_linker
        from ..text.embed import KnowledgeTable

        self.encoder, self.tower = encoder, tower
        fits = knowledge is not None and knowledge.embeddings is not None and knowledge.dim == encoder.config["kg_dim"]
        self.table = KnowledgeTable(knowledge, wordpiece_linker(knowledge, encoder.tokenizer)) if knowledge is not None and fits else None

    @torch.no_grad()
    def texts(self, texts: Sequence[str], batch: int = 128) -> Tensor:
        """Return the unit vectors (N, d) of texts."""
        from ..text.embed import embed_texts

        return torch.cat([embed_texts(self.encoder, self.table, texts[i : i + batch]) for i in range(0, len(texts), batch)])

    @torch.no_grad()
    def images(self, pictures: Tensor, batch: int = 128) -> Tensor:
        """Return the unit vectors (B, d) of pictures (B, 3, H, W) in [-1, 1]."""
        return torch.cat([self.tower(part) for part in pictures.split(batch)])

    def score(self, pictures: Tensor, texts: Sequence[str]) -> Tensor:
        """Return (B,) cosines in [-1, 1] of each picture with its own text."""
        return (self.images(pictures) * self.texts(texts)).sum(dim=1)


def load_scorer(text: str | Path, knowledge: KnowledgeGraph | None = None) -> ClipScorer:
    """Load the scorer of a text bundle with the image bundle beside it (`my-text.safetensors`, `my-image.safetensors`), as `train text`
    writes them. Raises :class:`BundleError` where one is missing or damaged."""
    tower = load_image_tower(load_bundle(image_bundle_path(Path(text)), "image"))
    return ClipScorer(load_text_encoder(load_bundle(text, "text")).requires_grad_(False), tower.requires_grad_(False), knowledge)
