"""Graphs attached to a text encoder: the part that both hosts share, whatever tokenizers and encoders a CLIP has."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from ..errors import InputError, KnowledgeError
from ..language import is_text
from .graph import KnowledgeGraph
from .injection import Rows, check_dimensions, check_scale, inject
from .linking import EntityLink, Linker, make_linker
from .names import NameFinder
from .pieces import PieceLinker, mark_of, without_frame
from .projection import Projection, describe_widths

log = logging.getLogger("rapiddraw")
AnyLinker = Linker | PieceLinker


@dataclass(frozen=True)
class TokenSpace:
    """One encoder of a CLIP as far as knowledge goes. SD 1.5 has one (`l`), SDXL has two (`g` and `l`), each of its own width, Flux has
    `l` and `t5xxl`, Qwen-Image has a language model.

    `key` names its rows in what the CLIP's `tokenize` returns. `tokenizer` is transformers' or ComfyUI's own. `embed(ids)` gives token
    embeddings (len(ids), width) float32. `projection` is the W (width, kg_dim) that the encoder was trained with, `None` where it never saw
    a graph. `language` says that it is T5 or a language model: no CLIP, and perhaps with words around every prompt.
    """

    key: str
    width: int
    tokenizer: Any
    embed: Callable[[Sequence[int]], Tensor]
    projection: Tensor | None = None
    language: bool = False


@dataclass(frozen=True)
class Attachment:
    """A graph that a CLIP looks names up in, and how strongly it is added.

    `linkers` find the names by encoder, `weights` hold W by encoder, `names` finds names in a text however they are written.
    """

    knowledge: KnowledgeGraph
    scale: float
    linkers: Mapping[str, AnyLinker]
    weights: Mapping[str, Tensor]
    names: NameFinder


@dataclass(frozen=True)
class KnowledgeReader:
    """What a CLIP knows of graphs: its encoders, the graphs attached to it, and a fitted projection where it carries one."""

    spaces: tuple[TokenSpace, ...]
    attachments: tuple[Attachment, ...] = ()
    projection: Projection | None = None

    @property
    def widths(self) -> dict[str, int]:
        """The width of each encoder by its key."""
        return {space.key: space.width for space in self.spaces}

    def carrying(self, projection: Projection) -> KnowledgeReader:
        """Return the same reader with a fitted projection, which :meth:`attached` then uses."""
        return replace(self, projection=projection)

    def attached(self, knowledge: KnowledgeGraph, scale: float, projection: Projection | None = None) -> KnowledgeReader:
        """Return the same reader with `knowledge` attached at `scale`. Attaching a graph again replaces its scale and its W.

        W comes from `projection`, else from the projection that the reader carries, else from the encoders' own training. Raises
        :class:`InputError` for a scale out of range; :class:`KnowledgeError` for a graph without vectors, where there is no W, and where W
        does not fit the encoders or the graph.
        """
        scale = check_scale(scale)
        if knowledge.embeddings is None:
            raise KnowledgeError("this graph has no vectors yet, only triples: train them first (python -m rapiddraw train kg --help)")
        weights = self._weights(knowledge, projection or self.projection)
        known = [(one.linkers, one.names) for one in self.attachments if one.knowledge is knowledge]
        others = (one for one in self.attachments if one.knowledge is not knowledge)
        linkers, names = known[0] if known else (linkers_of(self.spaces, knowledge), NameFinder(knowledge))
        return replace(self, attachments=(*others, Attachment(knowledge, scale, linkers, weights, names)))

    def respell(self, text: str) -> str:
        """Return `text` with the attached graphs' names in plain letters, so that :meth:`inform` finds them in the text's tokens.

        Raises :class:`InputError` for a text with a lone surrogate, which no tokenizer takes.
        """
        if not is_text(text):
            raise InputError("the prompt holds half of a surrogate pair, which is no character; write it again")
        for one in self.attachments:
            text = one.names.respell(text)
        return text

    @property
    def framed(self) -> bool:
        """Whether an encoder may put words of its own around a prompt; :meth:`inform` must then see the rows of an empty text."""
        return any(space.language for space in self.spaces)

    def inform(self, rows: Mapping[str, Rows], empty: Mapping[str, Rows] | None = None) -> tuple[dict[str, Rows], list[EntityLink]]:
        """Return the token rows by encoder with what every attached graph knows added to the tokens of the names in them (see
        :func:`~.injection.inject`), and the links, graph by graph, in reading order.

        `empty` are the rows of an empty text, where the reader is `framed`: no name is looked for in the words around the prompt. Rows of
        other encoders stay as they are. Two encoders that find the same name at the same place make one link."""
        informed, found = dict(rows), dict[EntityLink, None]()
        for one in self.attachments:
            for space in (space for space in self.spaces if space.key in rows and space.key in one.weights):
                # Names are looked up in the plain ids, so that graphs do not hide names from each other.
                own = rows[space.key]
                links = one.linkers[space.key].link(without_frame(own, empty.get(space.key, ())) if space.language and empty else own)
                found.update(dict.fromkeys(links))
                informed[space.key] = inject(
                    informed[space.key], links, one.knowledge, _embed_with(space), _project_with(one.weights[space.key]), one.scale
                )
        return informed, list(found)

    def _weights(self, knowledge: KnowledgeGraph, projection: Projection | None) -> Mapping[str, Tensor]:
        if projection is not None:
            projection.check(self._fitted_widths(projection), knowledge)
            return projection.weights
        trained = {space.key: space.projection for space in self.spaces if space.projection is not None}
        if not trained or len(trained) < len(self.spaces):
            raise KnowledgeError(
                f"this CLIP was not trained to read knowledge graphs: it has {describe_widths(self.widths)} and no projection W, "
                "and an untrained one would add noise. Learn one from the names it knows with Fit Knowledge Projection "
                "(RapidDrawFitKnowledgeProjection), or choose one under `projection`, or use the CLIP of Load Bundles"
            )
        for weight in trained.values():
            check_dimensions(knowledge, int(weight.shape[1]))
        return trained

    def _fitted_widths(self, projection: Projection) -> dict[str, int]:
        """Return the widths that a projection must fit. One that was fitted for the CLIP encoders beside a T5 may lack the T5's."""
        lacking = [space.key for space in self.spaces if space.language and space.key not in projection.weights]
        if not lacking or len(lacking) == len(self.spaces):
            return self.widths
        log.warning(
            "%s was fitted without %s, whose tokens therefore hold no knowledge; fit one again with Fit Knowledge Projection",
            projection.name, " and ".join(lacking),
        )  # fmt: skip
        return {key: width for key, width in self.widths.items() if key not in lacking}


def _embed_with(space: TokenSpace) -> Callable[[int], Tensor]:
    return lambda token: space.embed([token])[0]


def _project_with(weight: Tensor) -> Callable[[Tensor], Tensor]:
    return lambda vector: weight @ vector.to(weight)


def linkers_of(spaces: Sequence[TokenSpace], knowledge: KnowledgeGraph) -> dict[str, AnyLinker]:
    """Return a linker for each encoder. Encoders whose tokenizers spell alike share one, because a large graph takes long to spell."""
    linkers: dict[str, AnyLinker] = {}
    made: list[tuple[Any, AnyLinker]] = []
    for space in spaces:
        vocabulary = (type(space.tokenizer), space.tokenizer.get_vocab())
        linker = next((linker for other, linker in made if other == vocabulary), None)
        if linker is None:
            mark = mark_of(vocabulary[1])
            linker = PieceLinker(knowledge, space.tokenizer, mark) if mark else make_linker(knowledge, space.tokenizer)
            made.append((vocabulary, linker))
        linkers[space.key] = linker
    return linkers
