"""Graphs attached to a text encoder: what both hosts do with them, whatever tokenizer and encoder they have."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor

from ..errors import KnowledgeError
from .graph import KnowledgeGraph
from .injection import Rows, check_dimensions, check_scale, inject
from .linking import EntityLink, Linker


@dataclass(frozen=True)
class Attachment:
    """A graph that a CLIP looks names up in, how strongly it is added, and what finds the names."""

    knowledge: KnowledgeGraph
    scale: float
    linker: Linker


def attach(
    attachments: Sequence[Attachment], knowledge: KnowledgeGraph, scale: float, kg_dim: int, make_linker: Callable[[], Linker]
) -> tuple[Attachment, ...]:
    """`attachments` and `knowledge` at `scale`. Attaching a graph again replaces its scale.

    Raises :class:`InputError` for a scale out of range, :class:`KnowledgeError` where the graph has no vectors or some of another length
    than `kg_dim`, which the encoder was trained with.
    """
    scale = check_scale(scale)
    if knowledge.embeddings is None:
        raise KnowledgeError("this graph has no vectors yet, only triples: train them first (python -m rapiddraw train kg --help)")
    check_dimensions(knowledge, kg_dim)
    known = [one.linker for one in attachments if one.knowledge is knowledge]
    others = (one for one in attachments if one.knowledge is not knowledge)
    return (*others, Attachment(knowledge, scale, known[0] if known else make_linker()))


def inform(rows: Rows, attachments: Sequence[Attachment], embed: Callable[[int], Tensor], project: Callable[[Tensor], Tensor]) -> Rows:
    """Token rows with what every attached graph knows added to the tokens of the names in them (see :func:`~.injection.inject`)."""
    informed = rows
    for one in attachments:
        # Names are looked up in the plain ids, so that graphs do not hide names from each other.
        informed = inject(informed, one.linker.link(rows), one.knowledge, embed, project, one.scale)
    return informed


def all_links(rows: Rows, attachments: Sequence[Attachment]) -> list[EntityLink]:
    """What :func:`inform` links in `rows`, graph by graph, in reading order."""
    return [link for one in attachments for link in one.linker.link(rows)]
