"""The embedded host's CLIP: the project's text encoder behind the socket that CLIPTextEncode expects."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from ..errors import KnowledgeError
from ..knowledge.graph import KnowledgeGraph
from ..knowledge.injection import check_dimensions, check_scale, inject
from ..knowledge.linking import EntityLink, Linker, wordpiece_linker
from ..text.encoder import TextEncoder
from .embedded_prompt import parse_weights, token_rows

ENCODER = "rapiddraw"  # the key of this encoder's rows in what `tokenize` returns


Rows = list[list[tuple[Any, ...]]]


@dataclass(frozen=True)
class Attachment:
    """A graph that a CLIP looks names up in, how strongly it is added, and what finds the names."""

    knowledge: KnowledgeGraph
    scale: float
    linker: Linker


class Clip:
    """A tokenizer, a text encoder and the knowledge attached to them. `clone()` before attaching: outputs of nodes are shared."""

    def __init__(self, encoder: TextEncoder, device: torch.device, attachments: tuple[Attachment, ...] = ()) -> None:
        self.encoder, self.device, self.attachments = encoder, device, attachments

    def clone(self) -> Clip:
        """The same encoder and attachments in an object of its own."""
        return Clip(self.encoder, self.device, self.attachments)

    def with_knowledge(self, knowledge: KnowledgeGraph, scale: float) -> Clip:
        """A clone that adds `scale * W e_kg` to the tokens of every entity it finds. Attaching a graph again replaces its scale.

        Raises :class:`KnowledgeError` where the graph has no vectors or some of another length than this encoder was trained with.
        """
        scale = check_scale(scale)
        if knowledge.embeddings is None:
            raise KnowledgeError("this graph has no vectors yet, only triples: train them first (python -m rapiddraw train kg --help)")
        check_dimensions(knowledge, self.encoder.config["kg_dim"])
        known = [one.linker for one in self.attachments if one.knowledge is knowledge]
        linker = known[0] if known else wordpiece_linker(knowledge, self.encoder.tokenizer)
        others = tuple(one for one in self.attachments if one.knowledge is not knowledge)
        return Clip(self.encoder, self.device, (*others, Attachment(knowledge, scale, linker)))

    def tokenize(self, text: str) -> dict[str, Rows]:
        """Rows of (id, weight), the context length each; at the tokens of a linked entity an embedding (width,) instead of an id."""
        plain = rows = self._plain_rows(text)
        for one in self.attachments:
            # Names are looked up in the plain ids, so that graphs do not hide names from each other.
            rows = inject(rows, one.linker.link(plain), one.knowledge, self._embed, self._project, one.scale)
        return {ENCODER: rows}

    def links(self, text: str) -> list[EntityLink]:
        """What :meth:`tokenize` links in `text`, graph by graph, in reading order."""
        rows = self._plain_rows(text)
        return [link for one in self.attachments for link in one.linker.link(rows)]

    def _plain_rows(self, text: str) -> Rows:
        config = self.encoder.config
        start, end, pad = config["bos_token_id"], config["eos_token_id"], config["pad_token_id"]
        return token_rows(parse_weights(text), self._token_ids, start, end, pad, self.encoder.length)

    def _token_ids(self, segment: str) -> list[int]:
        return self.encoder.tokenizer(segment, add_special_tokens=False, verbose=False)["input_ids"]

    @torch.no_grad()
    def _embed(self, token: int) -> torch.Tensor:
        return self.encoder.embed(torch.tensor([token], device=self.device))[0]

    @torch.no_grad()
    def _project(self, vector: torch.Tensor) -> torch.Tensor:
        return self.encoder.knowledge(vector.to(self.device))

    @torch.no_grad()
    def encode_from_tokens(self, tokens: dict[str, Rows]) -> tuple[torch.Tensor, torch.Tensor]:
        """(1, rows * length, width) hidden states, rows in one sequence, and the first row's pooled state (1, width).

        A weight w moves a token's state away from the empty prompt's at the same place: `z_empty + w (z - z_empty)`.
        """
        rows = tokens[ENCODER]
        is_weighted = any(token[1] != 1.0 for row in rows for token in row)
        to_encode = [[token[0] for token in row] for row in rows]
        if is_weighted:
            config = self.encoder.config
            padding = [config["pad_token_id"]] * (self.encoder.length - 2)
            to_encode.append([config["bos_token_id"], config["eos_token_id"], *padding])
        hidden, pooled = self._encode(to_encode)
        if is_weighted:
            empty, hidden = hidden[-1:], hidden[:-1]
            weights = torch.tensor([[token[1] for token in row] for row in rows], device=hidden.device)[..., None]
            hidden = torch.where(weights == 1.0, hidden, (hidden - empty) * weights + empty)
        return hidden.reshape(1, -1, hidden.shape[-1]).cpu(), pooled[:1].cpu()

    def encode_from_tokens_scheduled(self, tokens: dict[str, Rows]) -> list[list[Any]]:
        """CONDITIONING, under ComfyUI's name for the call."""
        cond, pooled = self.encode_from_tokens(tokens)
        return [[cond, {"pooled_output": pooled}]]

    def _encode(self, rows: list[list[Any]]) -> tuple[torch.Tensor, torch.Tensor]:
        encoder = self.encoder
        ids = torch.tensor([[0 if torch.is_tensor(token) else int(token) for token in row] for row in rows], device=self.device)
        embeddings = encoder.embed(ids)
        for i, row in enumerate(rows):
            for j, token in enumerate(row):
                if torch.is_tensor(token):
                    embeddings[i, j] = token.to(self.device, embeddings.dtype)
        return encoder.encode_embeddings(embeddings, (ids == encoder.end_id).int().argmax(dim=1))
