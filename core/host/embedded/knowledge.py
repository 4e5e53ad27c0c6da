"""Knowledge graphs attached to a CLIP of the embedded host."""

from __future__ import annotations

from typing import Any

from ...knowledge.attach import KnowledgeReader
from ...knowledge.graph import KnowledgeGraph
from ...knowledge.linking import EntityLink
from ...knowledge.projection import Projection
from .clip import Clip
from .sd_clip import SdClip


def reader_of(clip: Clip | SdClip) -> KnowledgeReader:
    """See :meth:`KnowledgeTopic.reader_of`."""
    return clip.reader


def attach(clip: Clip | SdClip, knowledge: KnowledgeGraph, scale: float, projection: Projection | None = None) -> Clip | SdClip:
    """See :meth:`KnowledgeTopic.attach`."""
    return clip.with_reader(clip.reader.attached(knowledge, scale, projection))


def carry_projection(clip: Clip | SdClip, projection: Projection) -> Clip | SdClip:
    """See :meth:`KnowledgeTopic.carry_projection`."""
    return clip.with_reader(clip.reader.carrying(projection))


def encode_with_links(clip: Clip | SdClip, text: str) -> tuple[list[list[Any]], list[EntityLink]]:
    """See :meth:`KnowledgeTopic.encode_with_links`."""
    tokens, links = clip.reader.inform(clip.plain_rows(text))
    return clip.encode_from_tokens_scheduled(tokens), links
